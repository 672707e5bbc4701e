"""A training step without arithmetic: tensors that have shapes and bytes, but no values."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ..engine import LocalAmpOptimWrapper
from ..readout import readout_of
from .step import TrainStep, build_model

__all__ = ['FakeTrainStep', 'is_mixed']


class FakeTrainStep(TrainStep):
    """A `TrainStep` on fake tensors, for a meter to look at: in seconds, for any size, in no memory.

    Weights and images are fake; targets, and what is made of them alone (anchors, assigned labels), are real, so that a
    model may look at their values.

    Args:
        cfg: A whole config. Mixed precision is that of a CPU.
        device: With `cuda`, upstream's way on CUDA is gone where it is another: MMCV's compiled focal loss and
            deformable attention, which keep far less, and the optimizer's update of all weights at once, which takes
            more. The rest is as on a CPU.

    Raises:
        ValueError: On a step, if the model decides by values that it predicts, e.g. by boxes that a cascade refines, so
            that its memory cannot be told without them, or runs other compiled operators. Proposals of a first stage
            have stand-ins: as many as it may make, and the most samples of them.
    """

    def __init__(self, cfg: Config, device: str = 'cpu') -> None:
        cfg = Config(cfg.to_dict())
        readout = readout_of(cfg)
        self.branches = readout.cuda_branches if device != 'cpu' else nullcontext
        self.without_predictions = readout.without_predictions
        mixed = is_mixed(cfg)
        if mixed:
            cfg.optim_wrapper = _without_amp(cfg.optim_wrapper)
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        super().__init__(cfg)
        if mixed:
            self.optim_wrapper.optim_context = _autocasting(self.optim_wrapper.optim_context)
        if device != 'cpu':
            for group in self.optimizer.param_groups:
                if 'foreach' in group and group['foreach'] is None and not group.get('fused'):
                    group['foreach'] = True  # torch's choice on CUDA

    def _build(self, cfg: Config) -> Any:
        handle = register_module_parameter_registration_hook(self._fake_parameter)
        try:
            with warnings.catch_warnings():  # of what copy.deepcopy() does to fake tensors
                warnings.filterwarnings('ignore', 'Accessing the data pointer of FakeTensor')
                model = build_model(cfg)
        finally:
            handle.remove()
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                module.register_buffer(
                    name, self.mode.from_tensor(buffer), name not in module._non_persistent_buffers_set
                )
        return model

    def _fake_parameter(self, module: nn.Module, name: str, parameter: nn.Parameter | None) -> Any:
        """What torch registers in place of a new parameter."""
        return None if parameter is None or isinstance(parameter, FakeTensor) else self.mode.from_tensor(parameter)

    def warm_up(self, batch: Any) -> None:
        """Let the optimizer make its state, from gradients out of nothing."""
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def __call__(self, batch: Any) -> None:
        """Train on `batch`, of which the images become fake."""
        fake = tree_map_only(Tensor, self.mode.from_tensor, batch['inputs'])
        try:
            with _NumbersOfFakes(), _ArraysOfFakes(), self.branches(), self.without_predictions(self.mode):
                super().__call__({**batch, 'inputs': fake})
        except (RuntimeError, NotImplementedError) as error:  # what torch raises where a fake tensor has no answer
            raise ValueError(
                f'a step of {type(self.model).__name__} cannot be estimated. If it decides by what it predicts, as '
                'the stages of a cascade do, or runs compiled operators, it can but be measured. The error was '
                f'{type(error).__name__}: {str(error).partition(chr(10))[0]}'
            ) from error


def is_mixed(cfg: Config) -> bool:
    """Whether a config trains in mixed precision."""
    return issubclass(_wrapper_class(cfg.optim_wrapper), AmpOptimWrapper)


def _wrapper_class(optim_wrapper: ConfigDict) -> type[OptimWrapper]:
    kind = optim_wrapper.get('type', OptimWrapper)  # in configs of the new style, a class
    return kind if isinstance(kind, type) else OPTIM_WRAPPERS.get(kind)


def _without_amp(optim_wrapper: ConfigDict) -> ConfigDict:
    """MMEngine's mixed precision needs a GPU; see `_autocasting`."""
    kept = {key: value for key, value in optim_wrapper.items() if key not in ('loss_scale', 'dtype', 'use_fp64')}
    is_local = issubclass(_wrapper_class(optim_wrapper), LocalAmpOptimWrapper)
    return ConfigDict({**kept, 'type': 'man_mm.LocalOptimWrapper' if is_local else 'OptimWrapper'})


def _autocasting(optim_context: Callable[..., Any]) -> Callable[..., Any]:
    """What mixed precision makes of a wrapper's context, that of the forward, in which weights once cast are kept."""

    @contextmanager
    def inside(model: nn.Module) -> Iterator[None]:
        with optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield

    return inside


class _NumbersOfFakes(TorchDispatchMode):
    """Answers a question for the value of a fake number by 1."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return torch.ones((), dtype=args[0].dtype).item()
        return func(*args, **(kwargs or {}))


class _ArraysOfFakes(TorchFunctionMode):
    """Makes a fake tensor an array of zeros, e.g. the costs that scipy matches by: any match is of the same size."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.__array__, Tensor.numpy) and isinstance(args[0], FakeTensor):
            return torch.zeros(args[0].shape, dtype=args[0].dtype).numpy()
        return func(*args, **(kwargs or {}))
