"""benchmarks/detection.py: the short protocol halves every part once."""

import importlib.util
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

ROOT = Path(__file__).parents[2]
HALF = 128
"""Channels of the model's own neck and head in the short protocol."""


@pytest.fixture(scope='module')
def benchmark():
    sys.path.insert(0, str(ROOT / 'benchmarks'))
    try:
        spec = importlib.util.spec_from_file_location('detection', ROOT / 'benchmarks/detection.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(ROOT / 'benchmarks'))


@pytest.mark.parametrize('method', ['bp', 'man-k4', 'dgl-k4', 'manlean-k17', 'manlean-copy-k17'])
def test_necks_end_in_the_channels_that_their_heads_read(benchmark, method):
    cfg = Config.fromfile(ROOT / f'configs/{benchmark.METHODS[method].format("retinanet_r50")}_bccd.py')
    benchmark.slim(cfg)
    assert cfg.model.neck.out_channels == cfg.model.bbox_head.in_channels == HALF
    auxiliary = cfg.model.backbone.get('auxiliary')
    if auxiliary is not None:
        own = auxiliary.get('head', cfg.model)
        head = (cfg.model if isinstance(own, str) else own).bbox_head
        assert auxiliary.neck.out_channels == head.in_channels


def test_the_whole_retinanet_is_that_of_its_configs(benchmark):
    whole = benchmark.protocol('bccd', 'retinanet_r50_whole')
    assert set(whole.configs) == set(benchmark.MODELS['retinanet_r50_whole'])  # every config is there
    cfg = Config.fromfile(ROOT / 'configs' / whole.configs['manlean-follow-k4'])
    before = cfg.model.to_dict()
    whole.prepare(cfg, benchmark.Run('manlean-follow-k4', 1e-3, 0, 'test', whole.length))
    assert cfg.model.to_dict() == before and cfg.train_cfg.max_epochs == whole.length == 16
    assert cfg.val_evaluator.ann_file.endswith('test.json')
