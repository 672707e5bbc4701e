"""STL-10: ten classes from ImageNet at 96 x 96 px (Coates et al., 2011). The unlabelled images are not read."""

from typing import Any, ClassVar

from torchvision.datasets import STL10 as TorchvisionSTL10

from ...registry import DATASETS
from .torchvision_dataset import Arrays, TorchvisionDataset

__all__ = ['STL10']

FILES = {'train': TorchvisionSTL10.train_list[:2], 'test': TorchvisionSTL10.test_list}


@DATASETS.register_module()
class STL10(TorchvisionDataset):
    """`stl10_binary/{train,test}_{X,y}.bin`: 5,000 and 8,000 labelled images. See `TorchvisionDataset`."""

    METAINFO: ClassVar[dict[str, Any]] = {
        'classes': ('airplane', 'bird', 'car', 'cat', 'deer', 'dog', 'horse', 'monkey', 'ship', 'truck')
    }
    splits = ('train', 'test')
    size = 96

    def files(self) -> tuple[str, dict[str, str]]:
        """See `TorchvisionDataset.files`."""
        folder = TorchvisionSTL10.base_folder
        unpack = f'Unpack {TorchvisionSTL10.url} into {self.data_root!r}'
        return unpack, {f'{folder}/{name}': md5 for name, md5 in FILES[self.split]}

    def read(self, download: bool) -> Arrays:
        """See `TorchvisionDataset.read`."""
        return _Reader(self.data_root, self.split, self.check_md5, download)


class _Reader(TorchvisionSTL10):
    """Torchvision's, which asks for the files of its split alone, and whose check of md5 sums can be switched off."""

    def __init__(self, root: str, split: str, check_md5: bool, download: bool) -> None:
        files = [[name, md5 if check_md5 else None] for name, md5 in FILES[split]]
        self.train_list, self.test_list = (files, []) if split == 'train' else ([], files)
        super().__init__(root, split, download=download)
