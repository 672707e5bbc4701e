"""SVHN, format 2: digits cropped from photographs of house numbers (Netzer et al., 2011)."""

import os.path as osp
from typing import Any, ClassVar

import numpy as np

from ...registry import DATASETS
from .arrays import ArrayDataset, check_labels, require_file

__all__ = ['SVHN']

SOURCE = 'http://ufldl.stanford.edu/housenumbers/'


@DATASETS.register_module()
class SVHN(ArrayDataset):
    """`{train,extra,test}_32x32.mat`: 73,257, 531,131 and 26,032 images of 32 x 32 px. See `ArrayDataset`.

    The digit 0, which the files label 10, gets label 0.
    """

    METAINFO: ClassVar[dict[str, Any]] = {'classes': tuple('0123456789')}
    splits = ('train', 'extra', 'test')

    def load_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """See `ArrayDataset.load_arrays`."""
        from scipy.io import loadmat  # the only data set that needs scipy

        path = require_file(osp.join(self.data_root, f'{self.split}_32x32.mat'), SOURCE)
        try:
            content = loadmat(path)
        except Exception as error:  # scipy raises whatever its parser meets first
            raise ValueError(
                f'{path} cannot be read as a MATLAB file ({error}): it is cut off, or another file.'
            ) from None
        images, labels = content.get('X'), content.get('y')
        if not _is_images(images) or labels is None or labels.size != images.shape[3]:
            arrays = {key: value for key, value in content.items() if isinstance(value, np.ndarray)}
            found = {key: (value.shape, str(value.dtype)) for key, value in arrays.items()}
            raise ValueError(
                f'{path} must hold X (32, 32, 3, N), uint8, and y (N, 1), but holds {found}: it is another file, e.g. '
                'of the uncropped format 1.'
            )
        labels = labels.reshape(-1).astype(np.int64)
        check_labels(labels, 1, 10, path)
        return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels % 10


def _is_images(images: Any) -> bool:
    if not isinstance(images, np.ndarray) or images.ndim != 4:
        return False
    return images.shape[:3] == (32, 32, 3) and images.dtype == np.uint8 and images.size > 0
