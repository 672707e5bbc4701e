"""What the demo compares, and what a training step of each takes."""

import contextlib
import copy
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from man_mm.analysis.batches import first_batch
from man_mm.analysis.measure import estimate_configs, measure_configs
from man_mm.analysis.step import TrainStep

__all__ = ['BIG', 'METHODS', 'Method', 'estimate', 'measure']

BIG = 'RetinaNet-R50, 512 px, batch 8'
BIG_SIZE, BIG_BATCH = (512, 512), 8
TIMED_ROUNDS = 7


@dataclass(frozen=True)
class Method:
    """One way to train.

    Args:
        config: Config below `configs/demo/`, which is measured and trained.
        big: Config below `configs/` of the same method for RetinaNet-R50, whose memory is estimated.
        modules: K of that one, where it is not the file's.
        exactly: The method whose weights this one has after every step, to the bit, so that it need not be trained.
    """

    config: str
    big: str
    modules: int | None = None
    exactly: str | None = None

    def read(self) -> Config:
        return Config.fromfile(f'configs/demo/{self.config}')

    def read_big(self) -> Config:
        cfg = Config.fromfile(f'configs/{self.big}')
        cfg.train_dataloader.batch_size = BIG_BATCH
        if self.modules is not None:
            cfg.model.backbone.num_modules = self.modules
        return cfg


METHODS = {
    'BP': Method('retinanet_r18_bp_shapes.py', 'bp/retinanet_r50_bp_coco.py'),
    'BP, recomputed': Method('retinanet_r18_bp-ckptall_shapes.py', 'bp/retinanet_r50_bp-ckptall_coco.py', exactly='BP'),
    'lean': Method('retinanet_r18_manlean_k3_shapes.py', 'man/retinanet_r50_manlean_k4_coco.py'),
    'MAN': Method('retinanet_r18_man_k4_shapes.py', 'man/retinanet_r50_man_k17_coco.py', modules=4),
}


def measure(device: str) -> dict[str, dict[str, float]]:
    """Rows of `measure_configs` by method, at the demo's size.

    Raises:
        RuntimeError: If a method that is to be exact ends its step in other weights.
    """
    configs = {name: method.read() for name, method in METHODS.items()}
    with _quiet():
        rows = measure_configs(list(configs.items()), device, TIMED_ROUNDS)
        for name, method in METHODS.items():
            if device == 'cpu' and method.exactly is not None:
                _check_equal(configs[name], configs[method.exactly], name)
    return {row['config']: row for row in rows}


def _check_equal(cfg: Config, other: Config, name: str) -> None:
    batch, _ = first_batch(other)
    weights = []
    for each in (cfg, other):
        step = TrainStep(each)
        step(copy.deepcopy(batch))
        weights.append(dict(step.model.named_parameters()))  # no buffers: `with_cp` counts a batch's statistics twice
    if not all(torch.equal(value, weights[1][key]) for key, value in weights[0].items()):
        raise RuntimeError(f'A step of {name} should end in the weights of the one that it repeats, but does not.')


def estimate() -> dict[str, dict[str, float]]:
    """Rows of `estimate_configs` by method, for `BIG` on CUDA: no arithmetic is done."""
    configs = [(name, method.read_big()) for name, method in METHODS.items()]
    with _quiet():
        return {row['config']: row for row in estimate_configs(configs, 'cuda', BIG_SIZE)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without a line for every initialised weight, and without what pycocotools prints and `with_cp` warns of."""
    if not MMLogger.check_instance_created('demo'):
        MMLogger.get_instance('demo', logger_name='demo', log_level='ERROR')
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'torch.utils.checkpoint')
        yield
