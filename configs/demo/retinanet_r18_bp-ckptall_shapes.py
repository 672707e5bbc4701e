# Back-propagation with everything behind the stem recomputed in backward: blocks, neck, head level by level.
_base_ = './retinanet_r18_bp_shapes.py'
model = dict(backbone=dict(with_cp=True))
functions = ['neck', 'bbox_head.forward_single', 'bbox_head.loss_by_feat_single']
custom_hooks = [dict(type='man_mm.ActivationCheckpointHook', functions=functions)]
