"""Checks of the official files of data sets; what is wrong is named with its cure."""

import os.path as osp

import numpy as np
from torchvision.datasets.utils import check_integrity

__all__ = ['check_file', 'check_labels']


def check_file(path: str, md5: str | None, cure: str) -> None:
    """See that a file is there, and that it is the official one if `md5` is given.

    Args:
        path: Where it should be.
        md5: Of the official file.
        cure: How users get it, the beginning of a sentence.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it has another md5 sum.
    """
    if not osp.isfile(path):
        raise FileNotFoundError(
            f'{path} is missing (looked for below {osp.abspath(".")!r}). {cure}, or set dataset.data_root, or '
            'dataset.download=True.'
        )
    if not check_integrity(path, md5):
        raise ValueError(
            f'{path} is not the official file: its md5 sum is not {md5}. If it holds the same images, packed anew, set '
            'dataset.check_md5=False.'
        )


def check_labels(labels: np.ndarray, path: str) -> None:
    """Raise ValueError if a label of `path` is not 0 to 9."""
    wrong = sorted({int(label) for label in labels if not 0 <= label <= 9})
    if wrong:
        raise ValueError(f'{path} holds labels {wrong[:5]}, but they must be 0 to 9: it is another file.')
