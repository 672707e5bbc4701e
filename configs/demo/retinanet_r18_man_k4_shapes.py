_base_ = './retinanet_r18_bp_shapes.py'
from man_mm.config import local_learning

model, optim_wrapper, custom_hooks, find_unused_parameters = local_learning(
    _base_, num_modules=4, auxiliary=dict(type='man_mm.SLM', neck=_base_.model.neck)
)
# a short console line, and local losses averaged over as many steps as the main loss
custom_hooks[-1].update(log='total')
log_processor = dict(
    custom_cfg=[dict(data_src=f'local_0{i}/total', method_name='mean', window_size=50) for i in range(3)]
)
