"""Classification data sets for MMPretrain, read from their official files."""

from .cifar10 import CIFAR10
from .stl10 import STL10
from .svhn import SVHN

__all__ = ['CIFAR10', 'STL10', 'SVHN']
