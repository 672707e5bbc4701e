_base_ = ['../bp/resnet32_bp_cifar10.py', '../_base_/local_learning.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='man_mm.LocalBackbone',
        backbone={{_base_.model.backbone}},
        num_modules=16,
        probe_size=(32, 32),
        auxiliary=dict(type='man_mm.SLM', init='random', head='private', bank_vectors=True),
    )
)
optim_wrapper = dict(type='man_mm.LocalOptimWrapper')
