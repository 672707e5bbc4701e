_base_ = ['../bp/yolov1_r152_bp_voc.py', '../_base_/local_learning.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='man_mm.LocalBackbone',
        backbone={{_base_.model.backbone}},
        num_modules=51,
        # the head learns from K losses: their sum would be K times the learning rate of its BP twin
        auxiliary=dict(type='man_mm.SLM', shared_head_grad='mean'),
    )
)
optim_wrapper = dict(type='man_mm.LocalOptimWrapper')
