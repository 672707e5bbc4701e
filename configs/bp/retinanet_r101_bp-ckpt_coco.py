# Back-propagation with every residual block recomputed in backward.
_base_ = './retinanet_r101_bp_coco.py'
model = dict(backbone=dict(with_cp=True))
