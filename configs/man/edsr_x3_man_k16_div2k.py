_base_ = '../bp/edsr_x3_bp_div2k.py'
model = dict(
    generator=dict(
        _delete_=True,
        type='man_mm.LocalBackbone',
        backbone={{_base_.model.generator}},
        num_modules=16,
        auxiliary=dict(type='man_mm.SLM'),
    )
)
optim_wrapper = dict(type='man_mm.LocalOptimWrapper')
custom_hooks = [dict(type='man_mm.FeatureBankHook')]
find_unused_parameters = True
load_from = 'work_dirs/edsr_x2_man_k16_div2k/iter_300000.pth'
