# Lean, and every residual block is recomputed in backward.
_base_ = './retinanet_r152_manlean_k51_coco.py'
model = dict(backbone=dict(backbone=dict(with_cp=True)))
