# The module's output through the tail of the network, without the bank: local learning as it was before MAN.
_base_ = '../bp/edsr_x4_bp_div2k.py'
model = dict(
    generator=dict(
        _delete_=True,
        type='man_mm.LocalBackbone',
        backbone={{_base_.model.generator}},
        num_modules=16,
        bank=False,
        auxiliary=dict(type='man_mm.SLM', units_per_stage=0),
    )
)
optim_wrapper = dict(type='man_mm.LocalOptimWrapper')
custom_hooks = [dict(type='man_mm.FeatureBankHook')]
find_unused_parameters = True
load_from = 'work_dirs/edsr_x2_dgl_k16_div2k/iter_300000.pth'
