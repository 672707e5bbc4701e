_base_ = '../bp/retinanet_r101_bp_coco.py'
from man_mm.config import local_learning

# the head learns from K losses: their sum would be K times the learning rate of its BP twin
model, optim_wrapper, custom_hooks, find_unused_parameters = local_learning(
    _base_, num_modules=34, auxiliary=dict(type='man_mm.SLM', neck=_base_.model.neck, shared_head_grad='mean')
)
