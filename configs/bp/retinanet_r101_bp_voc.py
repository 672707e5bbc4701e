_base_ = [
    '../_base_/retinanet_r50.py',
    '../_base_/voc07_detection_400.py',
    '../_base_/schedule_160e_batch64.py',
]
model = dict(
    backbone=dict(depth=101, init_cfg=dict(checkpoint='torchvision://resnet101')),
    bbox_head=dict(num_classes=20),
)
