"""Settings of a training step, and the search for the fastest one that fits a memory: no networks.

Operations stand for time. They include what is recomputed. Three things are taken for granted, so that not every
setting has to be estimated:

- Recomputing never takes fewer operations, nor do more modules by the same policy. (Where an auxiliary takes fewer than
  its cut saves in backward, time would not follow them anyway: fewer modules are preferred then.)
- Back-propagation without anything recomputed is the fastest of all.
- Recomputing heads never raises the peak. Blocks are another matter: a module of one block holds no less for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

__all__ = ['Estimate', 'Setting', 'fastest', 'list_settings', 'search']


@dataclass(frozen=True)
class Setting:
    """Choices of a plan.

    Args:
        num_modules: K.
        partition: Policy of the cuts; None if K = 1.
        eager: Whether `optim_wrapper.eager_step` is turned on.
        blocks: Whether the backbone's blocks are made to be recomputed in backward (`with_cp`).
        heads: Whether necks and dense heads are, the model's and the auxiliaries' own.
    """

    num_modules: int
    partition: str | None = None
    eager: bool = False
    blocks: bool = False
    heads: bool = False

    def is_no_faster_than(self, other: 'Setting') -> bool:
        """Whether it cannot take fewer operations than `other`."""
        cuts_more = self.num_modules >= other.num_modules and self.partition == other.partition
        is_cut = cuts_more or other.num_modules == 1
        return is_cut and self.blocks >= other.blocks and self.heads >= other.heads

    def __str__(self) -> str:
        recomputed = ' and '.join(name for name in ('blocks', 'heads') if getattr(self, name))
        parts = (
            'K=1 (back-propagation)' if self.num_modules == 1 else f'K={self.num_modules} {self.partition}',
            'eager step' if self.eager else '',
            f'{recomputed} recomputed' if recomputed else '',
        )
        return ', '.join(part for part in parts if part)


@dataclass(frozen=True)
class Estimate:
    """Needs of a setting.

    Args:
        setting: The setting.
        peak_bytes: The most that is live at once.
        split: These bytes by kind.
        flops: Floating-point operations of a step.
        images: Batch of the step; 0 if it does not matter.
    """

    setting: Setting
    peak_bytes: int
    split: dict[str, int]
    flops: float
    images: int = 0


def list_settings(
    max_modules: int, policies: Sequence[str], eager: bool, blocks: bool, heads: Sequence[bool]
) -> list[Setting]:
    """All settings, of equally fast ones the preferred first: few modules, little recomputed.

    Args:
        max_modules: Number of units that train.
        policies: Where cuts may be. They do not differ where K is `max_modules`.
        eager: Whether modules may be stepped at once: it takes no time, so then they are.
        blocks: Whether blocks can be recomputed.
        heads: Whether there are heads to recompute: of the model, and with its auxiliaries.
    """
    powers = [2**i for i in range(1, max_modules.bit_length()) if 2**i < max_modules]
    cuts: list[tuple[int, str | None]] = [(k, policy) for k in powers for policy in policies]
    if max_modules > 1:
        cuts.append((max_modules, policies[0]))
    return [
        Setting(k, policy, eager and k > 1, with_blocks, with_heads)
        for k, policy in [(1, None), *cuts]
        for with_blocks in (False, True)[: blocks + 1]
        for with_heads in (False, True)[: heads[k > 1] + 1]
    ]


def fastest(estimates: Sequence[Estimate], order: Sequence[Setting], budget: int) -> Estimate | None:
    """The one of those that fit in `budget` bytes that takes the fewest operations, in doubt the first by `order`."""
    if estimates[0].setting == order[0] and estimates[0].peak_bytes <= budget:
        return estimates[0]
    fitting = [estimate for estimate in estimates if estimate.peak_bytes <= budget]
    return min(fitting, key=lambda estimate: (estimate.flops, order.index(estimate.setting)), default=None)


def search(settings: Sequence[Setting], estimate: Callable[[Setting], Estimate], budget: int) -> list[Estimate]:
    """Estimate settings until `fastest` would not change: best first, by what is known of their operations.

    Of two that differ in the heads alone, the one that recomputes them is estimated first: if it does not fit, neither
    does the other.

    Args:
        settings: As `list_settings` gives them.
        estimate: Estimates one.
        budget: Bytes.

    Returns:
        The estimates, in the order in which they were made. If none fits, the least peak of all is among them.
    """
    made = [estimate(settings[0])]
    open_ = list(settings[1:])
    if made[0].peak_bytes <= budget:
        return made
    while True:
        best = fastest(made, settings, budget)
        limit = (best.flops, settings.index(best.setting)) if best else (float('inf'), 0)
        ranks = {setting: (_least_flops(setting, made), settings.index(setting)) for setting in open_}
        open_ = [setting for setting in open_ if ranks[setting] < limit]
        if not open_:
            return made
        chosen = min(open_, key=ranks.__getitem__)
        with_heads = replace(chosen, heads=True)
        chosen = with_heads if with_heads in open_ else chosen
        made.append(estimate(chosen))
        open_.remove(chosen)
        without_heads = replace(chosen, heads=False)
        if made[-1].peak_bytes > budget and without_heads in open_:
            open_.remove(without_heads)


def _least_flops(setting: Setting, made: Sequence[Estimate]) -> float:
    """The most that the estimates `made` tell of it from below."""
    return max(other.flops for other in made if setting.is_no_faster_than(other.setting))
