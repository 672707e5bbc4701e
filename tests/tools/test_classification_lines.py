"""The command lines on a classification config, run as a user runs them."""

import pickle

import pytest

from ..datasets.test_classification import pictures, write_cifar10
from ..helpers.processes import ROOT, python

CONFIG = ROOT / 'configs/dgl/resnet32_dgl_k16_cifar10.py'


@pytest.fixture(scope='module')
def options(tmp_path_factory):
    """Config options for CIFAR-10 of four images a file."""
    root = tmp_path_factory.mktemp('cifar10')
    write_cifar10(root, pictures(4, 32), [0, 1, 2, 3])
    data = {'data_root': f'{root}/', 'check_md5': False}
    loaders = [
        f'{split}_dataloader.{key}={value}'
        for split in ('train', 'val', 'test')
        for key, value in {**{f'dataset.{k}': v for k, v in data.items()}, 'batch_size': 10, 'num_workers': 0}.items()
    ]
    return [
        *loaders,
        'model.backbone.num_modules=2',
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        'default_hooks.checkpoint.interval=1',
    ]


@pytest.fixture(scope='module')
def checkpoint(options, tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    result = python('train.py', CONFIG, '--work-dir', folder, '--cfg-options', *options)
    assert result.returncode == 0, result.stderr
    return folder / 'epoch_1.pth'


def report_of(checkpoint, options, folder, *arguments):
    result = python('test.py', CONFIG, checkpoint, '--work-dir', folder, *arguments, '--cfg-options', *options)
    assert result.returncode == 0, result.stderr
    assert 'accuracy/top1' in result.stdout + result.stderr
    return result


def test_predictions_are_written_and_images_painted(checkpoint, options, tmp_path):
    arguments = ('--out', tmp_path / 'predictions.pkl', '--show-dir', tmp_path / 'shown')
    report_of(checkpoint, options, tmp_path / 'run', *arguments)
    predictions = pickle.loads((tmp_path / 'predictions.pkl').read_bytes())
    assert [len(sample['pred_score']) for sample in predictions] == [10] * 4
    assert len(list((tmp_path / 'shown').glob('*.png'))) == 4


def test_images_are_flipped_at_test_time(checkpoint, options, tmp_path):
    result = report_of(checkpoint, options, tmp_path, '--tta')
    assert 'TestTimeAug' in result.stdout + result.stderr


def test_an_option_of_an_unknown_host_is_refused(checkpoint, options, tmp_path):
    result = python(
        'test.py', CONFIG, checkpoint, '--tta', '--cfg-options', *options, 'default_scope=mmocr', cwd=tmp_path
    )
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1] == (
        "--tta is known for ['mmagic', 'mmdet', 'mmpretrain'], not for default_scope='mmocr'."
    )
