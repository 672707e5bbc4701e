"""What the installed stack lacks; each shim names the versions that need it."""

from importlib import import_module

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

__all__ = ['allow_checkpoint_globals']


def allow_checkpoint_globals() -> None:
    """Let `torch.load` read MMEngine's own checkpoints.

    torch >= 2.6 loads with `weights_only=True`, and MMEngine <= 0.10.7 keeps its message hub (`HistoryBuffer`, numpy
    arrays and scalars) in every checkpoint: without this list `--resume` ends in an `UnpicklingError`.
    """
    if not hasattr(torch.serialization, 'add_safe_globals'):  # torch < 2.4 loads everything
        return
    multiarray = import_module(
        'numpy._core.multiarray' if np.lib.NumpyVersion(np.__version__) >= '2.0.0' else 'numpy.core.multiarray'
    )
    functions = [
        (function, f'numpy.{core}.multiarray.{name}')  # a checkpoint may come from the other numpy
        for name, function in (('_reconstruct', multiarray._reconstruct), ('scalar', multiarray.scalar))
        for core in ('core', '_core')
    ]
    dtypes = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)]
    torch.serialization.add_safe_globals([HistoryBuffer, np.ndarray, np.dtype, *functions, *dtypes])
