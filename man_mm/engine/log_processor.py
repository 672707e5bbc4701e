"""LocalLogProcessor: the losses of all modules in a log line that can be read."""

import math
import re
from pathlib import Path
from typing import Any

from mmengine.runner import LogProcessor, Runner

__all__ = ['LocalLogProcessor']

ITEM = re.compile(r'  (local_\d+/\S+): \S+')
"""What MMEngine writes of one local term, with the two spaces before it."""
TOTAL = re.compile(r'(?:train/)?local_(\d+)/total')
"""The key of a local loss; it begins with `train/` under `log_with_hierarchy`."""
MOST = 8
"""So many local losses stand in a line one by one: with four digits after the point they are as long as its head."""
STATUS = Path('/proc/self/status')


class LocalLogProcessor(LogProcessor):
    """MMEngine's, with one item for all local losses in the line of a training iteration. Visualizers still get each.

    Up to `MOST` local losses are listed from the first module on: `local: 2.1041 1.9377 1.8020`. Of more, the line has
    those of the first, of the last and of the worst one, with the number of the module: `local: 2.2116 (00) ..
    2.0795 (14), highest 2.2613 (05)`.

    Local terms are means over `window_size` iterations, as MMEngine's losses are, in the line and for visualizers.

    Where MMEngine tells no `memory`, on a CPU, line and visualizers have `peak_rss_mib`: the most that the process has
    held resident since it began, in MiB, with its libraries and data. Only Linux tells it.
    """

    @classmethod
    def of(cls, processor: LogProcessor) -> LogProcessor:
        """One with the settings of `processor`. One that is no plain `LogProcessor` is returned as it is."""
        if type(processor) is not LogProcessor:
            return processor
        return cls(
            window_size=processor.window_size,
            by_epoch=processor.by_epoch,
            custom_cfg=processor.custom_cfg,
            num_digits=processor.num_digits,
            log_with_hierarchy=processor.log_with_hierarchy,
            mean_pattern=rf'{processor.mean_pattern.pattern}|local_\d+/',
        )

    def get_log_after_iter(self, runner: Runner, batch_idx: int, mode: str) -> tuple[dict[str, Any], str]:
        """What visualizers get, and the line."""
        tag, line = super().get_log_after_iter(runner, batch_idx, mode)
        if mode != 'train':
            return tag, line
        found = {key: TOTAL.fullmatch(key) for key in tag}
        totals = sorted(((match[1], tag[key]) for key, match in found.items() if match), key=lambda one: int(one[0]))
        first = next((item for item in ITEM.finditer(line) if not self._is_asked_for(item)), None)
        if totals and first:
            rest = ITEM.sub(lambda item: item[0] if self._is_asked_for(item) else '', line[first.start() :])
            line = f'{line[: first.start()]}  local: {self._told(totals)}{rest}'
        if 'memory' not in tag and STATUS.exists():
            tag['peak_rss_mib'] = _peak_rss_mib()
            line += f'  peak_rss_mib: {tag["peak_rss_mib"]}'
        return tag, line

    def _is_asked_for(self, item: re.Match[str]) -> bool:
        """Whether a term of the line has a name that the user gave it."""
        return any(item[1] == cfg.get('log_name') for cfg in self.custom_cfg)

    def _told(self, totals: list[tuple[str, float]]) -> str:
        """The local losses, of modules in order, in a few words."""
        written = [f'{value:.{self.num_digits}f}' for _, value in totals]
        if len(totals) <= MOST:
            return ' '.join(written)
        worst = max(range(len(totals)), key=lambda i: (math.isnan(totals[i][1]), totals[i][1]))
        first, last, highest = (f'{written[i]} ({totals[i][0]})' for i in (0, -1, worst))
        return f'{first} .. {last}, highest {highest}'


def _peak_rss_mib() -> int:
    """Of this process alone. `getrusage` would also count what the process that started this one held then."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith('VmHWM:'))
    return int(line.split()[1]) // 1024
