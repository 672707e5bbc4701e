_base_ = ['../_base_/yolov1_r50.py', '../_base_/adamw_6_epochs.py', '../_base_/cutpaste_detection_224.py']
model = dict(
    data_preprocessor=dict(mean=[103.939, 116.779, 123.68], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(
        style='caffe',
        norm_eval=True,  # batches of 4 are too small for statistics
        init_cfg=dict(type='Pretrained', checkpoint='data/resnet50_caffe.pth'),
    ),
    # a quarter of the paper's width, with norms: 375 steps are few for it
    bbox_head=dict(
        num_classes=5, conv_channels=256, conv_strides=(1, 1, 1, 1), norm_cfg=dict(type='GN', num_groups=32)
    ),
)
