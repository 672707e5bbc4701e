"""Data sets that torchvision reads, in the form that MMPretrain takes."""

import os.path as osp
from abc import abstractmethod
from typing import Any, ClassVar, Protocol

import numpy as np
from mmengine.dist import barrier, is_main_process
from mmpretrain.datasets import BaseDataset

from ...keys import switch
from .files import check_file, check_labels

__all__ = ['Arrays', 'TorchvisionDataset']


class Arrays(Protocol):
    """A data set of torchvision: images (N, 3, H, W), uint8, RGB, and labels (N,) from 0."""

    data: np.ndarray
    labels: np.ndarray


class TorchvisionDataset(BaseDataset):
    """Images of ten classes that are held in memory: `img` (H, W, 3) RGB, uint8, and `gt_label`.

    Args:
        data_root: The folder with the official files.
        split: Which of `splits`.
        check_md5: False reads files of other md5 sums, as long as they hold what they should.
        download: Whether to download the data if it is not there.
        kwargs: See mmpretrain's `BaseDataset`.

    Raises:
        ValueError: If `split` is unknown, or a file has another md5 sum or does not hold what it should.
        FileNotFoundError: If a file is missing, and may not be downloaded.
    """

    splits: ClassVar[tuple[str, ...]]
    size: ClassVar[int]
    """Height and width of an image in px."""

    def __init__(
        self, data_root: str, split: str = 'train', check_md5: bool = True, download: bool = False, **kwargs: Any
    ) -> None:
        if split not in self.splits:
            raise ValueError(f'dataset.split={split!r} of {type(self).__name__} must be one of {self.splits}.')
        self.split = split
        self.check_md5 = switch('dataset.check_md5', check_md5)
        self.download = switch('dataset.download', download)
        super().__init__(ann_file='', data_root=data_root, **kwargs)

    @abstractmethod
    def files(self) -> tuple[str, dict[str, str]]:
        """How users get the files that the split needs, and the md5 sum of each by its path below `data_root`."""

    @abstractmethod
    def read(self, download: bool) -> Arrays:
        """Have torchvision read the split; with `download`, after it has got the files."""

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read the files of the split. Only the main process downloads them; the others wait."""
        if self.download:
            if is_main_process():
                self.read(download=True)
            barrier()
        cure, files = self.files()
        paths = [osp.join(self.data_root, name) for name in files]
        for path, md5 in zip(paths, files.values(), strict=True):
            check_file(path, md5 if self.check_md5 else None, cure)
        read = self._read_checked(' and '.join(paths))
        images = np.ascontiguousarray(read.data.transpose(0, 2, 3, 1))
        return [dict(img=image, gt_label=label) for image, label in zip(images, read.labels.tolist(), strict=True)]

    def _read_checked(self, name: str) -> Arrays:
        """Read files that may hold anything if their md5 sums were not looked at."""
        try:
            read = self.read(download=False)
        except Exception as error:  # a parser raises whatever it meets first
            raise ValueError(f'{name} cannot be read ({error!r}): cut off, or another file.') from None
        if read.data.shape[1:] != (3, self.size, self.size) or read.data.dtype != np.uint8:
            raise ValueError(
                f'{name} must hold images (N, 3, {self.size}, {self.size}), uint8, but holds {read.data.shape}, '
                f'{read.data.dtype}: another file.'
            )
        if read.labels.shape != read.data.shape[:1]:
            raise ValueError(f'{name} must hold a label for each of {len(read.data)} images, not {read.labels.shape}.')
        check_labels(read.labels, name)
        return read
