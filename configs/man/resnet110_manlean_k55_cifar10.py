# Lean: no bank, and SLM units for the stages behind the cut's own only.
_base_ = './resnet110_man_k55_cifar10.py'
model = dict(backbone=dict(auxiliary=dict(bank_vectors=False, cut_stage=False)))
