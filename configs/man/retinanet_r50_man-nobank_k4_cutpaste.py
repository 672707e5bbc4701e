_base_ = './retinanet_r50_man_k4_cutpaste.py'
model = dict(backbone=dict(bank=False))
