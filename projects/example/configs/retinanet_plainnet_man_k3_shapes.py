# Our detector, your backbone: MAN in three modules.
_base_ = ['./man_mm.py', 'man_mm::demo/retinanet_r18_man_k4_shapes.py']
custom_imports = dict(imports=['my_project'], allow_failed_imports=False)
neck = dict(in_channels=[8, 16, 32, 64])
model = dict(
    backbone=dict(
        backbone=dict(_delete_=True, type='PlainNet', width=8),
        num_modules=3,
        auxiliary=dict(neck=neck),
    ),
    neck=neck,
)
