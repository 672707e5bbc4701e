# Lean, and every residual block is recomputed in backward.
_base_ = './retinanet_r50_manlean_k17_coco.py'
model = dict(backbone=dict(backbone=dict(with_cp=True)))
