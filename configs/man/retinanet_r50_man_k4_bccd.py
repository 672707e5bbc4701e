_base_ = '../bp/retinanet_r50_bp_bccd.py'
from man_mm.config import local_learning

model, optim_wrapper, custom_hooks, find_unused_parameters = local_learning(
    _base_, num_modules=4, auxiliary=dict(type='man_mm.SLM', neck=_base_.model.neck)
)
