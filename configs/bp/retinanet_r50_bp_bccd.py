_base_ = ['../_base_/retinanet_r50_caffe.py', '../_base_/adamw_6_epochs.py', '../_base_/bccd_detection.py']
# platelets are about 20 px wide at 320 x 240: upstream's smallest anchor, 32 px, matches none of them
model = dict(bbox_head=dict(num_classes=3, anchor_generator=dict(octave_base_scale=2)))
