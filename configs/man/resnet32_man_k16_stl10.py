_base_ = '../bp/resnet32_bp_stl10.py'
from man_mm.config import local_learning

model, optim_wrapper, custom_hooks, find_unused_parameters = local_learning(
    _base_,
    num_modules=16,
    probe_size=(96, 96),
    auxiliary=dict(type='man_mm.SLM', init='random', head='private', bank_vectors=True),
)
