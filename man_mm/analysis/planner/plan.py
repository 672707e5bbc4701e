"""A plan: the number of modules, their cuts, and what is recomputed, so that training fits in a given memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger

from ..memory import KINDS
from .candidates import Planner
from .search import Estimate, Setting, fastest, search

__all__ = ['Plan', 'carry_out_plan', 'make_plan', 'without_plan']

MIB = 2**20


@dataclass(frozen=True)
class Plan:
    """The fastest setting that fits.

    Args:
        budget: Bytes that were given.
        estimates: What was estimated, in that order; plain back-propagation is the first.
        batch: Images of a step.
        size: Their height and width in px.
        chosen: None if nothing fits.
        cfg: The config with the chosen setting in it, and no `plan`.
    """

    budget: int
    estimates: tuple[Estimate, ...]
    batch: int
    size: tuple[int, int]
    chosen: Estimate | None = None
    cfg: Config | None = None

    def __str__(self) -> str:
        where = f'batch {self.batch}, {self.size[0]} x {self.size[1]} px, {len(self.estimates)} settings estimated'
        if self.chosen is not None:
            ratio = self.chosen.flops / self.estimates[0].flops
            return (
                f'{self.chosen.setting} fits in {_mib(self.budget)}: {_mib(self.chosen.peak_bytes)}, {ratio:.2f} times '
                f'the operations of back-propagation, which needs {_mib(self.estimates[0].peak_bytes)} ({where}).'
            )
        least = min(self.estimates, key=lambda estimate: estimate.peak_bytes)
        parts = ', '.join(f'{kind} {_mib(least.split[kind])}' for kind in KINDS)
        return (
            f'nothing fits in {_mib(self.budget)}: the least peak found is {_mib(least.peak_bytes)}, '
            f'{_mib(least.peak_bytes - self.budget)} too much, with {least.setting} ({where}). It consists of {parts}.'
        )


def without_plan(cfg: Config) -> Config:
    """The config with K = 1 in place of its plan: enough for a test, where no auxiliary takes part."""
    return Planner(cfg).config(Setting(1))


def make_plan(
    cfg: Config,
    budget: Any = None,
    size: tuple[int, int] | None = None,
    device: str = 'cpu',
    report: Callable[[Estimate], None] = lambda _: None,
) -> Plan:
    """Find the fastest setting in which a training step of the config fits in a memory; see `search`.

    Only K, and keys that the config leaves out, are chosen: `partition`, `optim_wrapper.eager_step`, the backbone's
    `with_cp`, functions for `ActivationCheckpointHook`. Auxiliary, task and batch stay. What counts is live tensors, as
    `step_cost` measures them; on CUDA, the context, workspaces of kernels and fragmentation come on top.

    Args:
        cfg: A whole config with a `LocalBackbone`.
        budget: E.g. '6GiB', or bytes; None for the config's `plan.memory`.
        size: Height and width of the images in px; None for the backbone's `probe_size`.
        device: See `FakeTrainStep`.
        report: Told each estimate as soon as it is made.

    Raises:
        ValueError: If budget or size are missing or wrong, the config names cuts, or its memory cannot be estimated.
    """
    planner = Planner(cfg)
    budget = planner.budget(budget)
    planner.prepare(size, device)
    settings = planner.settings()
    batch = cfg.train_dataloader.batch_size
    estimates = search(settings, lambda setting: planner.estimate(setting, report, batch), budget)
    chosen = fastest(estimates, settings, budget)
    return Plan(
        budget=budget,
        estimates=tuple(planner.estimates.values()),
        batch=batch,
        size=planner.size,
        chosen=chosen,
        cfg=chosen and planner.config(chosen.setting),
    )


def carry_out_plan(cfg: Config, device: str = 'cpu', say: Callable[[str], None] = print) -> tuple[Config, Plan | None]:
    """Make the plan that a config's own `plan` asks for; return the config to go on with, and the plan, if any.

    The same config gives the same plan, so every process of a run makes its own, and a resumed run the first one's.

    Args:
        cfg: A whole config.
        device: See `FakeTrainStep`.
        say: Told before the search, which takes a while, that there is one.

    Raises:
        ValueError: As `make_plan`, or if nothing fits.
    """
    if cfg.get('plan') is None:
        return cfg, None
    say(f'plan={dict(cfg.plan)}: looking for the fastest setting that fits ...')
    MMLogger.get_instance('plan', logger_name='plan', log_level='ERROR')  # else every candidate has its warnings
    plan = make_plan(cfg, device=device)
    if plan.cfg is None:
        raise ValueError(f'plan: {plan}')
    return plan.cfg, plan


def _mib(num_bytes: int) -> str:
    return f'{num_bytes / MIB:.1f} MiB'
