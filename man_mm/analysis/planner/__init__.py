"""Which number of modules, cuts and recomputations fit in a memory, at the fewest operations."""

from .amounts import parse_bytes
from .candidates import local_attribute
from .largest import Largest, largest_batches
from .plan import Plan, carry_out_plan, make_plan, without_plan
from .search import Estimate, Setting, fastest, list_settings, search

__all__ = [
    'Estimate',
    'Largest',
    'Plan',
    'Setting',
    'carry_out_plan',
    'fastest',
    'largest_batches',
    'list_settings',
    'local_attribute',
    'make_plan',
    'parse_bytes',
    'search',
    'without_plan',
]
