# Lean: slim auxiliaries, whose heads have half of the anchors, and every module is stepped at once; three modules, cut
# by memory: the stem and the first stage hold as much as the rest.
_base_ = './retinanet_r18_bp_shapes.py'
from man_mm.config import local_learning

neck = _base_.model.neck.to_dict()
neck.update(out_channels=16)
head = _base_.model.bbox_head.to_dict()
head.update(in_channels=16, feat_channels=16, stacked_convs=1)
head['anchor_generator'].update(scales_per_octave=1)
model, optim_wrapper, custom_hooks, find_unused_parameters = local_learning(
    _base_,
    num_modules=3,
    partition='memory',
    probe_size=(192, 192),
    auxiliary=dict(type='man_mm.SlimSLM', neck=neck, head=dict(bbox_head=head)),
)
optim_wrapper.update(eager_step=True, clip_grad=dict(per_module=True))
custom_hooks[-1].update(log='total')
functions = ['bbox_head.forward_single', 'bbox_head.loss_by_feat_single']
custom_hooks.append(dict(type='man_mm.ActivationCheckpointHook', functions=functions))
