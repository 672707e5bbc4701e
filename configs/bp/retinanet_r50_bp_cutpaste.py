_base_ = ['../_base_/retinanet_r50_caffe.py', '../_base_/adamw_6_epochs.py', '../_base_/cutpaste_detection.py']
model = dict(bbox_head=dict(num_classes=5))
