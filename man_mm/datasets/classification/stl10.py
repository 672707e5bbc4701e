"""STL-10: ten classes from ImageNet at 96 x 96 px (Coates et al., 2011). The unlabelled images are not read."""

import os.path as osp
from typing import Any, ClassVar

import numpy as np

from ...registry import DATASETS
from .arrays import ArrayDataset, check_labels, require_file

__all__ = ['STL10']

SOURCE = 'https://cs.stanford.edu/~acoates/stl10/'
SHAPE = (3, 96, 96)


@DATASETS.register_module()
class STL10(ArrayDataset):
    """`stl10_binary/{train,test}_{X,y}.bin`: 5,000 and 8,000 labelled images. See `ArrayDataset`."""

    METAINFO: ClassVar[dict[str, Any]] = {
        'classes': ('airplane', 'bird', 'car', 'cat', 'deer', 'dog', 'horse', 'monkey', 'ship', 'truck')
    }
    splits = ('train', 'test')

    def load_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """See `ArrayDataset.load_arrays`."""
        folder = osp.join(self.data_root, 'stl10_binary')
        images_path, labels_path = (
            require_file(osp.join(folder, f'{self.split}_{name}.bin'), SOURCE) for name in ('X', 'y')
        )
        pixels = np.fromfile(images_path, dtype=np.uint8)
        labels = np.fromfile(labels_path, dtype=np.uint8).astype(np.int64)
        num_images, rest = divmod(pixels.size, int(np.prod(SHAPE)))
        if rest or not num_images:
            raise ValueError(
                f'{images_path} has {pixels.size} bytes, but images take {np.prod(SHAPE)} each: it is cut off, or '
                'another file.'
            )
        if labels.size != num_images:
            raise ValueError(f'{labels_path} holds {labels.size} labels for the {num_images} images of {images_path}.')
        check_labels(labels, 1, 10, labels_path)
        # planes are stored column by column: (N, C, W, H)
        return np.ascontiguousarray(pixels.reshape(-1, *SHAPE).transpose(0, 3, 2, 1)), labels - 1
