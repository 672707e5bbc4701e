_base_ = [
    '../_base_/retinanet_r34.py',
    '../_base_/voc07_detection_400.py',
    '../_base_/schedule_160e_batch64.py',
]
model = dict(
    bbox_head=dict(num_classes=20),
)
