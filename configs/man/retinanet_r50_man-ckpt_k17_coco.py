# Every residual block, of modules and of SLMs, is recomputed in backward.
_base_ = './retinanet_r50_man_k17_coco.py'
model = dict(backbone=dict(backbone=dict(with_cp=True)))
