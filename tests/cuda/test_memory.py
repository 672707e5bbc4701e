"""The allocator: a step leaves nothing behind, the meter agrees with the estimate, running out names the module."""

import gc
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from man_mm.analysis.measure import estimate_configs, measure_configs

from ..helpers.detection import batch
from ..helpers.training import trainer

DEMO = Path(__file__).parents[2] / 'configs/demo/retinanet_r18_man_k4_shapes.py'
SIZE = (192, 192)


def allocated():
    gc.collect()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def test_a_step_leaves_nothing_behind():
    run = trainer()
    for _ in range(2):
        run.step()
    before = allocated()
    for _ in range(3):
        run.step()
    assert allocated() == before


def test_meter_counts_what_was_estimated():
    configs = [('man', Config.fromfile(DEMO))]
    (measured,) = measure_configs(configs, 'cuda', rounds=0, size=SIZE)
    (estimated,) = estimate_configs(configs, 'cuda', size=SIZE)
    assert max(measured['timeline_mib']) == pytest.approx(estimated['peak_mib'], rel=1e-3)
    assert measured['peak_mib'] >= estimated['peak_mib'] * 0.999


def test_running_out_names_the_module_and_training_goes_on():
    run = trainer()
    large = batch(num=8, size=512)
    run.step(large)
    torch.cuda.empty_cache()
    idle = allocated()
    torch.cuda.reset_peak_memory_stats()
    run.step(large)
    rest = torch.cuda.max_memory_allocated() - idle
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 0.5 * rest) / total)
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError) as caught:
            run.step(large)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    (note,) = caught.value.__notes__
    assert 'man_mm: out of memory in the' in note
    run.optimizer.zero_grad()
    assert run.step(large)['loss'].isfinite()
