# Lean, and every residual block is recomputed in backward.
_base_ = './retinanet_r101_manlean_k34_coco.py'
model = dict(backbone=dict(backbone=dict(with_cp=True)))
