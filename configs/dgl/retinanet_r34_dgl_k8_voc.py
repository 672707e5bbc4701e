_base_ = './retinanet_r34_dgl_k17_voc.py'
model = dict(backbone=dict(num_modules=8))
