# Lean, with whole units copied from the backbone as SLMs have them, shared by the modules of a stage, and all blocks
# recomputed in backward.
_base_ = './retinanet_r152_manlean_k51_coco.py'
copy = dict(_delete_=True, type='man_mm.SLM', neck=_base_.neck, head=dict(bbox_head=_base_.head))
model = dict(backbone=dict(backbone=dict(with_cp=True), share='stage', auxiliary=copy))
