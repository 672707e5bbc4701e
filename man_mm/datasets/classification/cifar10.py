"""CIFAR-10 as upstream reads it, also from re-packed files."""

import os.path as osp
import pickle
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmpretrain.datasets import CIFAR10 as UpstreamCIFAR10

from ...keys import switch
from ...registry import DATASETS
from .files import check_file, check_labels

__all__ = ['CIFAR10']


@DATASETS.register_module()
class CIFAR10(UpstreamCIFAR10):
    """Upstream's CIFAR10, whose check of the files' md5 sums can be switched off.

    Args:
        check_md5: False reads batch files of other md5 sums, as long as they hold what they should.
        download: Whether to download the data if it is not there.
        kwargs: See upstream's.

    Raises:
        FileNotFoundError: If a file is missing, and may not be downloaded.
        ValueError: If a file has another md5 sum, or does not hold images and labels.
    """

    def __init__(self, *args: Any, check_md5: bool = True, download: bool = False, **kwargs: Any) -> None:
        if not switch('dataset.check_md5', check_md5):
            self.train_list = [[name, None] for name, _ in UpstreamCIFAR10.train_list]
            self.test_list = [[name, None] for name, _ in UpstreamCIFAR10.test_list]
            self.meta = {**UpstreamCIFAR10.meta, 'md5': None}
        super().__init__(*args, download=download, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Check the files, then read them as upstream does."""
        if not self.download:
            self._check_files()
        return super().load_data_list()

    def _check_files(self) -> None:
        folder = osp.join(self.data_prefix['root'], self.base_folder)
        if not is_main_process():
            return
        for name, md5 in (*self.train_list, *self.test_list):
            path = osp.join(folder, name)
            check_file(path, md5, f'Unpack {self.url} into {self.data_prefix["root"]!r}')
            if md5 is None:
                _check_batch(path)


def _check_batch(path: str) -> None:
    """Raise ValueError if `path` is no batch of CIFAR-10."""
    try:
        with open(path, 'rb') as file:
            content = pickle.load(file, encoding='latin1')
        images, labels = np.asarray(content['data']), np.asarray(content['labels'])
    except Exception as error:  # a pickle that is cut off raises whatever it meets first
        raise ValueError(
            f'{path} cannot be read as a batch of CIFAR-10 ({error!r}): it is cut off or another file.'
        ) from None
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != 3072 or labels.shape != images.shape[:1]:
        raise ValueError(
            f'{path} must hold data (N, 3072), uint8, and N labels, but holds data {images.shape}, {images.dtype}, and '
            f'labels {labels.shape}.'
        )
    check_labels(labels, path)
