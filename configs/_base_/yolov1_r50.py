_base_ = './yolov1_r34.py'
model = dict(
    backbone=dict(depth=50, init_cfg=dict(checkpoint='torchvision://resnet50')),
    bbox_head=dict(in_channels=2048),
)
