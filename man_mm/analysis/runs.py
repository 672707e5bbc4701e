"""Finished runs, by method: their configs and what they logged, as plain data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .scalars import newest_scalars, read_scalars

__all__ = ['Run', 'group_runs', 'read_run']

IGNORED = ('work_dir', 'log_level', 'launcher', 'resume', 'experiment_name', 'randomness.')
"""What keys begin with that say nothing of the method."""


@dataclass(frozen=True)
class Run:
    """A run.

    Args:
        folder: Name of its work folder.
        cfg: Its config, as MMEngine's runner wrote it.
        train: Rows logged in training, see `man_mm.analysis.scalars`.
        val: Rows logged in validation.
    """

    folder: str
    cfg: Config
    train: list[dict]
    val: list[dict]

    @property
    def settings(self) -> dict[str, Any]:
        """All keys of the config that tell of the method, dotted, without the seed.

        Keys of a wrapped backbone are those of a plain one; those of its `LocalBackbone` begin with `local`.
        """
        whole = self.cfg.to_dict()
        for name in ('backbone', 'generator'):
            net = whole.get('model', {}).get(name, {})
            if str(net.get('type')).endswith('LocalBackbone'):
                whole['model'][name] = net.pop('backbone')
                whole['local'] = {key: value for key, value in net.items() if key != 'type'}
                auxiliary = whole['local'].get('auxiliary') or {}
                if 'neck' in auxiliary and auxiliary['neck'] == whole['model'].get('neck'):
                    auxiliary['neck'] = "as the model's"
        return {key: value for key, value in _flat(whole) if not key.startswith(IGNORED)}

    @property
    def scores(self) -> dict[str, float]:
        """The metrics of the last validation."""
        last = self.val[-1] if self.val else {}
        return {key: value for key, value in last.items() if '/' in key and isinstance(value, (int, float))}


def read_run(folder: Path) -> Run:
    """Read what a work folder holds of its newest run.

    Raises:
        FileNotFoundError: If nothing has been logged there.
        ValueError: If no step of training has been logged, or there is no config.
    """
    train, val = read_scalars(folder)
    if not train:
        raise ValueError(f'{folder} has logged no step of training yet.')
    logged = newest_scalars(folder).with_name('config.py')  # a test leaves a newer one, with its own load_from
    configs = [logged] if logged.is_file() else sorted(folder.glob('*.py'))
    if not configs:
        raise ValueError(f'{folder} holds no config, neither {logged.relative_to(folder)} nor *.py.')
    return Run(folder.resolve().name, Config.fromfile(configs[-1]), train, val)


def group_runs(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs by method, in order: those of one method differ in the seed alone."""
    methods: dict[str, list[Run]] = {}
    for run in runs:
        methods.setdefault(repr(sorted(run.settings.items())), []).append(run)
    return list(methods.values())


def _flat(value: Any, place: str = '') -> Iterator[tuple[str, Any]]:
    """Leaves of nested dicts, and of lists that hold dicts, by their dotted keys."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f'{place}.{key}' if place else str(key))
    elif isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
        for index, inner in enumerate(value):
            yield from _flat(inner, f'{place}.{index}')
    else:
        yield place, value
