# Your model, your backbone, your auxiliary; the data and the schedule are ours. The keys of local learning are
# written out: no base has a model to wrap.
_base_ = [
    './man_mm.py',
    'mmdet::_base_/default_runtime.py',
    'man_mm::_base_/shapes_detection.py',
    'man_mm::_base_/shapes_schedule.py',
]
custom_imports = dict(imports=['my_project'], allow_failed_imports=False)
model = dict(
    type='Counter',
    backbone=dict(
        type='man_mm.LocalBackbone',
        backbone=dict(type='PlainNet', width=8),
        num_modules=3,
        auxiliary=dict(type='MeanProbe'),
    ),
    channels=64,
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
)
optim_wrapper = dict(type='man_mm.LocalOptimWrapper')
custom_hooks = [dict(type='man_mm.FeatureBankHook')]
find_unused_parameters = True
val_dataloader = val_evaluator = val_cfg = None
test_dataloader = test_evaluator = test_cfg = None
