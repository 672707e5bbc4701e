# Everything behind the stem recomputed in backward, in mixed precision.
_base_ = './retinanet_r50_bp-ckptall_coco.py'
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic')
