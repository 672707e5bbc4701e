"""Reads checkpoint files: damaged ones and ones that hold code are refused, with a message that names the file."""

import errno
import functools
import logging
import os.path as osp
import pickle
import re
import zipfile
from contextlib import ExitStack
from typing import Any

from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader, load_from_local

__all__ = ['explain_checkpoint_errors', 'read_checkpoint']

DAMAGE = re.compile(r'corrupt|unexpected EOF|wrong byte size|central directory|legacy \.tar')
"""What torch says of damaged files. Zeros, which a machine that lost power leaves, are an empty .tar file to it."""

REFUSED = re.compile(r"GLOBAL ([\w.]+) (?:was|whose)|but got <class '([\w.]+)'>")
"""What torch says of whole files in which it does not allow something, with its name."""


def read_checkpoint(filename: str, map_location: Any = None) -> Any:
    """Return what a local checkpoint file holds.

    torch >= 2.6 reads tensors and plain values only (`weights_only`), and so does not run what a pickle asks for.

    Args:
        filename: Path of the file.
        map_location: As in `torch.load`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is cut off or no checkpoint, or refers to code.
    """
    try:
        checkpoint = load_from_local(filename, map_location)
    except pickle.UnpicklingError as error:
        named = REFUSED.search(str(error))
        raise (_hostile(filename, named[1] or named[2]) if named else _damaged(filename)) from error
    except Exception as error:
        if not _is_damage(filename, error):
            raise
        raise _damaged(filename) from error
    _drop_code(checkpoint, filename)
    return checkpoint


def explain_checkpoint_errors(undo: ExitStack) -> None:
    """Let MMEngine read local files by `read_checkpoint`: to resume, for `load_from`, tests, pretrained weights.

    Args:
        undo: Gets what takes it back.
    """

    def load_from_local(filename: str, map_location: Any = None) -> Any:  # MMEngine logs this name from `local` on
        return read_checkpoint(filename, map_location)

    register = functools.partial(CheckpointLoader.register_scheme, prefixes='', force=True)
    undo.callback(register, loader=CheckpointLoader._schemes[''])
    register(loader=load_from_local)


def _is_damage(filename: str, error: Exception) -> bool:
    """Whether the file is why it could not be read, and not a device, memory, or who may read what."""
    if zipfile.is_zipfile(osp.expanduser(filename)) or isinstance(error, MemoryError):
        return False  # what is cut off is no zip file
    if isinstance(error, OSError):
        return error.errno == errno.EINVAL  # a small zip file, cut off: torch looks for its end before its beginning
    # bytes that are no pickle, read as one, are all kinds of other errors
    return not isinstance(error, RuntimeError) or DAMAGE.search(str(error)) is not None


def _damaged(filename: str) -> ValueError:
    return ValueError(
        f'{filename} ({osp.getsize(osp.expanduser(filename))} bytes) is cut off or no checkpoint: it cannot be read. '
        'If a run was killed while it wrote this file, resume from an earlier one (--resume EARLIER.pth); if it was '
        'copied or downloaded, fetch it again.'
    )


def _hostile(filename: str, name: str) -> ValueError:
    return ValueError(
        f'{filename} refers to {name}, which is neither a tensor nor a record of MMEngine: it could run any code, and '
        'was refused before anything of it ran. If you know who wrote the file and trust them, set the environment '
        'variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 once, to read it and save its weights again.'
    )


def _drop_code(checkpoint: Any, filename: str) -> None:
    """`Runner.resume` executes the text in `meta.config`, which MMEngine itself does not write."""
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    if isinstance(meta, dict) and meta.pop('config', None) is not None:
        print_log(
            f'{filename}: meta.config is left out; resuming would run it as Python code.',
            logger='current',
            level=logging.WARNING,
        )
