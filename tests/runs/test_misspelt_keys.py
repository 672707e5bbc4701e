"""Keys that nobody reads are asked about; variables of a config are not."""

import pytest
from mmengine.config import Config

from man_mm.runs.misspelt_keys import misspelt_keys, unmatched_custom_keys

from ..helpers.detection import RESNET, build, retinanet
from ..helpers.runs import run_config


@pytest.mark.parametrize(
    ('options', 'suspect', 'meant'),
    [
        (dict(find_unused_paramters=True), 'find_unused_paramters', 'find_unused_parameters'),
        (dict(custom_hook=[]), 'custom_hook', 'custom_hooks'),
        (dict(optim_wraper={}), 'optim_wraper', 'optim_wrapper'),
        (dict(param_schedulers=[]), 'param_schedulers', 'param_scheduler'),
        (dict(auto_scale_rl={}), 'auto_scale_rl', 'auto_scale_lr'),
        (
            dict(optim_wrapper=dict(paramwise_cfg=dict(custom_key={}))),
            'optim_wrapper.paramwise_cfg.custom_key',
            'optim_wrapper.paramwise_cfg.custom_keys',
        ),
        (
            dict(optim_wrapper=dict(paramwise_cfg=dict(custom_keys=dict(auxiliaries=dict(lr_mul=0.1))))),
            "optim_wrapper.paramwise_cfg.custom_keys['auxiliaries'].lr_mul",
            "optim_wrapper.paramwise_cfg.custom_keys['auxiliaries'].lr_mult",
        ),
    ],
)
def test_a_misspelt_key_that_nobody_reads_is_asked_about(tmp_path, options, suspect, meant):
    cfg = run_config('data/', tmp_path)
    assert misspelt_keys(Config(cfg)) == []
    assert misspelt_keys(Config({**cfg, **options})) == [
        f'the config key {suspect} is read by nobody. Did you mean {meant}?'
    ]


def test_variables_of_a_config_are_no_misspelt_keys():
    names = ('data_root', 'train_pipeline', 'test_pipeline', 'norm_cfg', 'max_epochs', 'dataset_type', 'img_scales')
    others = ('reds_dataloader', 'test100_evaluator', 'backend_args', 'tta_model', 'file_client_args', 'base_lr')
    assert misspelt_keys(Config(dict.fromkeys((*names, *others), 1))) == []


def test_a_learning_rate_for_no_parameter_is_told():
    model = build(retinanet(4, RESNET))
    keys = {'backbone.auxiliaries': dict(lr_mult=0.1), 'backbone.auxilaries': dict(lr_mult=0.1)}
    (sentence,) = unmatched_custom_keys(dict(paramwise_cfg=dict(custom_keys=keys)), model)
    assert "custom_keys['backbone.auxilaries'] is in no parameter name" in sentence
    assert unmatched_custom_keys(None, model) == []
