"""Auxiliary networks, one kind a file, all of one interface."""

from .base import Auxiliary
from .slm import SLM

__all__ = ['SLM', 'Auxiliary']
