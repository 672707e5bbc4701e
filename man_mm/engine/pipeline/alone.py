"""A process of many that computes as if there were no other one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

__all__ = ['alone', 'group_of_one']


def group_of_one() -> dist.ProcessGroup:
    """A group that has this process alone."""
    return dist.new_group([dist.get_rank()], use_local_synchronization=True)


@contextmanager
def alone(group: dist.ProcessGroup) -> Iterator[None]:
    """Make `group` the world, for all that asks torch or MMEngine for ranks and sizes, or reduces over the world.

    Upstream's heads average their normalisers over the world (MMDetection's `reduce_mean`), samplers divide data by it,
    SyncBN its statistics. Processes that train other modules would average what does not belong together, and would
    wait for each other.
    """
    world = dist.GroupMember.WORLD
    dist.GroupMember.WORLD = group
    try:
        yield
    finally:
        dist.GroupMember.WORLD = world
