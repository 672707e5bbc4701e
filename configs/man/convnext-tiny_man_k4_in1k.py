_base_ = 'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py'
from man_mm.config import local_learning

model, optim_wrapper, custom_hooks, find_unused_parameters = local_learning(
    _base_, num_modules=4, auxiliary=dict(type='man_mm.SLM', head='private')
)
default_hooks = dict(checkpoint=dict(type='man_mm.SafeCheckpointHook'))
