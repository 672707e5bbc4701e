"""Is the data that a config names there? Asked before anything is built."""

import os
import os.path as osp
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ['missing_data']


def missing_data(cfg: Mapping[str, Any], loaders: tuple[str, ...]) -> str | None:
    """Return one sentence on the first annotation file or folder that is missing or empty, or None.

    Args:
        cfg: A whole config.
        loaders: Keys of the data loaders to look at, e.g. `('train_dataloader', 'val_dataloader')`.
    """
    for place, dataset, key, path in _files(cfg, loaders):
        state = _state(path)
        if state is not None:
            root = dataset.get('data_root') or osp.dirname(path)
            return (
                f'The data set is missing: {place}.{key} is {path!r}, which {state}. Put the data under '
                f'{root!r} (relative to {osp.abspath(".")!r}), laid out as this config says and as upstream '
                f'prepares it, or link it there, or set {place}.data_root.'
            )
    return None


def _files(cfg: Mapping[str, Any], loaders: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, Any], str, str]]:
    """Every path that a data set reads, with the place of the set in the config, the set, and the path's key."""
    for loader in loaders:
        for place, dataset in _sets(cfg.get(loader), loader):
            yield from ((place, dataset, key, path) for key, path in _paths(dataset))


def _state(path: str) -> str | None:
    """The fault of `path`, if there is one; a URL is left to its backend."""
    if '://' in path:
        return None
    if not osp.exists(path):
        return 'does not exist'
    if not osp.isdir(path):
        return None
    with os.scandir(path) as entries:  # lazy: a folder may hold a hundred thousand images
        return None if any(entries) else 'is an empty folder'


def _sets(loader: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Data sets of a loader, or of a list of loaders, as MMagic's loops take them."""
    if isinstance(loader, (list, tuple)):
        for i, inner in enumerate(loader):
            yield from _sets(inner, f'{place}.{i}')
    elif loader:
        yield from _leaves(loader.get('dataset'), f'{place}.dataset')


def _leaves(dataset: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Data sets below wrappers such as RepeatDataset (`dataset`) and ConcatDataset (`datasets`)."""
    if not isinstance(dataset, Mapping):
        return
    if 'dataset' in dataset:
        yield from _leaves(dataset['dataset'], f'{place}.dataset')
    elif 'datasets' in dataset:
        for i, inner in enumerate(dataset['datasets']):
            yield from _leaves(inner, f'{place}.datasets.{i}')
    elif not dataset.get('backend_args'):  # files of a remote backend are not looked for here
        yield place, dataset


def _paths(dataset: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    root = dataset.get('data_root') or ''
    if root and str(dataset.get('type')).startswith('man_mm.') and not dataset.get('download'):
        yield 'data_root', root  # upstream's sets of this kind may download theirs
    if dataset.get('ann_file'):
        yield 'ann_file', _join(root, dataset['ann_file'])
    prefixes = dataset.get('data_prefix') or {}
    if isinstance(prefixes, str):
        prefixes = {'': prefixes}
    for key, prefix in prefixes.items():
        if isinstance(prefix, str):
            yield f'data_prefix.{key}'.rstrip('.'), _join(root, prefix)


def _join(root: str, path: str) -> str:
    return path if '://' in path else osp.join(root, path)
