# SwinIR by upstream's recipe, tested on the Y channel of Set5 and Set14.
_base_ = 'mmagic::swinir/swinir_x2s48w8d6e180_8xb4-lr2e-4-500k_div2k.py'
from man_mm.config import local_learning

model, optim_wrapper, custom_hooks, find_unused_parameters = local_learning(
    _base_, num_modules=4, auxiliary=dict(type='man_mm.SLM')
)
work_dir = experiment_name = None
default_hooks = dict(
    checkpoint=dict(type='man_mm.SafeCheckpointHook', out_dir=None), logger=dict(log_metric_by_epoch=False)
)
test_dataloader = [_base_.set5_dataloader, _base_.set14_dataloader]
test_evaluator = _base_.test_evaluator[:2]
