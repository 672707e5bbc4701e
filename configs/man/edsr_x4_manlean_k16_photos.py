# Lean: the auxiliary makes its image by conv_after_body, one convolution and pixel shuffle; every module is stepped
# at once; the two units that share a module are cheap ones; the network's tail runs on an eighth of a batch at a time.
_base_ = 'edsr_x4_man_k16_photos.py'
upsample = dict(type='pixel_shuffle', in_channels=32, out_channels=3, scale_factor=4, upsample_kernel=3)
slim = dict(units_per_stage=0, tail=dict(upsample=upsample, conv_last=None))
model = dict(generator=dict(partition='memory', probe_size=(48, 48), tail_chunks=8, auxiliary=slim))
optim_wrapper = dict(eager_step=True)
