"""Whatever stops a run while it saves, a complete checkpoint is left, and a resumed run goes on from it."""

import errno
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from man_mm.runs import SafeCheckpointHook
from man_mm.runs.safe_checkpoint_hook import _WholeFiles

from ..helpers.detection import retinanet
from ..helpers.processes import call
from ..helpers.runs import NAMES, make_coco, run_config, runner
from ..helpers.training import assert_equal

SAFE, UPSTREAM = 'man_mm.SafeCheckpointHook', 'CheckpointHook'
LIMIT = 1_000_000  # bytes; a checkpoint of the tiny detector has three times as many


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp('data') / 'coco', num_images=2)


def config(root, work_dir, kind=SAFE, **options):
    cfg = run_config(root, work_dir, retinanet(2), epochs=2)
    cfg['default_hooks']['checkpoint'] = dict(type=kind, interval=1, max_keep_ckpts=1)
    return {**cfg, **options}


@pytest.fixture(scope='module')
def unbroken(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp('unbroken')
    runner(config(root, folder)).train()
    assert names(folder) == ['epoch_2.pth'] and not list(folder.glob('*.part'))
    return torch.load(folder / 'epoch_2.pth')['state_dict']


def names(folder):
    return sorted(path.name for path in Path(folder).glob('*.pth'))


def pointer(folder):
    return Path((folder / 'last_checkpoint').read_text())


def full_disk(when_full):
    """From the second epoch on no file can grow over a limit: the system refuses to write, or kills who does."""
    signal.signal(signal.SIGXFSZ, when_full)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


def killed_at(function, number):
    """Kill the process right before it calls `os.function` for the n-th time from now on."""
    original, calls = getattr(os, function), []

    def kill_or_call(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(os, function, kill_or_call)


@HOOKS.register_module(force=True)
class SecondEpoch(Hook):
    """Prepares what goes wrong while the checkpoint of the second epoch is saved."""

    def __init__(self, fault, *arguments):
        self.fault, self.arguments = fault, arguments

    def before_train_epoch(self, runner):
        if runner.epoch == 1:
            self.fault(*self.arguments)


def run_with_fault(cfg, fault, *arguments):
    run = runner(cfg)
    run.register_hook(SecondEpoch(fault, *arguments))
    run.train()


def assert_goes_on(root, folder, unbroken):
    """The run resumes from its last good checkpoint and ends as the unbroken one, with nothing left over."""
    runner(config(root, folder, resume=True)).train()
    assert_equal(torch.load(folder / 'epoch_2.pth')['state_dict'], unbroken)
    assert pointer(folder) == folder / 'epoch_2.pth' and not list(folder.glob('*.part'))
    assert names(folder) == ['epoch_2.pth']


FAULTS = {
    'in the middle of the file': ((full_disk, signal.SIG_DFL), -signal.SIGXFSZ, 'epoch_1.pth'),
    'before the file has its name': ((killed_at, 'replace', 1), -signal.SIGKILL, 'epoch_1.pth'),
    'before last_checkpoint has its name': ((killed_at, 'replace', 2), -signal.SIGKILL, 'epoch_1.pth'),
    'before old files are deleted': ((killed_at, 'remove', 1), -signal.SIGKILL, 'epoch_2.pth'),
    'disk full': ((full_disk, signal.SIG_IGN), 1, 'epoch_1.pth'),
}


LONG = ('before the file has its name', 'before last_checkpoint has its name')


@pytest.mark.parametrize('name', [pytest.param(n, marks=pytest.mark.long if n in LONG else ()) for n in FAULTS])
def test_a_run_stopped_while_it_saves_keeps_a_complete_checkpoint_and_goes_on(root, tmp_path, unbroken, name):
    fault, code, last = FAULTS[name]
    assert call(run_with_fault, config(root, tmp_path), *fault) == code
    assert pointer(tmp_path) == tmp_path / last
    assert torch.load(tmp_path / last)['meta']['epoch'] == int(last[6])
    assert_goes_on(root, tmp_path, unbroken)


def test_upstreams_hook_would_have_lost_both_checkpoints(root, tmp_path):
    code = call(run_with_fault, config(root, tmp_path, UPSTREAM), full_disk, signal.SIG_DFL)
    assert code == -signal.SIGXFSZ and names(tmp_path) == ['epoch_2.pth']
    with pytest.raises(ValueError, match=r'epoch_2\.pth \(\d+ bytes\) is cut off'):
        runner(config(root, tmp_path, UPSTREAM, load_from=str(tmp_path / 'epoch_2.pth'))).load_or_resume()


def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_no_rubbish(tmp_path):
    target = tmp_path / 'epoch_2.pth'
    target.write_bytes(b'old')

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match='No space left on device') as error:
        patch.setattr(os, 'fsync', fail)
        _WholeFiles().put(b'new', target)
    assert any(str(target) in note and 'could not be saved' in note for note in error.value.__notes__)
    assert target.read_bytes() == b'old' and list(tmp_path.iterdir()) == [target]


def empty_pointer(folder):
    (folder / 'last_checkpoint').write_text('')


def cut_off(folder):
    path = folder / 'epoch_2.pth'
    path.write_bytes(path.read_bytes()[:-1000])


def missing(folder):
    (folder / 'epoch_2.pth').unlink()


def moved(folder):
    (folder / 'last_checkpoint').write_text(str(folder / 'before it was moved' / 'epoch_2.pth'))


@pytest.mark.parametrize(('harm', 'expected'), [(empty_pointer, 2), (cut_off, 1), (missing, 1), (moved, 2)])
def test_resume_takes_the_newest_complete_checkpoint(root, tmp_path, saved, harm, expected):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_2.pth'))
    harm(tmp_path)
    run = runner(config(root, tmp_path, resume=True, train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=expected)))
    run.train()
    assert run.epoch == expected and pointer(tmp_path) == tmp_path / f'epoch_{expected}.pth'


@pytest.fixture(scope='module')
def saved(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp('saved')
    cfg = config(root, folder)
    cfg['default_hooks']['checkpoint']['max_keep_ckpts'] = 2
    runner(cfg).train()
    assert names(folder) == ['epoch_1.pth', 'epoch_2.pth']
    return folder


def test_only_training_deletes_what_is_half_written_and_only_what_the_hook_wrote(root, tmp_path):
    """A test of an earlier checkpoint, in the work folder of a run that is saving, leaves that run's file alone."""
    run = runner(config(root, tmp_path))
    own = [tmp_path / f'{name}.part' for name in ('epoch_2.pth', 'best_coco_bbox_mAP_epoch_12.pth', 'last_checkpoint')]
    others = [tmp_path / f'{name}.part' for name in ('data.zip', 'weights.pth', 'epoch_x.pth', 'my_epoch_2.pth')]
    for path in (*own, *others):
        path.touch()
    run.call_hook('before_run')
    assert all(path.exists() for path in own)
    run._train_loop = run.build_train_loop(run._train_loop)
    run.call_hook('before_run')
    assert not any(path.exists() for path in own) and all(path.exists() for path in others)


def test_the_best_checkpoint_is_deleted_only_when_the_better_one_is_complete(root, tmp_path, monkeypatch):
    run = runner(config(root, tmp_path, train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1)))
    run.train()
    hook = SafeCheckpointHook(save_best='acc', max_keep_ckpts=1)
    hook.before_train(run)
    hook.after_val_epoch(run, dict(acc=0.1))
    run.train_loop._epoch = 2
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(os, 'replace', lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, 'full')))
        hook.after_val_epoch(run, dict(acc=0.2))
    assert 'best_acc_epoch_1.pth' in names(tmp_path)
    hook.after_val_epoch(run, dict(acc=0.3))
    assert [name for name in names(tmp_path) if name.startswith('best')] == ['best_acc_epoch_2.pth']


@pytest.mark.skipif(torch.__version__ < (2, 6), reason='reads everything again')
def test_a_run_whose_checkpoints_could_not_be_read_again_says_so_before_training(root, tmp_path, capfd):
    cfg = config(root, tmp_path, log_level='WARNING', train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1))
    cfg['train_dataloader']['dataset']['metainfo'] = dict(classes=NAMES, parts=frozenset('ab'))
    runner(cfg).train()
    (line,) = [line for line in ''.join(capfd.readouterr()).splitlines() if 'could be read' in line]
    assert 'metainfo of the training data set' in line and 'frozenset' in line


def test_a_misspelt_key_is_an_error_before_training():
    with pytest.raises(ValueError, match=r"SafeCheckpointHook has no key {'max_keep_ckpt': 1}.*'max_keep_ckpts'"):
        HOOKS.build(dict(type=SAFE, max_keep_ckpt=1))
