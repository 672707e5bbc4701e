"""Logged scalars of a finished run, as plain data."""

import json
from pathlib import Path

__all__ = ['newest_scalars', 'read_scalars']


def newest_scalars(work_dir: str | Path) -> Path:
    """The newest `scalars.json` below a work folder of MMEngine's runner. A test writes none.

    Raises:
        FileNotFoundError: If the folder holds no such file.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))  # the folders are named by time
    if not files:
        raise FileNotFoundError(f'{work_dir} holds no */vis_data/scalars.json: no run has logged there.')
    return files[-1]


def read_scalars(work_dir: str | Path) -> tuple[list[dict], list[dict]]:
    """Read `newest_scalars`.

    Returns:
        The rows logged in training (`step` counts iterations) and in validation (`step` counts epochs, or
        iterations where the config has `log_metric_by_epoch=False`), in order.

    Raises:
        FileNotFoundError: If the folder holds no such file.
    """
    lines = newest_scalars(work_dir).read_text(encoding='utf-8').splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    return [row for row in rows if 'loss' in row], [row for row in rows if 'loss' not in row]
