"""Data sets read their official files pixel by pixel, and say which file is wrong."""

import importlib
import pickle
import re

import numpy as np
import pytest
from mmengine.registry import DATASETS as ROOT
from mmengine.registry import DefaultScope
from scipy.io import savemat

from man_mm.runs.missing_data import missing_data

PACK = [dict(type='PackInputs')]


def build(name, root, **options):
    """A data set whose files have other md5 sums than the official ones, unless `check_md5` says otherwise."""
    options = {'check_md5': False, 'pipeline': [], **options}
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return ROOT.build(dict(type=f'man_mm.{name}', data_root=str(root), **options))


def pictures(num, size):
    """Asymmetric RGB images (N, H, W, 3)."""
    return np.random.default_rng(0).integers(0, 256, (num, size, size, 3), dtype=np.uint8)


def write_svhn(root, images, labels, split='train'):
    root.mkdir(exist_ok=True)
    savemat(
        root / f'{split}_32x32.mat', dict(X=images.transpose(1, 2, 3, 0), y=np.array(labels, dtype=np.uint8)[:, None])
    )


def write_stl10(root, images, labels, split='train'):
    folder = root / 'stl10_binary'
    folder.mkdir(parents=True, exist_ok=True)
    planes = [image[:, column, channel] for image in images for channel in range(3) for column in range(96)]
    (folder / f'{split}_X.bin').write_bytes(b''.join(plane.tobytes() for plane in planes))
    (folder / f'{split}_y.bin').write_bytes(bytes(labels))


def write_cifar10(root, images, labels):
    folder = root / 'cifar-10-batches-py'
    folder.mkdir(parents=True, exist_ok=True)
    content = dict(data=images.transpose(0, 3, 1, 2).reshape(len(images), -1), labels=list(labels))
    for name in (*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch'):
        (folder / name).write_bytes(pickle.dumps(content))
    return folder


WRITERS = dict(SVHN=(write_svhn, 32), STL10=(write_stl10, 96), CIFAR10=(write_cifar10, 32))
FIRST_LABEL = dict(SVHN=1, STL10=1, CIFAR10=0)


def written(name, root, num=3):
    """A data set written to `root` and read again, and the images that were written, of classes 0, 1, 2."""
    write, size = WRITERS[name]
    images = pictures(num, size)
    write(root, images, [(i + FIRST_LABEL[name]) for i in range(num)])
    return build(name, root), images


@pytest.mark.parametrize('name', WRITERS)
def test_images_come_back_pixel_by_pixel(name, tmp_path):
    dataset, images = written(name, tmp_path)
    for i, image in enumerate(images):
        assert np.array_equal(dataset[i]['img'], image)


@pytest.mark.parametrize(('name', 'labels'), [('SVHN', [1, 2, 3]), ('STL10', [0, 1, 2]), ('CIFAR10', [0, 1, 2])])
def test_labels_start_at_zero(name, labels, tmp_path):
    dataset, _ = written(name, tmp_path)
    assert [dataset[i]['gt_label'] for i in range(3)] == labels
    assert len(dataset.metainfo['classes']) == 10


def test_the_digit_that_svhn_labels_ten_is_zero(tmp_path):
    write_svhn(tmp_path, pictures(2, 32), [10, 9], 'extra')
    dataset = build('SVHN', tmp_path, split='extra')
    assert [dataset.metainfo['classes'][dataset[i]['gt_label']] for i in range(2)] == ['0', '9']


@pytest.mark.parametrize('name', WRITERS)
def test_indices_choose_images(name, tmp_path):
    _, images = written(name, tmp_path)
    assert np.array_equal(build(name, tmp_path, indices=[2])[0]['img'], images[2])


@pytest.mark.parametrize('name', WRITERS)
def test_the_papers_augmentation_keeps_the_size(name, tmp_path):
    _, images = written(name, tmp_path)
    size = images.shape[1]
    pipeline = [
        dict(type='RandomCrop', crop_size=size + 8, pad_if_needed=True, padding_mode='reflect'),
        dict(type='RandomCrop', crop_size=size),
        dict(type='RandomFlip', prob=0.5),
        *PACK,
    ]
    sample = build(name, tmp_path, pipeline=pipeline)[1]
    assert sample['inputs'].shape == (3, size, size)
    assert 'gt_label' in sample['data_samples']


@pytest.mark.parametrize('name', WRITERS)
def test_a_missing_file_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'(train_32x32\.mat|train_X\.bin|data_batch_1) is missing.*data_root'):
        build(name, tmp_path)


@pytest.mark.parametrize('name', ['SVHN', 'STL10'])
def test_an_unknown_split_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=rf"split='validation' of {name} must be one of \('train'"):
        build(name, tmp_path, split='validation')


def test_a_mat_file_that_is_cut_off_or_something_else_is_refused(tmp_path):
    write_svhn(tmp_path, pictures(20, 32), [1] * 20)
    path = tmp_path / 'train_32x32.mat'
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b'', b'<html>not found</html>' * 50):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r'train_32x32\.mat (cannot be read|must hold)'):
            build('SVHN', tmp_path)


@pytest.mark.parametrize(
    'content',
    [
        dict(X=np.zeros((32, 32, 3, 2), np.uint8)),
        dict(X=np.zeros((32, 32, 3, 2), np.uint8), y=np.ones((3, 1))),
        dict(X=np.zeros((32, 32, 2), np.uint8), y=np.ones((2, 1))),
        dict(X=np.zeros((32, 32, 3, 2)), y=np.ones((2, 1))),
    ],
    ids=['no labels', 'too many labels', 'grey', 'float'],
)
def test_a_mat_file_of_another_content_is_refused(content, tmp_path):
    savemat(tmp_path / 'train_32x32.mat', content)
    with pytest.raises(ValueError, match=r'train_32x32\.mat (cannot be read \(|must hold )'):
        build('SVHN', tmp_path)


@pytest.mark.parametrize(('name', 'labels'), [('SVHN', [1, 11]), ('STL10', [1, 11]), ('CIFAR10', [0, 10])])
def test_labels_out_of_range_are_refused(name, labels, tmp_path):
    write, size = WRITERS[name]
    write(tmp_path, pictures(2, size), labels)
    with pytest.raises(ValueError, match=r'holds labels \[1[01]\], but they must be'):
        build(name, tmp_path)


def test_stl10_files_that_are_cut_off_or_do_not_belong_together_are_refused(tmp_path):
    write_stl10(tmp_path, pictures(2, 96), [1, 2])
    path = tmp_path / 'stl10_binary/train_X.bin'
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match=r'train_X\.bin and .*train_y\.bin cannot be read \(ValueError'):
        build('STL10', tmp_path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r'train_y\.bin must hold a label for each of 1 images'):
        build('STL10', tmp_path)


@pytest.mark.parametrize('name', WRITERS)
def test_other_files_than_the_official_ones_are_read_only_if_the_check_is_switched_off(name, tmp_path):
    written(name, tmp_path)
    with pytest.raises(
        ValueError, match=r'(train_32x32\.mat|train_X\.bin|data_batch_1) is not the off.*check_md5=False'
    ):
        build(name, tmp_path, check_md5=True)
    with pytest.raises(ValueError, match=r"dataset.check_md5='no' must be True or False"):
        build(name, tmp_path, check_md5='no')


def test_all_batches_of_cifar10_are_read(tmp_path):
    write_cifar10(tmp_path, pictures(2, 32), [0, 1])
    assert len(build('CIFAR10', tmp_path)) == 10
    assert len(build('CIFAR10', tmp_path, split='test')) == 2


@pytest.mark.parametrize(('name', 'fetches'), [('svhn', 'download_url'), ('stl10', 'download_and_extract_archive')])
def test_missing_files_are_downloaded_if_that_is_asked_for(name, fetches, tmp_path, monkeypatch):
    write, size = WRITERS[name.upper()]
    asked = []

    def fetch(url, root, *arguments, **options):
        asked.append(url)
        write(tmp_path, pictures(2, size), [1, 2], 'test')

    reader = importlib.import_module(f'torchvision.datasets.{name}')
    monkeypatch.setattr(reader, fetches, fetch)
    assert len(build(name.upper(), tmp_path, split='test', download=True)) == 2
    assert len(asked) == 1
    with pytest.raises(FileNotFoundError, match=re.escape(asked[0])):  # where to get it by hand
        build(name.upper(), tmp_path / 'none', split='test')


def test_a_cifar10_batch_that_is_cut_off_or_of_another_shape_is_refused(tmp_path):
    folder = write_cifar10(tmp_path, pictures(2, 32), [0])
    with pytest.raises(ValueError, match=r'data_batch_1 must hold data \(N, 3072\).*labels \(1,\)'):
        build('CIFAR10', tmp_path)
    path = folder / 'data_batch_1'
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match='data_batch_1 cannot be read as a batch'):
        build('CIFAR10', tmp_path)


def test_a_data_root_that_is_not_there_is_named_before_a_run(tmp_path):
    def loader(**dataset):
        return dict(train_dataloader=dict(dataset=dict(data_root=str(tmp_path / 'none'), **dataset)))

    assert 'train_dataloader.dataset.data_root is' in missing_data(loader(type='man_mm.SVHN'), ('train_dataloader',))
    assert missing_data(loader(type='man_mm.CIFAR10', download=True), ('train_dataloader',)) is None
