_base_ = '../bp/vgg11_bp_cifar10.py'
from man_mm.config import local_learning

model, optim_wrapper, custom_hooks, find_unused_parameters = local_learning(
    _base_,
    num_modules=8,
    probe_size=(32, 32),
    auxiliary=dict(type='man_mm.SLM', init='random', head='private', bank_vectors=True),
)
