_base_ = './retinanet_r50_man_k4_bccd.py'
model = dict(backbone=dict(bank=False))
