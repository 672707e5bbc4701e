"""What a finished run logged, as plain data."""

import json
from pathlib import Path

__all__ = ['read_scalars']


def read_scalars(work_dir: str | Path) -> tuple[list[dict], list[dict]]:
    """Read the newest `scalars.json` below a work folder of MMEngine's runner.

    Returns:
        The rows logged in training (`step` counts iterations) and in validation (`step` counts epochs, or
        iterations where the config has `log_metric_by_epoch=False`), in order.

    Raises:
        FileNotFoundError: If the folder holds no such file.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))  # the folders are named by time
    if not files:
        raise FileNotFoundError(f'{work_dir} holds no */vis_data/scalars.json: no run has logged there.')
    rows = [json.loads(line) for line in files[-1].read_text(encoding='utf-8').splitlines() if line.strip()]
    return [row for row in rows if 'loss' in row], [row for row in rows if 'loss' not in row]
