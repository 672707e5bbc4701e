"""What is measured of a call: time in turns with others, waits, kernels, memory by the allocator."""

import gc
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from checks import Skip
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ['kernels', 'operator_peaks', 'peak', 'ranges', 'times_in_turns', 'waits']

MIB = 2**20
Call = Callable[[], Any]


def times_in_turns(
    calls: Mapping[str, Call], device: str, rounds: int = 5, burst: int = 1, warm: int = 1
) -> dict[str, dict[str, float]]:
    """Milliseconds of each call, in turns, so that a slow moment of the machine hits all.

    Args:
        calls: By name; the first is what the others are compared with.
        device: Where they compute.
        rounds: Turns of each.
        burst: Calls a turn, without a wait between them.
        warm: Calls of each before the first turn.

    Returns:
        By name: `ms`, the median; `ms_range`; `issue_ms`, until the CPU had asked for all of it: near `ms`, launches
        and waits bound the call, not the GPU; `ratio`, the median of the ratios to the first in the same round.
    """
    for _ in range(warm):
        for call in calls.values():
            call()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(_burst(call, device, burst))
    first = [ms for ms, _ in next(iter(taken.values()))]
    return {
        name: dict(
            ms=statistics.median(ms for ms, _ in pairs),
            ms_range=[min(pairs)[0], max(pairs)[0]],
            issue_ms=statistics.median(issued for _, issued in pairs),
            ratio=statistics.median(ms / own for (ms, _), own in zip(pairs, first, strict=True)),
        )
        for name, pairs in taken.items()
    }


def _burst(call: Call, device: str, burst: int) -> tuple[float, float]:
    _synchronize(device)
    begin = time.perf_counter()
    for _ in range(burst):
        call()
    issued = time.perf_counter()
    _synchronize(device)
    return 1e3 * (time.perf_counter() - begin) / burst, 1e3 * (issued - begin) / burst


def _synchronize(device: str) -> None:
    if device != 'cpu':
        torch.cuda.synchronize()


def waits(call: Call, device: str) -> dict[str, Any]:
    """How often a call waits for the device, and where: `sites`, by file and line."""
    if device == 'cpu':
        raise Skip('needs a GPU')
    torch.cuda.set_sync_debug_mode('warn')
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            call()
    finally:
        torch.cuda.set_sync_debug_mode('default')
    sites = Counter(
        f'{"/".join(Path(w.filename).parts[-3:])}:{w.lineno}' for w in caught if 'synchroniz' in str(w.message)
    )
    return dict(total=sites.total(), sites=dict(sites.most_common(25)))


def _profiled(call: Call, device: str) -> list[Any]:
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device != 'cpu')
    with profile(activities=kinds) as seen:
        call()
        _synchronize(device)
    # torch's own tables take seconds for ten thousand kernels
    return seen.profiler.kineto_results.events()


def kernels(call: Call, device: str) -> dict[str, Any]:
    """Number of kernels of a call, and the time that the device is busy with them: what would be left of the call
    without launches and waits.
    """
    if device == 'cpu':
        raise Skip('needs a GPU')
    events = _profiled(call, device)
    own = {event.name() for event in events if event.device_type() == DeviceType.CPU}
    # a range of the CPU has a twin among the device's events
    found = [event for event in events if event.device_type() == DeviceType.CUDA and event.name() not in own]
    top: Counter[str] = Counter()
    for event in found:
        top[event.name()[:60]] += event.duration_ns()
    return dict(
        kernels=len(found),
        busy_ms=sum(top.values()) / 1e6,
        top={name: nanoseconds / 1e6 for name, nanoseconds in top.most_common(8)},
    )


def ranges(call: Call, device: str) -> set[str]:
    """Names of everything that the profiler saw of a call."""
    return {event.name() for event in _profiled(call, device)}


def peak(call: Call, device: str) -> dict[str, float]:
    """MiB of a call at its peak by the allocator: allocated, what was asked for (blocks are rounded up), reserved."""
    if device == 'cpu':
        raise Skip('needs a GPU')
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    stats = torch.cuda.memory_stats()
    kinds = dict(peak='allocated_bytes', requested='requested_bytes', reserved='reserved_bytes')
    return {f'{name}_mib': stats[f'{kind}.all.peak'] / MIB for name, kind in kinds.items()}


def operator_peaks(call: Call, device: str) -> dict[str, Any]:
    """Memory that operators of a call take and give back within themselves, such as cuDNN's workspaces.

    Returns:
        `peak_mib`; `at`, the operator at the peak, and its `scratch_mib`; `without_scratch_mib`, the most that was
        allocated between operators; `largest`, the most scratch of an operator by its name.
    """
    if device == 'cpu':
        raise Skip('needs a GPU')
    gc.collect()
    torch.cuda.empty_cache()
    with _OperatorPeaks() as seen:
        call()
    largest = dict(sorted(seen.scratch.items(), key=lambda entry: -entry[1])[:8])
    return dict(
        peak_mib=seen.highest[0] / MIB,
        at=seen.highest[1],
        scratch_mib=seen.highest[2] / MIB,
        without_scratch_mib=seen.between / MIB,
        largest={name: num / MIB for name, num in largest.items()},
    )


class _OperatorPeaks(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.highest = (0, '', 0)
        self.between = 0
        self.scratch: dict[str, int] = {}
        torch.cuda.reset_peak_memory_stats()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self._see('outside of torch operators', 0)
        result = func(*args, **(kwargs or {}))
        self._see(str(func), before)
        return result

    def _see(self, name: str, before: int) -> int:
        """What `name` did to the allocator; returns what is allocated now."""
        allocated = torch.cuda.memory_stats_as_nested_dict()['allocated_bytes']['all']
        torch.cuda.reset_peak_memory_stats()
        now, highest = allocated['current'], allocated['peak']
        self.between = max(self.between, now)
        scratch = highest - max(before, now)
        self.scratch[name] = max(self.scratch.get(name, 0), scratch)
        if highest > self.highest[0]:
            self.highest = (highest, name, scratch)
        return now
