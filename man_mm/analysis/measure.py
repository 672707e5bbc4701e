"""Memory and time of configs, as rows of plain data."""

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import Config

from .batches import first_batch, synthetic_batch
from .cost import StepCost, predict_seconds, step_cost, step_seconds
from .estimate import FakeTrainStep, is_mixed
from .memory import KINDS
from .step import TrainStep

__all__ = ['estimate_configs', 'measure_configs']

MIB = 2**20
POINTS = 400
"""Of a timeline."""


def estimate_configs(
    configs: Sequence[tuple[str, Config]], device: str, size: tuple[int, int] | None = None
) -> list[dict[str, Any]]:
    """The memory and operations of a training step of each config, without running it; see `measure_configs`.

    Raises:
        ValueError: As `measure_configs`, or if a model's memory cannot be told without its predictions; see
            `FakeTrainStep`.
    """
    batch, _ = _batch(configs, size)
    return [_row(name, cfg, size, step_cost(FakeTrainStep(cfg, device), batch)) for name, cfg in configs]


def measure_configs(
    configs: Sequence[tuple[str, Config]], device: str, rounds: int, size: tuple[int, int] | None = None
) -> list[dict[str, Any]]:
    """Train a step of each config, and time it in turns with the others.

    Args:
        configs: Names and whole configs. All train on one batch, made for the first.
        device: `cpu`, `cuda` or `cuda:N`.
        rounds: Timed steps of each; 0 for memory alone.
        size: Height and width in px of images of noise; None for the first images of the first config's data.

    Returns:
        A row a config: `config`, `batch`, `size`, `peak_mib` and its parts `weights_mib`, `auxiliary_mib` (weights of
        auxiliaries), `gradients_mib`, `optimizer_mib`, `activations_mib`, `bank_mib`; `reserved_mib` (CUDA's
        allocator); `gflops` of the step; `timeline_mib`, live tensors in the course of the step; `modules`, for each
        its peak with its parts, and where in the timeline it `begins`. With `rounds`: `step_s` (median),
        `step_s_range`, `step_ratio` (median of the ratios to the first config in the same round),
        `predict_images_per_s`, and for real data `epoch_s`.

    Raises:
        ValueError: If the data is missing, the configs are of several libraries, or one trains in mixed precision, for
            which a CPU will not do.
    """
    for name, cfg in configs:
        if device == 'cpu' and is_mixed(cfg):
            raise ValueError(
                f'{name} trains in mixed precision, which MMEngine has on a GPU only. It can be estimated.'
            )
    batch, batches_per_epoch = _batch(configs, size)
    rows = [_row(name, cfg, size, step_cost(TrainStep(cfg, device), batch)) for name, cfg in configs]
    if rounds:
        _add_times(rows, [TrainStep(cfg, device) for _, cfg in configs], batch, rounds)
        if batches_per_epoch:
            for row in rows:
                row['epoch_s'] = row['step_s'] * batches_per_epoch
    return rows


def _add_times(rows: Sequence[dict[str, Any]], steps: Sequence[TrainStep], batch: Any, rounds: int) -> None:
    """Time the steps in turns, then their predictions; each row gets what its own took."""
    trained = step_seconds(steps, batch, rounds)
    with torch.no_grad():
        predicted = predict_seconds(steps, batch, rounds)
    for row, seconds, predicting in zip(rows, trained, predicted, strict=True):
        ratios = [own / reference for own, reference in zip(seconds, trained[0], strict=True)]
        row.update(
            step_s=statistics.median(seconds),
            step_s_range=[min(seconds), max(seconds)],
            step_ratio=statistics.median(ratios),
            predict_images_per_s=row['batch'] / statistics.median(predicting),
        )


def _batch(configs: Sequence[tuple[str, Config]], size: tuple[int, int] | None) -> tuple[Any, int]:
    """The batch, and how many there are in an epoch; 0 without data."""
    cfg = configs[0][1]
    scopes = {name: each.get('default_scope') for name, each in configs}
    if len(set(scopes.values())) > 1:
        raise ValueError(f'configs of several libraries cannot train on one batch: {scopes}.')
    if size is None:
        return first_batch(cfg)
    return synthetic_batch(cfg, cfg.train_dataloader.batch_size, size), 0


def _row(name: str, cfg: Config, size: tuple[int, int] | None, cost: StepCost) -> dict[str, Any]:
    whole = max(cost.progress[-1], 1)  # of this step; `flops` may be the mean of several
    places = [min(done * POINTS // whole, POINTS - 1) for done in cost.progress]
    return dict(
        config=name,
        batch=cfg.train_dataloader.batch_size,
        size=size,
        peak_mib=_mib(cost.peak_bytes),
        **_parts(cost.split),
        **(dict(reserved_mib=_mib(cost.reserved_bytes)) if cost.reserved_bytes else {}),
        gflops=round(cost.flops / 1e9, 3),
        modules=[
            dict(
                module=phase.name,
                peak_mib=_mib(phase.peak_bytes),
                **_parts(phase.split),
                begins=places[min(phase.start, len(places) - 1)],
            )
            for phase in cost.phases
        ],
        timeline_mib=[_mib(peak) for peak in _course(cost.timeline, places)],
    )


def _course(timeline: Sequence[int], places: Sequence[int]) -> list[int]:
    """The highest value of `timeline` in each of `POINTS` parts of the step; `places` says where a value begins."""
    peaks, latest, i = [], 0, 0
    for point in range(POINTS):
        peak = latest
        while i < len(timeline) and places[i] == point:
            latest = timeline[i]
            peak = max(peak, latest)
            i += 1
        peaks.append(peak)
    return peaks


def _parts(split: dict[str, int]) -> dict[str, float]:
    return {f'{kind}_mib': _mib(split.get(kind, 0)) for kind in KINDS}


def _mib(num_bytes: int) -> float:
    return round(num_bytes / MIB, 3)
