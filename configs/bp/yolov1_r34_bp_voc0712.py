_base_ = ['../_base_/yolov1_r34.py', '../_base_/voc0712_detection_448.py', '../_base_/schedule_160e_batch32.py']
model = dict(bbox_head=dict(num_classes=20))
