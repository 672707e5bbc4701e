_base_ = [
    '../_base_/retinanet_r50.py',
    '../_base_/coco_detection_400.py',
    '../_base_/schedule_1x_batch64.py',
]
model = dict(
    backbone=dict(depth=152, init_cfg=dict(checkpoint='torchvision://resnet152')),
)
