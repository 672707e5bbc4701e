# Lean: the auxiliary makes its image by conv_after_body, one convolution and pixel shuffle; every module is stepped
# at once; the two units that share a module are cheap ones; the network's tail runs on an eighth of a batch at a time.
_base_ = 'edsr_x3_man_k16_div2k.py'
upsample = dict(type='pixel_shuffle', in_channels=64, out_channels=3, scale_factor=3, upsample_kernel=3)
slim = dict(units_per_stage=0, tail=dict(upsample=upsample, conv_last=None))
model = dict(generator=dict(partition='memory', probe_size=(48, 48), tail_chunks=8, auxiliary=slim))
optim_wrapper = dict(eager_step=True)
load_from = 'work_dirs/edsr_x2_manlean_k16_div2k/iter_300000.pth'
