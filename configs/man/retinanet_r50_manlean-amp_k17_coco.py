# Lean, in bfloat16, which has the range of float32 and needs no loss scaler. Without one, whose step is one decision
# for all modules, every module can be stepped at once.
_base_ = './retinanet_r50_manlean_k17_coco.py'
optim_wrapper = dict(type='man_mm.LocalAmpOptimWrapper', dtype='bfloat16', loss_scale=dict(enabled=False))
