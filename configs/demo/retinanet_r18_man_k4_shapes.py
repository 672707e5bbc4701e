_base_ = ['./retinanet_r18_bp_shapes.py', '../_base_/local_learning.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='man_mm.LocalBackbone',
        backbone={{_base_.model.backbone}},
        num_modules=4,
        auxiliary=dict(type='man_mm.SLM', neck={{_base_.model.neck}}),
    )
)
optim_wrapper = dict(type='man_mm.LocalOptimWrapper')
# a short console line, and local losses averaged over as many steps as the main loss
custom_hooks = [dict(type='man_mm.FeatureBankHook', log='total')]
log_processor = dict(
    custom_cfg=[dict(data_src=f'local_0{i}/total', method_name='mean', window_size=50) for i in range(3)]
)
