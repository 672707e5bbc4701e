_base_ = './retinanet_r18_bp_shapes.py'
from man_mm.config import local_learning

model, optim_wrapper, custom_hooks, find_unused_parameters = local_learning(
    _base_, num_modules=4, auxiliary=dict(type='man_mm.SLM', neck=_base_.model.neck)
)
custom_hooks[-1].update(log='total')  # a short console line
