"""SVHN, format 2: digits cropped from photographs of house numbers (Netzer et al., 2011)."""

from typing import Any, ClassVar

from torchvision.datasets import SVHN as TorchvisionSVHN

from ...registry import DATASETS
from .torchvision_dataset import Arrays, TorchvisionDataset

__all__ = ['SVHN']


@DATASETS.register_module()
class SVHN(TorchvisionDataset):
    """`{train,extra,test}_32x32.mat`: 73,257, 531,131 and 26,032 images of 32 x 32 px. See `TorchvisionDataset`.

    The digit 0, which the files label 10, gets label 0. Reading them needs scipy.
    """

    METAINFO: ClassVar[dict[str, Any]] = {'classes': tuple('0123456789')}
    splits = ('train', 'extra', 'test')
    size = 32

    def files(self) -> tuple[str, dict[str, str]]:
        """See `TorchvisionDataset.files`."""
        url, name, md5 = TorchvisionSVHN.split_list[self.split]
        return f'Put {url} there', {name: md5}

    def read(self, download: bool) -> Arrays:
        """See `TorchvisionDataset.read`."""
        return _Reader(self.data_root, self.split, self.check_md5, download)


class _Reader(TorchvisionSVHN):
    """Torchvision's, whose check of md5 sums can be switched off."""

    def __init__(self, root: str, split: str, check_md5: bool, download: bool) -> None:
        if not check_md5:
            self.split_list = {key: [url, name, None] for key, (url, name, _) in self.split_list.items()}
        super().__init__(root, split, download=download)
