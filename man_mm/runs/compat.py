"""What command lines do where the installed stack falls short; see `patches` for what is patched."""

import atexit
import gc
import os
import sys
from datetime import timedelta
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODEL_WRAPPERS
from torch.nn.parallel import DistributedDataParallel

__all__ = ['prepare_cpu_processes', 'read_config']


def read_config(path: str) -> Config:
    """Read a config for a command line: a file, or one of an installed library, `mmdet::retinanet/...`.

    Raises:
        SystemExit: If there is no such config, or it cannot be read; if it inherits from MMagic, which is optional, and
            MMagic is not installed: says how to install it.
    """
    try:
        cfg = _read_installed(path) if '::' in path else Config.fromfile(path)
    except (AssertionError, OSError) as error:  # MMEngine's, of a name that it does not know
        sys.exit(f'{path}: {error}')
    except ModuleNotFoundError as error:
        if 'mmagic' not in str(error):
            raise
        sys.exit(
            f'{path} is a config for super-resolution, which needs MMagic: '
            'pip install -r requirements/sr.txt -c requirements/constraints.txt'
        )
    for key, loader in cfg.items():
        collate = loader.get('collate_fn') if key.endswith('_dataloader') and isinstance(loader, dict) else None
        if isinstance(collate, dict):
            collate.pop('_scope_', None)  # of a base by its library's name; MMEngine hands it to the function
    return cfg


def _read_installed(name: str) -> Config:
    """What a config file without content has that inherits from `name`."""
    cfg = Config.fromstring(f'_base_ = {name!r}\n', '.py')
    return Config(cfg._cfg_dict, cfg_text=cfg.text, filename=name, env_variables=cfg.env_variables)


def prepare_cpu_processes(cfg: Config) -> None:
    """Let `--launcher pytorch` run without an accelerator: MMEngine <= 0.10.7 launches on GPUs alone.

    Starts the gloo process group, which the runner then finds running, ends it when the interpreter exits, and tells
    the runner to wrap the model in a DDP that is bound to no device, unless the config names a wrapper of another kind.
    Does nothing where there is a GPU, or no launcher.

    Raises:
        SystemExit: If there are GPUs, but fewer than processes of this machine: NCCL gives each one of its own.
    """
    if cfg.launcher == 'pytorch':
        _refuse_too_few_gpus()
    if cfg.launcher != 'pytorch' or get_device() != 'cpu':
        return
    seconds = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
    timeout: dict[str, Any] = {} if seconds is None else dict(timeout=timedelta(seconds=seconds))  # torch 2.1: no None
    torch.distributed.init_process_group('gloo', **timeout)
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


def _refuse_too_few_gpus() -> None:
    gpus, processes = torch.cuda.device_count(), int(os.environ.get('LOCAL_WORLD_SIZE', '1'))
    if 0 < gpus < processes:
        sys.exit(
            f'--launcher pytorch: {processes} processes on this machine, which has {gpus} GPU(s), and each needs one '
            "of its own. Start fewer (--nproc_per_node), or hide the GPUs to train on CPUs: CUDA_VISIBLE_DEVICES=''."
        )


def _end_cpu_processes() -> None:
    """Join gloo's threads: one that lets go of a tensor while the interpreter ends aborts a run that has finished."""
    gc.collect()  # a model's DDP wrapper keeps the group
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
