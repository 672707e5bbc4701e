# Lean with copied units in four modules, cut by memory.
_base_ = './retinanet_r50_manlean-copy_k17_coco.py'
model = dict(backbone=dict(num_modules=4, partition='memory', probe_size=(512, 512)))
