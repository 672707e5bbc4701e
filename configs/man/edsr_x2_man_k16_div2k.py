_base_ = '../bp/edsr_x2_bp_div2k.py'
from man_mm.config import local_learning

model, optim_wrapper, custom_hooks, find_unused_parameters = local_learning(
    _base_, num_modules=16, auxiliary=dict(type='man_mm.SLM')
)
