_base_ = 'mmdet::detr/detr_r50_8xb2-150e_coco.py'
from man_mm.config import local_learning

model, optim_wrapper, custom_hooks, find_unused_parameters = local_learning(
    _base_, num_modules=4, auxiliary=dict(type='man_mm.SLM', neck=_base_.model.neck)
)
# upstream's multiplier of `backbone` is for pretrained weights; it would reach the auxiliaries' necks too
optim_wrapper.update(paramwise_cfg=dict(custom_keys={'backbone.auxiliaries': dict(lr_mult=1.0)}))
default_hooks = dict(checkpoint=dict(type='man_mm.SafeCheckpointHook'))
