"""The command lines on a super-resolution config, run as a user runs them."""

import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope

from ..helpers.processes import ROOT, python
from ..helpers.training import assert_equal

CONFIG = ROOT / 'configs/man/edsr_x2_man_k4_photos.py'


def draw(folder, names, size, seed=0):
    """Smooth images of `size` px below folder/HR, and half as large ones below folder/LR_bicubic/X2."""
    rng = np.random.default_rng(seed)
    for sub in ('HR', 'LR_bicubic/X2'):
        (folder / sub).mkdir(parents=True)
    for name in names:
        coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        high = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / 'HR' / f'{name}.png'), high)
        low = cv2.resize(high, (size // 2, size // 2), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / 'LR_bicubic/X2' / f'{name}.png'), low)


def options_for(root):
    small = {'mid_channels': 4, 'num_blocks': 4}
    train = {'data_root': root / 'train', 'ann_file': 'all.txt', 'data_prefix.img': 'LR_bicubic/X2'}
    train['data_prefix.gt'] = 'HR'
    return [
        *(f'model.generator.backbone.{key}={value}' for key, value in small.items()),
        *(f'train_dataloader.dataset.{key}={value}' for key, value in train.items()),
        f'val_dataloader.dataset.data_root={root / "val"}',
        f'test_dataloader.0.dataset.data_root={root / "val"}',
        'train_dataloader.batch_size=2',
        'train_cfg.max_iters=4',
        'train_cfg.val_interval=4',
        'default_hooks.checkpoint.interval=2',
        'default_hooks.checkpoint.max_keep_ckpts=-1',
    ]


def draw_all(root):
    """Three training and two validation photographs."""
    names = ['a', 'b', 'c']
    draw(root / 'train', names, 64)
    draw(root / 'val', ['x.1', 'x.2'], 40, seed=1)
    (root / 'train/all.txt').write_text(''.join(f'{name}.png (64,64,3)\n' for name in names))
    return root


@pytest.fixture
def data(tmp_path):
    return draw_all(tmp_path)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Where a run ended, in `run`; a test needs none of its training images."""
    root = draw_all(tmp_path_factory.mktemp('trained'))
    done = train(root, root / 'run')
    assert done.returncode == 0, done.stderr
    assert re.search(r'Iter\(val\).* PSNR: \d', done.stdout + done.stderr)
    shutil.rmtree(root / 'train')
    return root


def written_by_test(root, checkpoint, folder):
    """Test a checkpoint; returns the folder of the images that it writes."""
    arguments = (CONFIG, checkpoint, '--work-dir', folder / 'test', '--show-dir', folder / 'shown')
    tested = python('test.py', *arguments, '--cfg-options', *options_for(root))
    assert tested.returncode == 0, tested.stderr
    return folder / 'shown'


def train(data, run, *arguments, options=()):
    return python('train.py', CONFIG, '--work-dir', run, *arguments, '--cfg-options', *options_for(data), *options)


def last_line(result):
    return result.stderr.strip().splitlines()[-1]


def test_training_testing_and_the_written_images_go_together(trained, tmp_path):
    shown = written_by_test(trained, trained / 'run/iter_4.pth', tmp_path)
    written = sorted(shown.rglob('*'))
    assert [str(path.relative_to(shown)) for path in written] == ['photos', 'photos/x.1.png', 'photos/x.2.png']
    assert all(cv2.imread(str(path)).shape == (40, 40, 3) for path in written[1:])


def test_the_written_image_is_the_prediction_channel_for_channel(trained, tmp_path):
    """A generator that paints everything orange."""
    checkpoint = torch.load(trained / 'run/iter_4.pth')
    weights = checkpoint['state_dict']
    weights['generator.conv_last.weight'].zero_()
    orange = torch.tensor([1.0, 0.5, 0.0])
    weights['generator.conv_last.bias'].copy_(orange - torch.tensor([0.4488, 0.4371, 0.4040]))
    torch.save(checkpoint, tmp_path / 'orange.pth')
    shown = written_by_test(trained, tmp_path / 'orange.pth', tmp_path)
    image = cv2.imread(str(next(shown.rglob('*.png'))))
    assert image[20, 20].tolist() == [0, 128, 255]  # OpenCV reads blue, green, red


@pytest.mark.long
def test_a_resumed_run_ends_like_an_unbroken_one(data):
    assert train(data, data / 'whole').returncode == 0
    assert train(data, data / 'broken', options=['train_cfg.max_iters=2', 'train_cfg.val_interval=2']).returncode == 0
    assert train(data, data / 'broken', '--resume').returncode == 0
    assert_equal(*(torch.load(data / run / 'iter_4.pth')['state_dict'] for run in ('broken', 'whole')))


@pytest.mark.long
def test_each_config_has_a_folder_of_its_own(data):
    for name in ('man/edsr_x2_man_k4_photos', 'bp/edsr_x2_bp_photos'):
        options = [option.replace('.backbone', '') if '_bp_' in name else option for option in options_for(data)]
        done = python('train.py', ROOT / f'configs/{name}.py', '--cfg-options', *options, cwd=data)
        assert done.returncode == 0, done.stderr
        assert (data / 'work_dirs' / name.split('/')[1] / 'iter_4.pth').exists()


def test_missing_data_of_one_of_several_test_sets_is_named(data):
    result = python('test.py', ROOT / 'configs/man/edsr_x2_man_k4_div2k.py', 'none.pth', cwd=data)
    assert result.returncode == 1
    assert last_line(result).startswith('The data set is missing: test_dataloader.0.dataset.data_prefix.img')


def cut(path):
    """Take a row from an image."""
    cv2.imwrite(str(path), cv2.imread(str(path))[:-1])


def shrink(path):
    """Make a pair smaller than the training patch of 48 px."""
    for file, size in ((path, 16), (path.parents[2] / 'HR' / path.name, 32)):
        cv2.imwrite(str(file), cv2.resize(cv2.imread(str(file)), (size, size)))


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (cut, 'Scale mismatches. GT (64, 64) is not 2x multiplication of LQ (31, 32)'),
        (shrink, 'LQ (16, 16) is smaller than patch size (24, 24). Please check'),
    ],
)
def test_pairs_that_do_not_fit_stop_the_run_before_a_checkpoint(data, spoil, message):
    for name in 'abc':
        spoil(data / f'train/LR_bicubic/X2/{name}.png')
    result = train(data, data / 'run')
    assert result.returncode != 0
    assert message in result.stderr
    assert not list((data / 'run').glob('*.pth'))


def test_an_empty_folder_is_named(data):
    for path in (data / 'val/HR').iterdir():
        path.unlink()
    result = train(data, data / 'run')
    assert result.returncode == 1
    assert 'val_dataloader.dataset.data_prefix.gt is' in last_line(result)
    assert 'is an empty folder' in last_line(result)


def test_grey_transparent_and_16_bit_images_are_read_as_8_bit_colour(data):
    pipeline = Config.fromfile(CONFIG).val_dataloader.dataset.pipeline
    with DefaultScope.overwrite_default_scope('mmagic'):
        read = Compose(pipeline)
    names = ['img_path', 'gt_path']
    file = data / 'train/HR/a.png'
    image = cv2.imread(str(file))
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    for stored, expected in (
        (grey, np.repeat(grey[:, :, None], 3, axis=2)),
        (cv2.cvtColor(image, cv2.COLOR_BGR2BGRA), image),
        (image.astype(np.uint16) * 257, image),
    ):
        cv2.imwrite(str(file), stored)
        got = read(dict.fromkeys(names, str(file)))['inputs']
        assert got.dtype == torch.uint8
        assert np.array_equal(got.permute(1, 2, 0).numpy(), expected[:, :, ::-1])  # red first


@pytest.mark.parametrize('option', [('--show',), ('--out', 'predictions.pkl'), ('--tta',)])
def test_what_has_no_meaning_for_images_is_refused(data, option):
    result = python('test.py', CONFIG, 'none.pth', *option, '--cfg-options', *options_for(data))
    assert result.returncode == 1
    assert option[0] in last_line(result)
