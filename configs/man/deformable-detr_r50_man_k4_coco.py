_base_ = ['mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py', '../_base_/local_learning.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='man_mm.LocalBackbone',
        backbone={{_base_.model.backbone}},
        num_modules=4,
        auxiliary=dict(type='man_mm.SLM', neck={{_base_.model.neck}}),
    )
)
# upstream's multiplier of `backbone` is for pretrained weights; it would reach the auxiliaries' necks too
optim_wrapper = dict(
    type='man_mm.LocalOptimWrapper',
    paramwise_cfg=dict(custom_keys={'backbone.auxiliaries': dict(lr_mult=1.0)}),
)
default_hooks = dict(checkpoint=dict(type='man_mm.SafeCheckpointHook'))
