_base_ = [
    '../_base_/yolov1_r50.py',
    '../_base_/coco_detection_448.py',
    '../_base_/schedule_160e_batch32.py',
]
model = dict(
    backbone=dict(depth=152, init_cfg=dict(checkpoint='torchvision://resnet152')),
)
