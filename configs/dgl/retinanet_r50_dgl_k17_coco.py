_base_ = ['../bp/retinanet_r50_bp_coco.py', '../_base_/local_learning.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='man_mm.LocalBackbone',
        backbone={{_base_.model.backbone}},
        num_modules=17,
        auxiliary=dict(type='man_mm.DGLPyramid', neck={{_base_.model.neck}}),
    )
)
optim_wrapper = dict(type='man_mm.LocalOptimWrapper')
