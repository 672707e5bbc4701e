"""What the demo compares, and what a training step of each takes."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from mmengine.config import Config
from mmengine.logging import MMLogger

from man_mm.analysis.measure import estimate_configs, measure_configs

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
        trained: Whether the demo trains it. Recomputation changes nothing but rounding, and that `with_cp` counts a
            batch twice in the running statistics of norms.
    """

    config: str
    big: str
    modules: int | None = None
    trained: bool = True

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
    'BP, recomputed': Method(
        'retinanet_r18_bp-ckptall_shapes.py', 'bp/retinanet_r50_bp-ckptall_coco.py', trained=False
    ),
    'lean': Method('retinanet_r18_manlean_k3_shapes.py', 'man/retinanet_r50_manlean_k4_coco.py'),
    'MAN': Method('retinanet_r18_man_k4_shapes.py', 'man/retinanet_r50_man_k17_coco.py', modules=4),
}


def measure(device: str) -> dict[str, dict[str, float]]:
    """Rows of `measure_configs` by method, at the demo's size."""
    configs = {name: method.read() for name, method in METHODS.items()}
    with _quiet():
        rows = measure_configs(list(configs.items()), device, TIMED_ROUNDS)
    return {row['config']: row for row in rows}


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
