"""What is missing is found before a run, and named."""

import pytest

from man_mm.runs.missing_data import missing_data


def loader(root, **dataset):
    return dict(train_dataloader=dict(dataset=dict(data_root=str(root), **dataset)))


def test_complete_data_is_not_missing(tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images/1.png').touch()
    (tmp_path / 'train.json').write_text('{}')
    cfg = loader(tmp_path, ann_file='train.json', data_prefix=dict(img='images/'))
    assert missing_data(cfg, ('train_dataloader', 'val_dataloader')) is None


@pytest.mark.parametrize(
    ('dataset', 'key'),
    [
        (dict(ann_file='train.json'), 'train_dataloader.dataset.ann_file'),
        (dict(data_prefix=dict(img='images/')), 'train_dataloader.dataset.data_prefix.img'),
        (dict(data_prefix='images/'), 'train_dataloader.dataset.data_prefix'),
    ],
)
def test_first_missing_path_is_named_with_its_key(tmp_path, dataset, key):
    message = missing_data(loader(tmp_path, **dataset), ('train_dataloader',))
    assert f'{key} is' in message and str(tmp_path) in message


def test_wrapped_data_sets_are_looked_into(tmp_path):
    leaf = dict(data_root=str(tmp_path), ann_file='a.json')
    nested = dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=[leaf]))
    message = missing_data(dict(train_dataloader=dict(dataset=nested)), ('train_dataloader',))
    assert 'train_dataloader.dataset.dataset.datasets.0.ann_file' in message


def test_remote_data_is_left_to_its_backend(tmp_path):
    cfg = loader(tmp_path, ann_file='a.json', backend_args=dict(backend='petrel'))
    assert missing_data(cfg, ('train_dataloader',)) is None


def test_a_list_of_loaders_is_looked_through_and_an_empty_folder_is_missing(tmp_path):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/image.png').touch()
    (tmp_path / 'empty').mkdir()
    sets = [dict(dataset=dict(data_root=str(tmp_path), data_prefix=dict(img=name))) for name in ('full', 'empty')]
    message = missing_data(dict(test_dataloader=sets), ('test_dataloader',))
    assert 'test_dataloader.1.dataset.data_prefix.img is' in message and 'which is an empty folder' in message
    assert missing_data(dict(test_dataloader=sets[:1]), ('test_dataloader',)) is None
