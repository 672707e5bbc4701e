_base_ = './retinanet_r34_man_k17_coco.py'
model = dict(backbone=dict(num_modules=2))
