"""What a project of your own registers: a backbone, an auxiliary, and a model of a kind that man_mm does not know."""

from .backbone import PlainNet
from .counter import Counter, CounterReadout
from .probe import MeanProbe

__all__ = ['Counter', 'CounterReadout', 'MeanProbe', 'PlainNet']
