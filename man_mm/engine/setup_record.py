"""Settings that have to be the same in all processes of a run, and in a run and the checkpoint that it resumes from."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch.distributed as dist
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from ..local import LocalBackbone
from ..local.names import AUXILIARIES

__all__ = ['check_fit', 'check_resume', 'describe', 'refuse_different_ranks', 'structure']

SHOWN = 4
ABSENT = '(absent)'


def structure(backbone: LocalBackbone, optim_wrapper: OptimWrapper) -> dict[str, str]:
    """What gives the state of an optimizer its meaning, beside the shapes of parameters. Kept in checkpoints."""
    return {
        'num_modules': str(backbone.num_modules),
        'partition': '; '.join(str(backbone.partition).splitlines()),
        'auxiliaries': ', '.join(type(module.auxiliary).__name__ for module in backbone.local_modules[:-1]),
        'modules of one auxiliary (share)': str(_shared_by(backbone)),
        'units of auxiliaries train': str(all(auxiliary.trains_units for auxiliary in backbone.auxiliaries)),
        'optimizer': type(getattr(optim_wrapper, 'optimizer', optim_wrapper)).__name__,
    }


def _shared_by(backbone: LocalBackbone) -> list[int]:
    """Index of the auxiliary that trains each module but the last one."""
    auxiliaries = list(backbone.auxiliaries)
    return [auxiliaries.index(module.auxiliary) for module in backbone.local_modules[:-1]]


def describe(model: nn.Module, backbone: LocalBackbone, optim_wrapper: OptimWrapper) -> dict[str, str]:
    """`structure`, all parameters, and every plain setting of backbone, auxiliaries, optim wrapper and optimizer."""
    record = structure(backbone, optim_wrapper)
    for name, p in model.named_parameters():
        kind = 'trained' if p.requires_grad else 'frozen'
        record[f'parameter {name}'] = f'{tuple(p.shape)} {p.dtype} {kind}'
    parts = {'backbone': backbone, 'partition': backbone.partition, 'optim_wrapper': optim_wrapper}
    record['bank'] = f'lent: {backbone.lends_bank}'
    parts |= {f'auxiliaries.{i}': auxiliary for i, auxiliary in enumerate(backbone.auxiliaries)}
    for place, part in parts.items():
        record |= {f'{place}.{key}': str(value) for key, value in _settings(vars(part))}
    for i, group in enumerate(optim_wrapper.optimizer.param_groups):
        record |= {f'optimizer group {i}.{key}': str(value) for key, value in _settings(group)}
    record['optim_wrapper.clip_grad'] = str(dict(optim_wrapper.clip_grad_kwargs or {}))
    record['optim_wrapper.accumulative_counts'] = str(optim_wrapper._accumulative_counts)
    return record


def _settings(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    plain = (bool, int, float, str, tuple, type(None))
    for key, value in values.items():
        if not key.startswith('_') and key != 'training' and isinstance(value, plain) and not _holds_objects(value):
            yield key, value


def _holds_objects(value: Any) -> bool:
    """Whether a tuple holds what prints its address."""
    return isinstance(value, tuple) and not all(isinstance(item, (bool, int, float, str)) for item in value)


def refuse_different_ranks(record: Mapping[str, str]) -> None:
    """Compare a record over all processes. Does nothing outside of distributed training.

    Raises:
        ValueError: On every process, naming the first rank that differs from rank 0, and in what.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    records: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(records, dict(record))
    for rank, other in enumerate(records):
        if other != records[0]:
            differences = _differences(other, records[0], f'rank {rank}', 'rank 0')
            raise ValueError(
                f'rank {rank} was started with another set-up than rank 0. {differences}. '
                'Start every process with the same config, the same options and the same code.'
            )


def check_resume(checkpoint: Mapping[str, Any], own: Mapping[str, str], model: nn.Module) -> None:
    """Refuse to continue with an optimizer state that belongs to other parameters.

    Args:
        checkpoint: As loaded; one of a plain or an older run has no `structure` in it and is judged by its tensors.
        own: `structure` of this run.
        model: The unwrapped model.

    Raises:
        ValueError: Naming what differs, and how to start from the weights alone.
    """
    stored = checkpoint.get('meta', {}).get('local_learning', {})  # may be of a version that noted less, or more
    kept = {**{key: stored.get(key, value) for key, value in own.items()}, **_tensors(_state_dict(checkpoint))}
    wanted = {**own, **_tensors(model.state_dict())}
    if kept != wanted:
        differences = _differences(wanted, kept, 'the config', 'the checkpoint')
        raise ValueError(
            f'the checkpoint cannot be resumed with this config. {differences}. '
            'Momenta and counts would go to other parameters. Resume with the config that the checkpoint was trained '
            'with, or start from its weights alone: load_from=CHECKPOINT, without --resume.'
        )


def check_fit(checkpoint: Mapping[str, Any], model: nn.Module, backbone: LocalBackbone) -> None:
    """Refuse a checkpoint of which nothing fits the backbone, where MMEngine would go on with initial weights.

    Raises:
        ValueError: If not one tensor fits. Below half of them, it is a warning.
    """
    path = next(name for name, module in model.named_modules() if module is backbone)
    prefix = path.removeprefix('module.') + '.'  # of a model in upstream's test-time augmentation
    own = {key: shape for key, shape in _tensors(model.state_dict()).items() if _of_backbone(key, prefix)}
    theirs = _tensors(_state_dict(checkpoint))
    fitting = sum(theirs.get(key) == shape for key, shape in own.items())
    if 2 * fitting >= len(own):
        return
    message = (
        f'{fitting} of the {len(own)} tensors of {prefix[:-1]} ({type(backbone.backbone).__name__}) are in the '
        f'checkpoint, which has {len(theirs)}, e.g. {[key.removeprefix("tensor ") for key in list(theirs)[:2]]}: it is '
        'of another model.'
    )
    if not fitting:
        raise ValueError(
            f'{message} Weights of a part alone, a backbone or the detector in a tracker, belong into its init_cfg, '
            'not into load_from.'
        )
    print_log(f'{message} The rest keeps its initial weights.', logger='current', level=logging.WARNING)


def _of_backbone(key: str, prefix: str) -> bool:
    name = key.removeprefix('tensor ')
    return name.startswith(prefix) and not name.startswith(prefix + AUXILIARIES)


def _state_dict(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    return checkpoint.get('state_dict', checkpoint)


def _tensors(state_dict: Mapping[str, Any]) -> dict[str, str]:
    return {
        f'tensor {key.removeprefix("module.")}': str(tuple(value.shape))
        for key, value in state_dict.items()
        if isinstance(value, Tensor)
    }


def _differences(ours: Mapping[str, str], theirs: Mapping[str, str], this: str, other: str) -> str:
    keys = [key for key in {**theirs, **ours} if ours.get(key) != theirs.get(key)]
    lines = [f'{key} ({this}: {ours.get(key, ABSENT)}; {other}: {theirs.get(key, ABSENT)})' for key in keys[:SHOWN]]
    more = f', and {len(keys) - SHOWN} more' if len(keys) > SHOWN else ''
    return f'What differs: {", ".join(lines)}{more}'
