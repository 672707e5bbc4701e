"""What the installed stack lacks; each shim names the versions that need it."""

import atexit
import gc
import sys
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODEL_WRAPPERS
from torch.nn.parallel import DistributedDataParallel

__all__ = [
    'allow_checkpoint_globals',
    'find_own_configs',
    'prepare_cpu_processes',
    'read_config',
    'restore_numpy_names',
]

NUMPY_2 = np.lib.NumpyVersion(np.__version__) >= '2.0.0'
OWN = 'man_mm::'


def allow_checkpoint_globals() -> None:
    """Let `torch.load` read MMEngine's own checkpoints.

    torch >= 2.6 loads with `weights_only=True`, and MMEngine <= 0.10.7 keeps its message hub (`HistoryBuffer`, numpy
    arrays and scalars) in every checkpoint: without this list `--resume` ends in an `UnpicklingError`.
    """
    if not hasattr(torch.serialization, 'add_safe_globals'):  # torch < 2.4 loads everything
        return
    multiarray = import_module('numpy._core.multiarray' if NUMPY_2 else 'numpy.core.multiarray')
    functions = [
        (function, f'numpy.{core}.multiarray.{name}')  # a checkpoint may come from the other numpy
        for name, function in (('_reconstruct', multiarray._reconstruct), ('scalar', multiarray.scalar))
        for core in ('core', '_core')
    ]
    dtypes = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)]
    torch.serialization.add_safe_globals(
        [HistoryBuffer, (_history_method, 'builtins.getattr'), np.ndarray, np.dtype, *functions, *dtypes]
    )


def _history_method(owner: object, name: str) -> object:
    """Stands in for `getattr`, by which a pickled HistoryBuffer refers to its own methods, and reaches nothing else."""
    if owner is not HistoryBuffer or name.startswith('_'):
        raise TypeError(f'a checkpoint asks for attribute {name!r} of {owner!r}: refused.')
    return getattr(owner, name)


def restore_numpy_names() -> None:
    """Give numpy >= 2 the name `bool8` back, which MMagic 1.2.0 reads at import."""
    if NUMPY_2 and not hasattr(np, 'bool8'):
        np.bool8 = np.bool_  # type: ignore[attr-defined]


def find_own_configs() -> None:
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


def read_config(path: str) -> Config:
    """Read a config file, for a command line.

    Raises:
        SystemExit: If it inherits from MMagic, which is optional, and MMagic is not installed; says how to install it.
    """
    try:
        return Config.fromfile(path)
    except ModuleNotFoundError as error:
        if 'mmagic' not in str(error):
            raise
        sys.exit(
            f'{path} is a config for super-resolution, which needs MMagic: '
            'pip install -r requirements/sr.txt -c requirements/constraints.txt'
        )


def prepare_cpu_processes(cfg: Config) -> None:
    """Let `--launcher pytorch` run without an accelerator: MMEngine <= 0.10.7 launches on GPUs alone.

    Starts the gloo process group, which the runner then finds running, ends it when the interpreter exits, and tells
    the runner to wrap the model in a DDP that is bound to no device, unless the config names a wrapper of another kind.
    Does nothing where there is a GPU, or no launcher.
    """
    if cfg.launcher != 'pytorch' or get_device() != 'cpu':
        return
    seconds = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
    torch.distributed.init_process_group('gloo', timeout=None if seconds is None else timedelta(seconds=seconds))
    atexit.register(_end_cpu_processes)
    own = cfg.get('model_wrapper_cfg', {})
    kind = own.get('type')
    kind = MODEL_WRAPPERS.get(kind) if isinstance(kind, str) else kind
    if kind is not None and not issubclass(kind, DistributedDataParallel):
        return
    wrapper = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    cfg.model_wrapper_cfg = {**wrapper, **own, 'device_ids': None}


def _end_cpu_processes() -> None:
    """Join gloo's threads: one that lets go of a tensor while the interpreter ends aborts a run that has finished."""
    gc.collect()  # a model's DDP wrapper keeps the group
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
