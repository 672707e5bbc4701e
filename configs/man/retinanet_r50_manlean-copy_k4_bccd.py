# Lean, with units copied from the backbone: of the stages behind the cut's own, shared by the modules of a stage, and
# recomputed in backward like the backbone's.
_base_ = './retinanet_r50_manlean_k4_bccd.py'
copy = dict(_delete_=True, type='man_mm.SLM', cut_stage=False, neck=_base_.neck, head=dict(bbox_head=_base_.head))
model = dict(backbone=dict(backbone=dict(with_cp=True), share='stage', auxiliary=copy))
