# Lean with copied units that follow those that they mirror; necks and heads alone train.
_base_ = './retinanet_r50_manlean-copy_k4_coco.py'
model = dict(backbone=dict(auxiliary=dict(follow='ema')))
