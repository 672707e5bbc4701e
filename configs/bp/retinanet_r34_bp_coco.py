_base_ = [
    '../_base_/retinanet_r34.py',
    '../_base_/coco_detection_400.py',
    '../_base_/schedule_1x_batch64.py',
]
