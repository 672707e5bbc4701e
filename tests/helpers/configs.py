"""What MMEngine works out anew for every config and every run, remembered for a session."""

import copy
import gc
import logging
import os
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from mmengine.config import Config, config, utils
from mmengine.dataset import base_dataset
from mmengine.logging import MMLogger
from mmengine.model import base_module, weight_init


def remember_installed_configs() -> None:
    """Let MMEngine read the metafiles of a library once, and not for each `_base_ = 'mmdet::...'`.

    MMEngine 0.10.7 parses all of them, and reloads pkg_resources, to find one path: a second of a CPU, and up to four
    for some of our configs. Nothing is installed while tests run.
    """
    utils.load = cache(utils.load)
    config.is_installed = cache(config.is_installed)


def remember_config_files() -> None:
    """Let MMEngine read a config of ours or of a library once: it reads every base of every config, thrice as many.

    No test writes to them; what is read elsewhere, e.g. in a temporary folder, is read anew.
    """
    read, known = Config._file2dict, {}
    kept = tuple(
        f'{path}{os.sep}' for path in (Path(__file__).parents[2] / 'configs', Path(config.__file__).parents[2])
    )

    def remembered(filename, *options, **others):
        path = os.path.abspath(os.path.expanduser(filename))
        if not path.startswith(kept):
            return read(filename, *options, **others)
        key = (path, options, *sorted(others.items()))
        if key not in known:
            known[key] = read(filename, *options, **others)
        return copy.deepcopy(known[key])  # configs that inherit from it write to it

    Config._file2dict = staticmethod(remembered)


def leave_layouts() -> None:
    """Let no yapf lay out the text of a config, which is Python before: a run asks for it four times, 0.2 s and more.

    A file that was written is read again as it is, whatever its layout.
    """
    config.FormatCode = lambda text, **style: (text, True)


def spare_the_collector() -> None:
    """Let the garbage collector pass over what is imported: MMEngine has it look at everything for every data set."""
    gc.freeze()
    base_dataset.gc = SimpleNamespace(collect=lambda: 0)  # models and metrics, imported later, are not frozen


def list_no_weights() -> None:
    """Let MMEngine neither note nor log how each weight of a model was drawn: half of the time that building takes.

    Its logger, where no run has set up another one, keeps to warnings.
    """
    MMLogger.get_instance('mmengine', log_level='WARNING')
    base_module.update_init_info = weight_init.update_init_info = lambda module, init_info: None
    base_module.BaseModule._params_init_info = {}  # where a module has one, it leaves the list to the model around it


def drop_debugging() -> None:
    """Make no records of the level DEBUG, which nobody reads: registries write one for every part they build."""
    logging.disable(logging.DEBUG)


def prepare() -> None:
    """All that a process in which models train or command lines run can do without, once."""
    remember_installed_configs()
    remember_config_files()
    leave_layouts()
    spare_the_collector()
    drop_debugging()
