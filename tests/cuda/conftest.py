"""What only CUDA has. Deselected unless MAN_MM_TEST_DEVICE=cuda."""

from pathlib import Path

from ..helpers.device import DEVICE


def pytest_collection_modifyitems(config, items):
    if DEVICE.type == 'cuda':
        return
    here = Path(__file__).parent
    own = [item for item in items if item.path.is_relative_to(here)]
    config.hook.pytest_deselected(items=own)
    items[:] = [item for item in items if item not in own]
