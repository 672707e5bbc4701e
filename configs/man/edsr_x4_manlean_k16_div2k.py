# Lean: the SLM makes its image by one convolution and pixel shuffle, and every module is stepped at once.
_base_ = 'edsr_x4_man_k16_div2k.py'
upsample = dict(type='pixel_shuffle', in_channels=64, out_channels=3, scale_factor=4, upsample_kernel=3)
model = dict(generator=dict(auxiliary=dict(tail=dict(upsample=upsample, conv_last=None))))
optim_wrapper = dict(eager_step=True)
load_from = 'work_dirs/edsr_x2_manlean_k16_div2k/iter_300000.pth'
