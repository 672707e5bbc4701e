# Back-propagation in mixed precision.
_base_ = './retinanet_r50_bp_coco.py'
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic')
