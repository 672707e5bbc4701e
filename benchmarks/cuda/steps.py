"""Training steps of the repository's configs on noise: built, in several precisions."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import amp

from man_mm.analysis.batches import synthetic_batch
from man_mm.analysis.step import TrainStep

__all__ = ['ROOT', 'Step', 'Steps', 'load', 'mix_on_a_cpu', 'use_tf32']

ROOT = Path(__file__).resolve().parents[2]
MIXED = dict(
    fp16=dict(dtype='float16', loss_scale=dict(init_scale=1024.0)),
    bf16=dict(dtype='bfloat16', loss_scale=dict(enabled=False)),
)


def load(name: str, **options: Any) -> Config:
    """A config below `configs/` with options laid over it."""
    if not MMLogger.check_instance_created('benchmark'):  # else every weight that is drawn is a line
        MMLogger.get_instance('benchmark', logger_name='benchmark', log_level='ERROR')
    cfg = Config.fromfile(ROOT / 'configs' / name)
    cfg.merge_from_dict(options)
    return cfg


def use_tf32(convolutions: bool) -> None:
    """Torch's own default is yes for convolutions; matrix products stay in full float32."""
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = False


def mix_on_a_cpu() -> None:
    """For dry runs: mixed precision without a GPU, as the test suite has it."""
    torch.backends.mkldnn.enabled = False  # oneDNN's bfloat16 weight gradients of tiny maps are garbage now and then
    amp_optimizer_wrapper.is_cuda_available = lambda: True
    amp_optimizer_wrapper.GradScaler = functools.partial(torch.amp.GradScaler, 'cpu')
    amp.autocast = functools.partial(torch.autocast, 'cpu')


class Step(TrainStep):
    """A step on a batch of noise that is on the device already. The learning rate is 0: noise would lead to NaN.

    Args:
        cfg: A whole config.
        device: Where to train.
        num: Images.
        size: Their height and width in px.
        lr: Instead of 0.
    """

    def __init__(self, cfg: Config, device: str, num: int, size: int, lr: float = 0.0) -> None:
        self.cfg = cfg
        cfg.optim_wrapper.optimizer.lr = lr
        cfg.train_dataloader.batch_size = num
        self.batch = synthetic_batch(cfg, num, (size, size))
        with torch.device(device):  # gigabytes of weights are drawn there in no time
            super().__init__(copy.deepcopy(cfg), device)
        self.data = self.model.data_preprocessor(copy.deepcopy(self.batch), True)

    def use(self, precision: str) -> None:
        """Train in `tf32` (float32 with torch's defaults), `fp16` or `bf16` from now on, as `tools/train.py --amp`.

        Eager steps go with no loss scaler, so fp16 is without them. Optimizer state is made anew.
        """
        wrapper = copy.deepcopy(self.cfg.optim_wrapper)
        if precision in MIXED:
            is_local = 'Local' in str(wrapper.get('type'))
            kind = 'man_mm.LocalAmpOptimWrapper' if is_local else 'AmpOptimWrapper'
            wrapper.update(type=kind, **copy.deepcopy(MIXED[precision]))
        if precision == 'fp16' and wrapper.get('eager_step'):
            wrapper.eager_step = False
        del self.optim_wrapper  # its state goes before the new one comes
        for parameter in self.model.parameters():
            parameter.grad = None
        self.optim_wrapper = build_optim_wrapper(self.model, ConfigDict(wrapper))
        for hook in map(HOOKS.build, self.cfg.get('custom_hooks', [])):
            if type(hook).__name__ == 'FeatureBankHook':  # the others have been bound to the model
                hook.bind(self.model, self.optim_wrapper)

    def use_channels_last(self) -> None:
        """Weights and images."""
        self.model.to(memory_format=torch.channels_last)
        self.data['inputs'] = self.data['inputs'].contiguous(memory_format=torch.channels_last)

    def bare(self) -> dict[str, Any]:
        """A step without the preprocessor; returns the log."""
        with self.optim_wrapper.optim_context(self.model):
            losses = self.model(**self.data, mode='loss')
        loss, logs = self.model.parse_losses(losses)
        self.optim_wrapper.update_params(loss)
        return logs

    def settle(self) -> None:
        """Train until the optimizer has its state: a dynamic scaler skips its first steps."""
        for _ in range(16):
            self.bare()
            if self.optimizer.state:
                break


class Steps(dict[str, Step]):
    """Steps by name, each built by `make(name)` when it is first asked for."""

    def __init__(self, make: Callable[[str], Step]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, name: str) -> Step:
        step = self[name] = self.make(name)
        return step
