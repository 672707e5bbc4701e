_base_ = 'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py'
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
# upstream's own hook, an average of the weights, stays beside ours: a list is replaced, not joined
custom_hooks = [
    dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL'),
    dict(type='man_mm.FeatureBankHook'),
]
find_unused_parameters = True
default_hooks = dict(checkpoint=dict(type='man_mm.SafeCheckpointHook'))
