"""Data sets: checks before a run."""

from .available import missing_data

__all__ = ['missing_data']
