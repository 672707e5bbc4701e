_base_ = ['../bp/yolov1_r50_bp_cutpaste.py', '../_base_/local_learning.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='man_mm.LocalBackbone',
        backbone={{_base_.model.backbone}},
        num_modules=4,
        auxiliary=dict(type='man_mm.SLM'),
    )
)
optim_wrapper = dict(type='man_mm.LocalOptimWrapper')
