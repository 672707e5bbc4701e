# MAN in mixed precision.
_base_ = './retinanet_r50_man_k17_coco.py'
optim_wrapper = dict(type='man_mm.LocalAmpOptimWrapper', loss_scale='dynamic')
