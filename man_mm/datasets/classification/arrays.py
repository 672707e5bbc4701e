"""What data sets have in common whose files are arrays of images."""

import os.path as osp
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from mmpretrain.datasets import BaseDataset

__all__ = ['ArrayDataset', 'check_labels', 'require_file']


class ArrayDataset(BaseDataset):
    """Images that are held in memory: `img` (H, W, 3) RGB, uint8, and `gt_label`.

    Args:
        data_root: The folder with the official files.
        split: Which of `splits`.
        kwargs: See mmpretrain's `BaseDataset`.

    Raises:
        ValueError: If `split` is unknown, or a file does not hold what it should.
        FileNotFoundError: If a file is missing.
    """

    splits: ClassVar[tuple[str, ...]]

    def __init__(self, data_root: str, split: str = 'train', **kwargs: Any) -> None:
        if split not in self.splits:
            raise ValueError(f'dataset.split={split!r} of {type(self).__name__} must be one of {self.splits}.')
        self.split = split
        super().__init__(ann_file='', data_root=data_root, **kwargs)

    @abstractmethod
    def load_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return images (N, H, W, 3), uint8, and labels (N,) from 0."""

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read the files of the split."""
        images, labels = self.load_arrays()
        return [dict(img=image, gt_label=label) for image, label in zip(images, labels.tolist(), strict=True)]


def require_file(path: str, source: str) -> str:
    """Return `path`.

    Raises:
        FileNotFoundError: If it does not exist.
    """
    if not osp.isfile(path):
        raise FileNotFoundError(
            f'{path} is missing (looked for below {osp.abspath(".")!r}). Get it from {source} and put it there, or set '
            'dataset.data_root.'
        )
    return path


def check_labels(labels: np.ndarray, first: int, last: int, path: str) -> None:
    """Raise ValueError if a label of `path` is not in `first` to `last`."""
    wrong = sorted({int(label) for label in labels if not first <= label <= last})
    if wrong:
        raise ValueError(f'{path} holds labels {wrong[:5]}, but they must be {first} to {last}: it is another file.')
