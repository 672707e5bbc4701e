_base_ = ['mmpretrain::resnet/resnet50_8xb32_in1k.py', '../_base_/local_learning.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='man_mm.LocalBackbone',
        backbone={{_base_.model.backbone}},
        num_modules=17,
        auxiliary=dict(type='man_mm.SLM', head='private', bank_vectors=True),
    )
)
optim_wrapper = dict(type='man_mm.LocalOptimWrapper')
default_hooks = dict(checkpoint=dict(type='man_mm.SafeCheckpointHook'))
