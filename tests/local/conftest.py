"""What the package warns of."""

import logging

import pytest
from mmengine.logging import MMLogger


@pytest.fixture
def warnings(caplog, request):
    """Returns the warnings so far."""
    logger = MMLogger.get_instance(request.node.nodeid, log_level='WARNING')  # the newest one is the current one
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.WARNING)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    logger.removeHandler(caplog.handler)
