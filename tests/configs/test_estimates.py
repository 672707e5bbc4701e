"""The memory of every config can be estimated, and the estimate is the measurement."""

import pytest
from mmengine.config import Config

from man_mm.analysis.cost import step_cost
from man_mm.analysis.estimate import FakeTrainStep, is_mixed
from man_mm.analysis.step import TrainStep
from man_mm.readout.proposals import given_proposals

from .test_configs import CONFIGS, batch_for, load, narrow, width_of, wrapped

REPRESENTATIVE = (
    'infopro/resnet32_infopro_k4_cifar10.py',
    'man/edsr_x4_manlean_k16_photos.py',
    'man/retinanet_r34_manlean_k4_coco.py',
    'man/yolov1_r34_man_k17_coco.py',
)
"""A config of each task. The others take half an hour; tests/analysis/test_estimate.py has every rule and lever,
and detectors of two stages."""

MODULES = 2
"""More of them take longer and tell nothing else."""


def small_config(name):
    """A config at the widths at which `test_configs` trains it, in a few modules."""
    cfg = load(name)
    small = Config(dict(model=narrow(cfg.model.to_dict(), width_of(cfg)), default_scope=cfg.default_scope))
    if cfg.get('data_preprocessor') is not None:
        small.data_preprocessor = narrow(cfg.data_preprocessor.to_dict())
    net = wrapped(small)
    if net.type == 'man_mm.LocalBackbone':
        net.num_modules = min(net.num_modules, MODULES)
        if not isinstance(net.get('partition', ''), str):
            net.partition = net.partition[: net.num_modules - 1]
    for key in ('optim_wrapper', 'custom_hooks'):
        if cfg.get(key) is not None:
            small[key] = cfg[key]
    return small


@pytest.mark.parametrize(
    'name', [name if name in REPRESENTATIVE else pytest.param(name, marks=pytest.mark.long) for name in CONFIGS]
)
def test_the_estimate_of_a_config_is_its_measured_peak(name):
    cfg, data = small_config(name), batch_for(load(name))
    estimated = step_cost(FakeTrainStep(cfg), data)
    if is_mixed(cfg):  # not to be measured without a GPU
        cfg.optim_wrapper.type = cfg.optim_wrapper.type.replace('Amp', '')
        for key in ('loss_scale', 'dtype'):
            cfg.optim_wrapper.pop(key, None)
        assert 0.3 < estimated.peak_bytes / step_cost(FakeTrainStep(cfg), data).peak_bytes < 1.2
        return
    with given_proposals():
        measured = step_cost(TrainStep(cfg), data)
    assert estimated.peak_bytes == pytest.approx(measured.peak_bytes, rel=0.05)
    assert estimated.flops == pytest.approx(measured.flops, rel=0.05)
    assert [phase.name for phase in estimated.phases] == [phase.name for phase in measured.phases]


def test_every_representative_is_a_config():
    assert not set(REPRESENTATIVE) - set(CONFIGS)
    assert {load(name).default_scope for name in REPRESENTATIVE} == {load(name).default_scope for name in CONFIGS}
