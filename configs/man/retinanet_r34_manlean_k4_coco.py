# Lean: slim auxiliaries, whose heads have a third of the anchors; every module is stepped at once; the model's own
# head is recomputed level by level.
_base_ = './retinanet_r34_man_k17_coco.py'
neck = _base_.model.neck.to_dict()
neck.update(out_channels=64)
head = _base_.model.bbox_head.to_dict()  # copied here: --cfg-options of model.bbox_head do not reach it
head.update(in_channels=64, feat_channels=64, stacked_convs=1)
head['anchor_generator'].update(scales_per_octave=1)
slim = dict(_delete_=True, type='man_mm.SlimSLM', neck=neck, head=dict(bbox_head=head))
model = dict(backbone=dict(num_modules=4, partition='memory', probe_size=(512, 512), auxiliary=slim))
optim_wrapper = dict(eager_step=True)
functions = ['bbox_head.forward_single', 'bbox_head.loss_by_feat_single']
custom_hooks = [*_base_.custom_hooks, dict(type='man_mm.ActivationCheckpointHook', functions=functions)]
