# Lean with a module for each unit.
_base_ = './retinanet_r50_manlean_k4_bccd.py'
model = dict(backbone=dict(num_modules=17))
