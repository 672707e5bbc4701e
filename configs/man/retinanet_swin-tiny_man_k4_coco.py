_base_ = ['mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py', '../_base_/local_learning.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='man_mm.LocalBackbone',
        backbone={{_base_.model.backbone}},
        num_modules=4,
        auxiliary=dict(type='man_mm.SLM', neck={{_base_.model.neck}}, shared_head_grad='mean'),
    )
)
optim_wrapper = dict(type='man_mm.LocalOptimWrapper')
default_hooks = dict(checkpoint=dict(type='man_mm.SafeCheckpointHook'))
