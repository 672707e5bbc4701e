_base_ = './retinanet_r34_man_k17_coco.py'
# the paper's Table 4 without the shared head: every module has a lighter one of its own,
# copied here: --cfg-options of model.bbox_head do not reach it
head = _base_.model.bbox_head.to_dict()
head.update(stacked_convs=1, feat_channels=64)
model = dict(backbone=dict(auxiliary=dict(head=dict(bbox_head=head))))
