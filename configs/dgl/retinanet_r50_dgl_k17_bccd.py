_base_ = './retinanet_r50_dgl_k4_bccd.py'
model = dict(backbone=dict(num_modules=17))
