_base_ = 'mmdet::regnet/retinanet_regnetx-800MF_fpn_1x_coco.py'
from man_mm.config import local_learning

model, optim_wrapper, custom_hooks, find_unused_parameters = local_learning(
    _base_, num_modules=4, auxiliary=dict(type='man_mm.SLM', neck=_base_.model.neck, shared_head_grad='mean')
)
default_hooks = dict(checkpoint=dict(type='man_mm.SafeCheckpointHook'))
