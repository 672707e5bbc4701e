"""The patches in other packages that importing man_mm makes; the list is in man_mm's docstring."""

from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

from .bfloat16_ops import compute_bfloat16_in_float32
from .checkpoint_file import explain_checkpoint_errors
from .on_import import act_before_import, act_on_import

__all__ = ['apply_patches', 'undo_patches']

NUMPY_2 = np.lib.NumpyVersion(np.__version__) >= '2.0.0'
OWN = 'man_mm::'

_undo: ExitStack | None = None


def apply_patches() -> None:
    """Apply all patches, once."""
    global _undo
    if _undo is None:
        _undo = ExitStack()
        allow_checkpoint_globals(_undo)
        find_own_configs(_undo)
        explain_checkpoint_errors(_undo)
        restore_numpy_names(_undo)
        patch_mmcv_ops(_undo)


def undo_patches() -> None:
    """Leave other packages as they were before `apply_patches`."""
    global _undo
    if _undo is not None:
        _undo.close()
        _undo = None


def allow_checkpoint_globals(undo: ExitStack) -> None:
    """Let `torch.load` read MMEngine's own checkpoints.

    torch >= 2.6 loads with `weights_only=True`, and MMEngine <= 0.10.7 keeps its message hub (`HistoryBuffer`, numpy
    arrays and scalars), what a config says of a data set (`ConfigDict`), and the functions of a `OneCycleLR` in
    checkpoints: without this list `--resume` ends in an `UnpicklingError`.
    """
    if not hasattr(torch.serialization, 'safe_globals'):  # torch < 2.5 loads everything
        return
    multiarray = import_module('numpy._core.multiarray' if NUMPY_2 else 'numpy.core.multiarray')
    functions = [
        (function, f'numpy.{core}.multiarray.{name}')  # a checkpoint may come from the other numpy
        for name, function in (('_reconstruct', multiarray._reconstruct), ('scalar', multiarray.scalar))
        for core in ('core', '_core')
    ]
    dtypes = {type(np.dtype(kind)) for kind in np.typecodes['All'] if kind != 'O'}
    names = [
        (_method, 'builtins.getattr'),
        (_OneCycle, 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'),
    ]
    allowed = [HistoryBuffer, ConfigDict, np.ndarray, np.dtype, *names, *functions, *dtypes]
    undo.enter_context(torch.serialization.safe_globals(allowed))


class _OneCycle:
    """Stands in for MMEngine's scheduler in a checkpoint, which names its functions and makes none."""


def _method(owner: object, name: str) -> object:
    """Stands in for `getattr`, by which pickled records refer to functions of their own, and reaches nothing else."""
    if owner is HistoryBuffer and not name.startswith('_'):
        return getattr(owner, name)
    if owner is _OneCycle and name.startswith('_annealing_'):
        return getattr(OneCycleParamScheduler, name)
    raise TypeError(f'a checkpoint asks for attribute {name!r} of {owner!r}: refused.')


def find_own_configs(undo: ExitStack) -> None:
    """Let configs elsewhere inherit ours, as `_base_ = 'man_mm::man/retinanet_r34_man_k17_coco.py'`.

    MMEngine (0.10.7, onedl 0.10.12) takes `package::` from a fixed list of packages, looks for editable installs in a
    folder where they are not, and gives what it reads that package's scope, in which no detector is found: our configs
    are written in the scopes of the libraries that they inherit from.
    """
    locate = Config._get_cfg_path

    def locate_own(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if not cfg_path.startswith(OWN):
            return locate(cfg_path, filename)
        path = Path(__file__).parents[1] / '.mim' / 'configs' / cfg_path.removeprefix(OWN)
        if not path.is_file():
            raise FileNotFoundError(f'_base_={cfg_path!r}: man_mm has no such config; {path} does not exist.')
        return str(path), None

    Config._get_cfg_path = staticmethod(locate_own)
    undo.callback(setattr, Config, '_get_cfg_path', staticmethod(locate))


def restore_numpy_names(undo: ExitStack) -> None:
    """Before MMagic is imported, give numpy >= 2 the name `bool8` back, which MMagic 1.2.0 reads at import."""

    def restore() -> None:
        if NUMPY_2 and not hasattr(np, 'bool8'):
            np.bool8 = np.bool_  # type: ignore[attr-defined]
            undo.callback(delattr, np, 'bool8')

    act_before_import('mmagic', restore, undo)


def patch_mmcv_ops(undo: ExitStack) -> None:
    """When mmcv's ops are imported, let them take bfloat16."""
    act_on_import('mmcv.ops', lambda ops: compute_bfloat16_in_float32(ops, undo), undo)
