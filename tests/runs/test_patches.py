"""Importing man_mm patches what its docstring lists, once, and all of it can be taken back."""

import importlib.util
import sys
from contextlib import ExitStack
from types import SimpleNamespace

import mmcv.ops
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleLR
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.runner.checkpoint import CheckpointLoader

import man_mm
from man_mm.runs import patches
from man_mm.runs.checkpoint_file import read_checkpoint
from man_mm.runs.on_import import act_before_import, act_on_import


@pytest.fixture
def unpatched():
    patches.undo_patches()
    yield
    patches.apply_patches()


def state():
    return [
        set(getattr(torch.serialization, 'get_safe_globals', list)()),
        Config._get_cfg_path,
        CheckpointLoader._schemes[''],
        list(sys.meta_path),
        mmcv.ops.focal_loss.SigmoidFocalLossFunction.forward,
    ]


def test_patches_are_applied_once_and_taken_back_whole(unpatched):
    upstream = state()
    assert Config._get_cfg_path.__module__ == 'mmengine.config.config'
    patches.apply_patches()
    patched = state()
    assert patched[0] > upstream[0] or torch.__version__ < (2, 5)  # which loads everything
    assert patched[1] is not upstream[1] and patched[2] is not upstream[2]
    assert patched[4] is not upstream[4]
    patches.apply_patches()
    assert state() == patched
    patches.undo_patches()
    assert state() == upstream
    patches.undo_patches()
    assert state() == upstream


class Reaches:
    """Its pickle asks for an attribute of a class that checkpoints may name."""

    def __init__(self, owner, name):
        self.owner, self.name = owner, name

    def __reduce__(self):
        return getattr, (self.owner, self.name)


def one_cycle():
    optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1, momentum=0.9)
    return OneCycleLR(optimizer, eta_max=0.5, total_steps=9)


def test_what_mmengine_and_its_data_sets_write_is_read_again(tmp_path):
    meta = Config(dict(metainfo=dict(classes=('a',), parts=dict(a=['head', 'tail'])))).metainfo
    arrays = [np.ones(2, kind) for kind in ('uint8', 'float16', 'U3', 'complex64')]
    written = dict(param_schedulers=[one_cycle().state_dict()], meta=dict(dataset_meta=dict(meta), weights=arrays))
    torch.save(written, tmp_path / 'x.pth')
    read = read_checkpoint(str(tmp_path / 'x.pth'))
    assert read['param_schedulers'] == written['param_schedulers'] and read['meta']['dataset_meta'] == meta
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(read['meta']['weights'], arrays, strict=True))


OTHERS = [(OneCycleParamScheduler, 'build_iter_from_epoch'), (HistoryBuffer, '__init__'), (OneCycleLR, 'step')]


@pytest.mark.skipif(torch.__version__ < (2, 6), reason='loads everything')
@pytest.mark.parametrize(('owner', 'name'), OTHERS)
def test_nothing_else_of_a_class_is_reached(tmp_path, owner, name):
    torch.save(Reaches(owner, name), tmp_path / 'x.pth')
    with pytest.raises((ValueError, TypeError), match='refused'):
        read_checkpoint(str(tmp_path / 'x.pth'))


def test_the_docstring_lists_every_patch():
    assert man_mm.__doc__.count('\n- ') == 5
    for name in ('torch.load', '_get_cfg_path', 'checkpoints', 'np.bool8', 'mmcv.ops'):
        assert name in man_mm.__doc__


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A package `library_x` with a module `ops`, neither of them imported; what was said of it, in order."""
    folder = tmp_path / 'library_x'
    folder.mkdir()
    (folder / '__init__.py').write_text('import said_x\nsaid_x.said.append(__name__)\n')
    (folder / 'ops.py').write_text('import said_x\nsaid_x.said.append(__name__)\n')
    said = []
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, 'said_x', SimpleNamespace(said=said))
    yield said
    for name in ('library_x.ops', 'library_x'):
        sys.modules.pop(name, None)


def test_actions_come_before_and_after_an_import_and_not_by_asking_whether_it_is_there(library):
    with ExitStack() as undo:
        act_before_import('library_x', lambda: library.append('before'), undo)
        act_on_import('library_x.ops', lambda ops: library.append(f'after {ops.__name__}'), undo)
        assert importlib.util.find_spec('library_x') is not None
        assert library == []
        import library_x.ops

        assert library == ['before', 'library_x', 'library_x.ops', 'after library_x.ops']
        act_on_import('library_x', lambda package: library.append('at once'), undo)
        assert library[-1] == 'at once' and library_x.__spec__.origin.endswith('__init__.py')
    assert not any(getattr(finder, 'name', '').startswith('library_x') for finder in sys.meta_path)


def test_a_library_that_is_not_there_is_missing_as_ever():
    with ExitStack() as undo:
        act_on_import('no_such_library', lambda module: None, undo)
        with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_library'"):
            __import__('no_such_library')


def test_numpy_gets_its_old_name_when_mmagic_is_imported_and_not_before(tmp_path, monkeypatch):
    numpy = SimpleNamespace(bool_=bool)
    (tmp_path / 'mmagic.py').write_text('import numpy_x\nfound = hasattr(numpy_x, "bool8")\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, 'numpy_x', numpy)
    monkeypatch.delitem(sys.modules, 'mmagic', raising=False)
    monkeypatch.setattr(patches, 'np', numpy)
    monkeypatch.setattr(patches, 'NUMPY_2', True)
    with ExitStack() as undo:
        patches.restore_numpy_names(undo)
        assert not hasattr(numpy, 'bool8')
        import mmagic

        assert mmagic.found
        monkeypatch.delitem(sys.modules, 'mmagic')
    assert not hasattr(numpy, 'bool8')
