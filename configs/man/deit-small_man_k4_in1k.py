_base_ = ['mmpretrain::deit/deit-small_4xb256_in1k.py', '../_base_/local_learning.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='man_mm.LocalBackbone',
        backbone={{_base_.model.backbone}},
        num_modules=4,
        auxiliary=dict(type='man_mm.SLM', head='private'),
    )
)
optim_wrapper = dict(type='man_mm.LocalOptimWrapper')
default_hooks = dict(checkpoint=dict(type='man_mm.SafeCheckpointHook'))
