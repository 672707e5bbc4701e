# Lean: no bank, and SLM units for the stages behind the cut's own only.
_base_ = 'resnet32_man-nobank_k16_cifar10.py'
model = dict(backbone=dict(auxiliary=dict(cut_stage=False)))
