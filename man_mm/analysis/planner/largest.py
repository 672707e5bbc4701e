"""The largest batches whose training step fits in given memories, setting by setting."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from .candidates import Planner
from .search import Estimate, Setting

__all__ = ['Largest', 'largest_batch', 'largest_batches', 'worth_showing']

MOST_IMAGES = 1 << 16
"""No larger batch is looked for."""

STRIDE = 8
"""How much larger a batch is tried at most: its images are real."""


@dataclass(frozen=True)
class Largest:
    """What fits with one setting.

    Args:
        setting: The setting.
        images: The largest batch by budget in bytes, at most 65536; 0 where not even the smallest fits.
        peak_bytes: What a step of that batch needs, by budget; where nothing fits, a step of the smallest batch, which
            is one image, or two where an auxiliary normalises over the batch.
        flops: Floating-point operations of a step, an image, with what is recomputed.
    """

    setting: Setting
    images: dict[int, int]
    peak_bytes: dict[int, int]
    flops: float


def largest_batches(
    cfg: Config,
    budgets: Sequence[Any],
    size: tuple[int, int] | None = None,
    device: str = 'cpu',
    report: Callable[[Estimate], None] = lambda _: None,
) -> Iterator[Largest]:
    """Find the largest batches of back-propagation, plain and recomputed, and of every K; see `worth_showing`.

    A setting is yielded as soon as it is known.

    With `tail_chunks` a peak rises in steps as the batch does, and the answer may be an image or two too small.

    Args:
        cfg: See `make_plan`; its batch does not matter.
        budgets: Memories of a step, e.g. '11GiB'.
        size: Height and width of the images in px; None for the backbone's `probe_size`.
        device: See `FakeTrainStep`.
        report: Told each estimate as soon as it is made.

    Raises:
        ValueError: As `make_plan`.
    """
    planner = Planner(cfg)
    limits = [planner.budget(budget) for budget in budgets]
    planner.prepare(size, device)
    for setting in worth_showing(planner.settings()):
        yield _find_largest(planner, setting, limits, report)


def _find_largest(
    planner: Planner, setting: Setting, budgets: Sequence[int], report: Callable[[Estimate], None]
) -> Largest:
    known: dict[int, Estimate] = {}

    def peak(images: int) -> int:
        if images not in known:
            known[images] = planner.estimate(setting, report, images)
        return known[images].peak_bytes

    least = 1
    try:
        peak(least)
    except ValueError:  # some auxiliaries normalise over the batch; what else is wrong is raised again
        least = 2
    images = {budget: largest_batch(peak, budget, least) for budget in budgets}
    peaks = {budget: known[max(num, least)].peak_bytes for budget, num in images.items()}
    most = max(known)
    return Largest(setting, images, peaks, known[most].flops / most)


def largest_batch(peak: Callable[[int], int], budget: int, least: int = 1) -> int:
    """The most images, `least` or more, whose peak is at most `budget`; 0 if there are none.

    A peak is the highest of several amounts, in a module or in the update, that are linear in the images: a convex
    function. So beyond two batches that fit, the line through their peaks lies below the peaks, and bounds the answer;
    between a batch that fits and one that does not, it lies above, and leads to one that fits.
    """
    if peak(least) > budget:
        return 0

    def reached(below: int, above: int) -> int:
        """Where the line through two batches meets the budget."""
        slope = (peak(above) - peak(below)) / (above - below)
        return below + int((budget - peak(below)) / slope) if slope > 0 else MOST_IMAGES

    fits, before, over, guess = least, 0, MOST_IMAGES + 1, STRIDE * least
    while True:
        if peak(guess) <= budget:
            fits, before = guess, fits
        else:
            over = guess
        at_most = min(reached(before, fits), over - 1) if before else over - 1
        if at_most <= fits:
            return fits
        was_too_large = over == guess
        guess = max(reached(fits, over), fits + 1) if was_too_large else STRIDE * fits
        guess = min(guess, at_most)


def worth_showing(settings: Sequence[Setting]) -> list[Setting]:
    """Of what `list_settings` gives: back-propagation, plain and recomputed, and every K by one policy of cuts.

    With cuts, heads are recomputed, which never raises the peak; blocks, too, where a module has two of them or more.
    """
    whole = [s for s in settings if s.num_modules == 1]
    cut = [s for s in settings if s.num_modules > 1]
    if not cut:
        return list(dict.fromkeys([whole[0], whole[-1]]))
    policies = [s.partition for s in cut]
    policy = 'memory' if 'memory' in policies else policies[0]
    most = max(s.num_modules for s in cut)  # its cuts are the same by any policy
    heads = any(s.heads for s in cut)
    shown = [s for s in cut if s.heads == heads and (s.partition == policy or s.num_modules == most)]
    return [
        *dict.fromkeys([whole[0], whole[-1]]),
        *(s for s in shown if not s.blocks or 2 * s.num_modules <= most),
    ]
