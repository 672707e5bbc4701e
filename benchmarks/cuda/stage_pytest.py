"""Files of the test suite on the device, each in a fork of this process, at once."""

import os
import re
import sys
from pathlib import Path
from typing import Any

from checks import Checks
from processes import forked
from steps import ROOT

FILES = (
    'tests/cuda',
    'tests/engine/test_amp.py',
    'tests/engine/test_eager_step.py',
    'tests/engine/test_gradients.py',
    'tests/engine/test_isolation.py',
    'tests/engine/test_parity.py',
    'tests/engine/test_release.py',
    'tests/readout/test_detectors.py',
)
LOGS = ROOT / 'work_dirs/cuda'


def main(checks: Checks) -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    files = FILES if checks.is_cuda else FILES[3:4]
    started = {}
    for file in files:
        log = str(LOGS / f'{file.replace("/", ".")}.log')
        started[file] = log, forked(lambda file=file: pytest(file, checks.device), log, leads=False)
    for file, (log, process) in started.items():
        checks.run(file, outcome, log, process, checks.left - 1, limit=600)


def pytest(file: str, device: str) -> None:
    import pytest

    os.environ['MAN_MM_TEST_DEVICE'] = device
    sys.exit(int(pytest.main(['-m', 'not long', '-p', 'no:cacheprovider', '-rfE', '--tb=line', file])))


def outcome(log: str, process: Any, seconds: float) -> dict[str, Any]:
    """The last line, and the tests that failed; those that were late are not known."""
    code = process.wait(seconds)
    process.end()
    text = Path(log).read_text(errors='replace')
    failed = re.findall(r'^(?:FAILED|ERROR) (.*)$', text, re.M)
    return dict(ok=code == 0, code=code, failed=[line[:300] for line in failed[:30]], says=text.strip()[-200:])
