"""Configs of installed libraries, found once a session."""

from functools import cache

from mmengine.config import config, utils


def remember_installed_configs() -> None:
    """Let MMEngine read the metafiles of a library once, and not for each `_base_ = 'mmdet::...'`.

    MMEngine 0.10.7 parses all of them, and reloads pkg_resources, to find one path: a second of a CPU, and up to four
    for some of our configs. Nothing is installed while tests run.
    """
    utils.load = cache(utils.load)
    config.is_installed = cache(config.is_installed)
