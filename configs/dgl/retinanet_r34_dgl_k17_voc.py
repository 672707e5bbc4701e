_base_ = '../bp/retinanet_r34_bp_voc.py'
from man_mm.config import local_learning

model, optim_wrapper, custom_hooks, find_unused_parameters = local_learning(
    _base_, num_modules=17, auxiliary=dict(type='man_mm.DGLPyramid', neck=_base_.model.neck)
)
