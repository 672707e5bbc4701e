"""A checkpoint that is damaged, hostile or of another model is refused, wherever it is given, with what to do."""

import copy
import io
import os
import pickle
import runpy
from pathlib import Path

import pytest
import torch

from man_mm.runs.checkpoint_file import read_checkpoint

from ..helpers.detection import retinanet
from ..helpers.processes import python
from ..helpers.runs import make_coco, run_config, runner, write_config

DGL = dict(type='man_mm.DGLPyramid')
CUT = 'is cut off or no checkpoint'


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp('data') / 'coco', num_images=2)


@pytest.fixture(scope='module')
def checkpoint(root, tmp_path_factory):
    """Of the tiny RetinaNet-R18, K = 4, after one epoch."""
    folder = tmp_path_factory.mktemp('run')
    runner(run_config(root, folder, epochs=1)).train()
    return folder / 'epoch_1.pth'


def load(root, folder, path, resume=False, model=None, **options):
    """Start a run from a checkpoint."""
    runner(run_config(root, folder, model, epochs=2, load_from=str(path), resume=resume, **options)).train()


class Evil:
    """Its pickle creates a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def harmed(kind, checkpoint, folder):
    path = folder / 'bad.pth'
    content = checkpoint.read_bytes()
    if kind == 'cut off':
        path.write_bytes(content[: len(content) // 2])
    elif kind in BYTES:
        path.write_bytes(BYTES[kind])
    elif kind == 'hostile':
        torch.save({**torch.load(checkpoint), 'extra': Evil(folder / 'owned')}, path)
    else:
        path.write_bytes(pickle.dumps(Evil(folder / 'owned'), protocol=2))
    return path


def bytes_of(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


OLD = bytes_of(dict(state_dict=dict(weight=torch.ones(500))), _use_new_zipfile_serialization=False)
BYTES = {
    'empty': b'',
    'text': b'<html>404</html>',
    'text that reads as a pickle': b'hello world, this is no checkpoint',
    'text that reads as code': b'cannot be found\nhere\n',
    'pointer of Git LFS': b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n',
    'zeros': bytes(1000),
    'small, cut off': bytes_of(dict(weight=torch.ones(500)))[:-100],
    'old format, cut off in the weights': OLD[:-100],
    'old format, cut off before': OLD[:40],
    'old format, cut off in a number': OLD[:19],
    'old format, cut off in an instruction': OLD[:25],
}
"""Each is another kind of error to torch."""

MESSAGES = {
    **{kind: rf'bad\.pth \({len(content)} bytes\) is cut off or no checkpoint' for kind, content in BYTES.items()},
    'cut off': r'bad\.pth \(\d+ bytes\) is cut off or no checkpoint.*--resume EARLIER\.pth',
    'hostile': r'bad\.pth refers to \S*mkdir, .* was refused before anything of it ran',
    'plain pickle': r'bad\.pth refers to \S*mkdir, .* was refused before anything of it ran',
}


@pytest.mark.parametrize('kind', MESSAGES)
def test_a_damaged_or_hostile_file_is_named_and_nothing_of_it_runs(checkpoint, tmp_path, kind):
    with pytest.raises(ValueError, match=MESSAGES[kind]):
        read_checkpoint(str(harmed(kind, checkpoint, tmp_path)))
    assert not (tmp_path / 'owned').exists()


def test_a_whole_file_is_not_blamed_for_a_device_that_is_missing(tmp_path):
    path = tmp_path / 'old.pth'
    path.write_bytes(OLD)
    assert read_checkpoint(str(path))['state_dict']['weight'].sum() == 500
    with pytest.raises(RuntimeError, match='Attempting to deserialize object on'):
        read_checkpoint(str(path), 'cuda:99')


def test_every_command_line_says_so(root, checkpoint, tmp_path):
    cfg = run_config(root, tmp_path / 'run', custom_hook=[])
    test = dict(test_dataloader=cfg['train_dataloader'], test_cfg={}, test_evaluator=dict(type='DumpResults'))
    test['test_evaluator']['out_file_path'] = 'out.pkl'
    config = write_config({**cfg, **test}, tmp_path / 'config.py')
    (tmp_path / 'code').mkdir()
    cut, code = harmed('cut off', checkpoint, tmp_path), harmed('hostile', checkpoint, tmp_path / 'code')
    calls = [
        ('train.py', config, '--resume', cut),
        ('train.py', config, '--cfg-options', f'load_from={code}'),
        ('test.py', config, code),
        ('model_converters/strip_auxiliary.py', cut, tmp_path / 'plain.pth'),
    ]
    for name, *arguments in calls:
        result = python(name, *arguments, cwd=tmp_path)
        reason = 'was refused before anything of it ran' if name == 'test.py' or '--cfg-options' in arguments else CUT
        assert result.returncode == 1 and reason in result.stderr
        if config in arguments:
            warning = 'Warning: the config key custom_hook is read by nobody. Did you mean custom_hooks?'
            assert warning in result.stdout + result.stderr
    assert not (tmp_path / 'code/owned').exists() and not (tmp_path / 'plain.pth').exists()


def test_code_that_upstreams_resume_would_execute_is_left_out(root, checkpoint, tmp_path):
    content = torch.load(checkpoint)
    content['meta']['config'] = f'import os\nos.mkdir({str(tmp_path / "owned")!r})\n'
    torch.save(content, tmp_path / 'code.pth')
    load(root, tmp_path / 'run', tmp_path / 'code.pth', resume=True)
    assert not (tmp_path / 'owned').exists() and (tmp_path / 'run/epoch_2.pth').exists()


def other_cuts():
    model = retinanet(4)
    model['backbone']['partition'] = ['layer1.0', 'layer1.1', 'layer3.1']
    return model


def other_rule():
    model = retinanet(4)
    model['backbone']['auxiliary'] = DGL
    return model


OTHERS = {
    'K': (retinanet(3), r'num_modules \(the config: 3; the checkpoint: 4\)'),
    'BP': (retinanet(1), r'num_modules \(the config: 1; the checkpoint: 4\)'),
    'cuts': (other_cuts(), r'partition \(the config: module 0 .*; the checkpoint: module 0'),
    'rule': (other_rule(), r'auxiliaries \(the config: DGLPyramid, .*; the checkpoint: SLM, SLM, SLM\)'),
    'followers': (
        retinanet(4, auxiliary=dict(init='copy', follow='ema')),
        r'units of auxiliaries train \(the config: False; the checkpoint: True\)',
    ),
    'backbone': (retinanet(4, backbone=dict(depth=34)), r'partition \(the config'),
}


@pytest.mark.parametrize('name', OTHERS)
def test_resuming_another_run_is_refused_and_its_weights_alone_load(root, checkpoint, tmp_path, name):
    model, message = OTHERS[name]
    with pytest.raises(ValueError, match=rf'cannot be resumed with this config. What differs: .*{message}') as error:
        load(root, tmp_path, checkpoint, resume=True, model=copy.deepcopy(model))
    assert 'load_from=CHECKPOINT, without --resume' in str(error.value)
    run = runner(run_config(root, tmp_path, copy.deepcopy(model), load_from=str(checkpoint)))
    run.load_or_resume()
    stored = torch.load(checkpoint)['state_dict']['backbone.layer4.1.conv2.weight']
    assert torch.equal(run.model.state_dict()['backbone.layer4.1.conv2.weight'], stored)


def test_an_optimizer_of_another_kind_is_not_resumed(root, checkpoint, tmp_path):
    adam = dict(type='man_mm.LocalOptimWrapper', optimizer=dict(type='AdamW', lr=0.01))
    cfg = {**run_config(root, tmp_path, load_from=str(checkpoint), resume=True), 'optim_wrapper': adam}
    with pytest.raises(ValueError, match=r'optimizer \(the config: AdamW; the checkpoint: SGD\)'):
        runner(cfg).train()


def test_a_checkpoint_without_our_record_is_judged_by_its_tensors(root, checkpoint, tmp_path):
    content = torch.load(checkpoint)
    del content['meta']['local_learning']
    torch.save(content, tmp_path / 'old.pth')
    load(root, tmp_path / 'same', tmp_path / 'old.pth', resume=True)
    with pytest.raises(ValueError, match=r'cannot be resumed .*auxiliaries'):
        load(root, tmp_path / 'other', tmp_path / 'old.pth', resume=True, model=retinanet(3))


def test_a_record_of_another_version_is_compared_in_what_both_note(root, checkpoint, tmp_path):
    content = torch.load(checkpoint)
    record = content['meta']['local_learning']
    del record['optimizer']
    record['noted later'] = 'something'
    torch.save(content, tmp_path / 'other_version.pth')
    load(root, tmp_path / 'run', tmp_path / 'other_version.pth', resume=True)


def test_a_checkpoint_that_fits_nowhere_is_refused_and_one_that_hardly_fits_is_a_warning(root, tmp_path, capfd):
    weights = runner(run_config(root, tmp_path)).model.state_dict()
    backbone = {key.removeprefix('backbone.'): value for key, value in weights.items() if key.startswith('backbone.')}
    torch.save(backbone, tmp_path / 'backbone.pth')
    with pytest.raises(ValueError, match=r'^0 of the \d+ tensors of backbone \(ResNet\) .* belong into its init_cfg'):
        load(root, tmp_path, tmp_path / 'backbone.pth')
    torch.save({'state_dict': {'backbone.conv1.weight': weights['backbone.conv1.weight']}}, tmp_path / 'one.pth')
    run = runner({**run_config(root, tmp_path, load_from=str(tmp_path / 'one.pth')), 'log_level': 'WARNING'})
    run.load_or_resume()
    assert '1 of the 120 tensors of backbone (ResNet) are in the checkpoint' in ''.join(capfd.readouterr())


def test_strip_and_the_plain_model_read_what_is_whole(checkpoint, tmp_path, monkeypatch):
    script = Path(__file__).parents[2] / 'tools/model_converters/strip_auxiliary.py'
    monkeypatch.setattr('sys.argv', [str(script), str(checkpoint), str(tmp_path / 'plain.pth')])
    runpy.run_path(str(script), run_name='__main__')
    assert not any('auxiliaries' in key for key in read_checkpoint(str(tmp_path / 'plain.pth'))['state_dict'])
