"""The memory of every config can be estimated, and the estimate is the measurement."""

from pathlib import Path

import pytest
from mmengine.config import Config

from man_mm.analysis.cost import step_cost
from man_mm.analysis.estimate import FakeTrainStep, is_mixed
from man_mm.analysis.step import TrainStep

from .test_configs import CONFIGS, batch_for, load, narrow, width_of

REPRESENTATIVE = (
    'auglocal/resnet32_auglocal_k16_cifar10.py',
    'bp/edsr_x2_bp_photos.py',
    'bp/resnet32_bp_cifar10.py',
    'bp/retinanet_r50_bp-ckptall_coco.py',
    'bp/retinanet_r50_bp-amp_coco.py',
    'bp/yolov1_r50_bp_voc.py',
    'dgl/resnet32_dgl_k16_cifar10.py',
    'infopro/resnet32_infopro_k4_cifar10.py',
    'man/deit-small_man_k4_in1k.py',
    'man/edsr_x4_manlean_k16_photos.py',
    'man/faster-rcnn_r50_man_k4_coco.py',
    'man/retinanet_r50_manlean_k4_coco.py',
    'man/swinir_x2_man_k4_div2k.py',
    'man/yolov1_r50_man_k4_cutpaste.py',
    'predsim/resnet32_predsim_k16_cifar10.py',
)
"""A config of each family and rule. The others take half an hour."""


def small_config(name):
    """A config at the widths at which `test_configs` trains it."""
    cfg = load(name)
    small = Config(dict(model=narrow(cfg.model.to_dict(), width_of(cfg)), default_scope=cfg.default_scope))
    if cfg.get('data_preprocessor') is not None:
        small.data_preprocessor = narrow(cfg.data_preprocessor.to_dict())
    for key in ('optim_wrapper', 'custom_hooks'):
        if cfg.get(key) is not None:
            small[key] = cfg[key]
    return small


@pytest.mark.parametrize(
    'name', [name if name in REPRESENTATIVE else pytest.param(name, marks=pytest.mark.long) for name in CONFIGS]
)
def test_the_estimate_of_a_config_is_its_measured_peak(name):
    cfg, data = small_config(name), batch_for(load(name))
    if cfg.model.type == 'FasterRCNN':
        with pytest.raises(ValueError, match='a step of FasterRCNN cannot be estimated'):
            step_cost(FakeTrainStep(cfg), data)
        return
    estimated = step_cost(FakeTrainStep(cfg), data)
    if is_mixed(cfg):  # not to be measured without a GPU
        cfg.optim_wrapper.type = cfg.optim_wrapper.type.replace('Amp', '')
        for key in ('loss_scale', 'dtype'):
            cfg.optim_wrapper.pop(key, None)
        assert 0.3 < estimated.peak_bytes / step_cost(FakeTrainStep(cfg), data).peak_bytes < 1.2
        return
    measured = step_cost(TrainStep(cfg), data)
    assert estimated.peak_bytes == pytest.approx(measured.peak_bytes, rel=0.05)
    assert estimated.flops == pytest.approx(measured.flops, rel=0.05)
    assert [phase.name for phase in estimated.phases] == [phase.name for phase in measured.phases]


def test_every_representative_is_a_config():
    assert not set(REPRESENTATIVE) - set(CONFIGS)
    folders = {Path(name).parent.name for name in CONFIGS} - {'demo'}
    assert {Path(name).parent.name for name in REPRESENTATIVE} == folders
