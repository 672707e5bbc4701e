_base_ = [
    '../_base_/yolov1_r50.py',
    '../_base_/voc07_detection_448.py',
    '../_base_/schedule_160e_batch32.py',
]
model = dict(
    bbox_head=dict(num_classes=20),
)
