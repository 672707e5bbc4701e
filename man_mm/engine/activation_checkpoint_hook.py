"""ActivationCheckpointHook: chosen parts of a model recompute their activations in backward instead of keeping them."""

import difflib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseModule, is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from ..keys import strict_keys
from ..local import LocalBackbone
from ..registry import HOOKS

__all__ = ['ActivationCheckpointHook']


@HOOKS.register_module()
@strict_keys
class ActivationCheckpointHook(Hook):
    """Runs methods of a model under `torch.utils.checkpoint`: less memory for one more forward of what they do.

    It acts in the model's own forward, in training, with a `LocalBackbone` and without, and is gone when that forward
    ends: copies, state dicts and evaluation see the plain model. Losses and gradients stay the same: random layers
    (Dropout) draw the same numbers again, from torch's generators. But layers with running statistics (BatchNorm in
    training mode) see each batch twice, as with upstream's `with_cp`.

    Args:
        functions: Dotted paths of modules, whose `forward` it is then, or of their methods, e.g. `neck`,
            `bbox_head.forward_single` (level by level in mmdet's dense heads) or
            `backbone.auxiliaries.*.heads.bbox_head.forward_single`; `*`, `?` and `[...]` stand for parts of a path,
            dots included. What is called by another of them is recomputed as a part of it.

    Raises:
        ValueError: If `functions` is no list of strings, or empty.
    """

    def __init__(self, functions: Sequence[str]) -> None:
        is_list = isinstance(functions, (list, tuple))
        if not is_list or not functions or not all(isinstance(entry, str) for entry in functions):
            raise ValueError(
                f"ActivationCheckpointHook.functions={functions!r} must be a list of dotted paths, e.g. ['neck', "
                "'bbox_head.forward_single']."
            )
        self.functions = list(functions)
        self._targets: dict[str, list[tuple[str, str]]] = {}
        self._patched: list[tuple[nn.Module, str, Any]] = []
        self._called: set[tuple[str, str]] = set()
        self._handles: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        """Find the functions, and start to listen to the model's forward.

        Raises:
            ValueError: If the model lacks one of them, or one of them trains modules by local losses.
        """
        self.bind(runner.model)

    def bind(self, model: nn.Module, *_: Any) -> None:
        """What `before_train` does, for a training loop of one's own. Takes what `FeatureBankHook.bind` takes."""
        self._detach()
        host = cast(nn.Module, model.module) if is_model_wrapper(model) else model
        # paths, not modules: a deep copy of the model takes a copy of this hook along
        self._targets = {entry: _find(entry, host) for entry in self.functions}
        self._handles = [
            host.register_forward_pre_hook(self._patch),
            host.register_forward_hook(self._unpatch, always_call=True, prepend=True),
        ]

    def _patch(self, host: nn.Module, *_: Any) -> None:
        self._unpatch()  # an interrupt from the keyboard runs no forward hooks
        if not (host.training and torch.is_grad_enabled()):
            return
        for path, method in (target for targets in self._targets.values() for target in targets):
            module = host.get_submodule(path)
            own = vars(module)
            if not isinstance(own.get(method), _Checkpointed):
                self._patched.append((module, method, own.get(method)))
                own[method] = _Checkpointed(getattr(module, method), (path, method), self._called)

    def _unpatch(self, *_: Any) -> None:
        for module, method, before in self._patched:
            vars(module).pop(method, None)
            if before is not None:
                vars(module)[method] = before
        self._patched.clear()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Warn, after the first iteration, of functions that the model does not call."""
        idle = [entry for entry, targets in self._targets.items() if self._called.isdisjoint(targets)]
        if runner.iter == 0 and idle:
            print_log(
                f'ActivationCheckpointHook.functions: {idle} save nothing so far: '
                'the first iteration called none of them.',
                logger='current',
                level=logging.WARNING,
            )

    def after_train(self, runner: Runner) -> None:
        """Stop listening."""
        self._detach()

    def _detach(self) -> None:
        self._unpatch()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._called.clear()


_inside: ContextVar[bool] = ContextVar('inside a checkpointed function', default=False)


class _Checkpointed:
    """Stands in for a method, as an attribute of the instance."""

    def __init__(self, function: Callable[..., Any], target: tuple[str, str], called: set[tuple[str, str]]) -> None:
        self.function = function
        self.target = target
        self.called = called

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.called.add(self.target)
        if _inside.get() or not torch.is_grad_enabled():
            return self.function(*args, **kwargs)
        # as single arguments, tensors in lists are freed in backward too, and refused there if changed in place
        leaves, spec = tree_flatten((args, kwargs))
        return checkpoint(_run, self.function, spec, *leaves, use_reentrant=False)


def _run(function: Callable[..., Any], spec: TreeSpec, *leaves: Any) -> Any:
    """What forward and recomputation both do. Nothing is nested: by the recomputation the patches may be gone."""
    args, kwargs = tree_unflatten(leaves, spec)
    token = _inside.set(True)
    try:
        return function(*args, **kwargs)
    finally:
        _inside.reset(token)


def _find(entry: str, host: nn.Module) -> list[tuple[str, str]]:
    """Path of module and name of method, of every function that `entry` means."""
    parts = {path: part for path, part in host.named_modules(remove_duplicate=False) if path}
    found = list(_matches(entry, parts))
    for path, _ in found:
        if any(isinstance(inner, LocalBackbone) and inner.num_modules > 1 for inner in parts[path].modules()):
            raise ValueError(
                f'ActivationCheckpointHook.functions: {entry!r} means {path}, which trains its modules by local losses '
                f'and so cannot be recomputed. Name parts of it, e.g. {path}.auxiliaries.*.'
            )
    if not found:
        similar = difflib.get_close_matches(entry, _functions(parts), n=4)
        hint = f'Similar: {similar}.' if similar else f'Its parts: {[name for name, _ in host.named_children()]}.'
        raise ValueError(
            f'ActivationCheckpointHook.functions: {entry!r} is neither a module with a forward nor the method of a '
            f'module of {type(host).__name__}. {hint}'
        )
    return found


def _matches(entry: str, parts: Mapping[str, nn.Module]) -> Iterator[tuple[str, str]]:
    owner, _, method = entry.rpartition('.')
    for path, part in parts.items():
        if fnmatchcase(path, entry) and _has(part, 'forward'):
            yield path, 'forward'
        elif fnmatchcase(path, owner) and _has(part, method):
            yield path, method


def _has(part: nn.Module, method: str) -> bool:
    """Whether the class has a method of that name; those that torch gives every module do not count."""
    function = getattr(type(part), method, None)
    return callable(function) and function is not getattr(nn.Module, method, None)


def _functions(parts: Mapping[str, nn.Module]) -> Iterator[str]:
    """All that an entry could name, but what every module has."""
    common = set(dir(BaseModule))
    for path, part in parts.items():
        if _has(part, 'forward'):  # lists of modules have methods, but none to checkpoint
            yield path
            methods = [name for name in dir(type(part)) if not name.startswith('_') and name not in common]
            yield from (f'{path}.{name}' for name in methods if _has(part, name))
