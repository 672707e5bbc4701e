"""Training steps outside of a runner, to be measured: same model, loss, backward and optimizer as a config trains."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, FUNCTIONS, MODELS, init_default_scope

from ..engine import FeatureBankHook
from ..local import LocalBackbone
from .memory import PeakMemory, training_tensors

__all__ = ['TrainStep', 'build_model', 'first_batch', 'predict_seconds', 'step_peak_bytes', 'step_seconds']


def build_model(cfg: Config) -> Any:
    """Build the model of a whole config as a runner does: `data_preprocessor` may stand beside `model`."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model_cfg = {**cfg.model}
    if cfg.get('data_preprocessor') is not None:
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    return MODELS.build(model_cfg)


class TrainStep:
    """Calling it makes one optimizer step of the model that a config describes.

    Args:
        cfg: A whole config. The learning-rate schedule and augmentation play no part.
        device: Where to train.
        seed: What the weights are drawn from.
    """

    def __init__(self, cfg: Config, device: str = 'cpu', seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = build_model(cfg)
        self.model.init_weights()
        self.model.to(device).train()
        self.optim_wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        self.device = device
        if any(isinstance(module, LocalBackbone) for module in self.model.modules()):
            FeatureBankHook().bind(self.model, self.optim_wrapper)

    def __call__(self, batch: Any) -> None:
        """Train on `batch`, as a data loader collates it."""
        self.model.train_step(batch, self.optim_wrapper)


def first_batch(cfg: Config) -> tuple[Any, int]:
    """The first `batch_size` images of the config's training set, collated, and the number of batches in an epoch.

    Configs of the same data get the same batch.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    loader = cfg.train_dataloader
    dataset = DATASETS.build(loader.dataset)
    collate = FUNCTIONS.get(loader.get('collate_fn', dict(type='pseudo_collate'))['type'])
    batch = collate([dataset[i] for i in range(loader.batch_size)])
    return batch, math.ceil(len(dataset) / loader.batch_size)


def step_peak_bytes(step: TrainStep, batch: Any) -> int:
    """Peak bytes of one step: weights, buffers, optimizer state, activations, gradients.

    The first step, in which the optimizer makes its state, is not measured.
    """
    step(batch)
    with PeakMemory(training_tensors(step.model, step.optim_wrapper.optimizer), step.device) as meter:
        step(batch)
    return meter.peak_bytes


def step_seconds(steps: Sequence[TrainStep], batch: Any, rounds: int) -> list[float]:
    """Median seconds of a training step of each of `steps`; see `_interleaved`."""
    return _interleaved([(lambda step=step: step(batch)) for step in steps], steps[0].device, rounds)


def predict_seconds(steps: Sequence[TrainStep], batch: Any, rounds: int) -> list[float]:
    """Median seconds that each model takes to predict on `batch`, as a test does; see `_interleaved`.

    It leaves the models in evaluation mode.
    """
    for step in steps:
        step.model.eval()
    return _interleaved([(lambda step=step: step.model.test_step(batch)) for step in steps], steps[0].device, rounds)


def _interleaved(calls: Sequence[Callable[[], Any]], device: str, rounds: int) -> list[float]:
    """Median seconds of each call, taken in turns so that a slow moment of the machine hits all.

    One more round goes first, to warm up.
    """
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if device != 'cpu':
                torch.cuda.synchronize(device)
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken[1:]) for taken in times]
