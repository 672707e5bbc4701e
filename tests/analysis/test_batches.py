"""Batches to measure on: of a config's data, and of noise."""

import pytest
import torch
from mmengine.config import Config

from man_mm.analysis.batches import first_batch, synthetic_batch
from man_mm.readout.mmdet import BOXES

from ..helpers.classification import classifier
from ..helpers.detection import build, retinanet
from ..helpers.restoration import editor
from ..helpers.runs import make_coco, run_config

CONFIGS = {
    'mmdet': Config(dict(default_scope='mmdet', model=retinanet(4))),
    'mmpretrain': Config(dict(default_scope='mmpretrain', model=classifier('man'))),
    'mmagic': Config(dict(default_scope='mmagic', model=editor(scale=3))),
}


def tensors_of(data):
    found = list(data['inputs'])
    for sample in data['data_samples']:
        if 'gt_instances' in sample:
            found += [sample.gt_instances.bboxes, sample.gt_instances.labels]
        else:
            found += [sample.get('gt_label', sample.get('gt_img'))]
    return found


@pytest.mark.parametrize('scope', CONFIGS)
def test_the_same_noise_on_every_call(scope):
    first, second = (tensors_of(synthetic_batch(CONFIGS[scope], 3, (40, 64))) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    images = first[:3]
    assert [image.shape for image in images] == [(3, 40, 64)] * 3
    assert all(image.dtype == torch.uint8 for image in images) and not torch.equal(images[0], images[1])


def test_images_of_classifiers_come_as_one_tensor_as_the_command_lines_collate_them():
    images = {scope: synthetic_batch(cfg, 3, (40, 64))['inputs'] for scope, cfg in CONFIGS.items()}
    assert images['mmpretrain'].shape == (3, 3, 40, 64)
    assert isinstance(images['mmdet'], list) and isinstance(images['mmagic'], list)
    own = Config({**CONFIGS['mmpretrain'], 'train_dataloader': dict(collate_fn=dict(type='pseudo_collate'))})
    assert isinstance(synthetic_batch(own, 3, (40, 64))['inputs'], list)


def test_boxes_lie_in_the_image():
    height, width = 40, 96
    for sample in synthetic_batch(CONFIGS['mmdet'], 4, (height, width))['data_samples']:
        x1, y1, x2, y2 = sample.gt_instances.bboxes.unbind(1)
        assert len(x1) == BOXES and (x1 >= 0).all() and (y1 >= 0).all()
        assert (x2 <= width).all() and (y2 <= height).all()
        sides = (x2 - x1) / width, (y2 - y1) / height
        assert all((side > 0.09).all() and (side < 0.51).all() for side in sides)
        assert len(sample.ignored_instances) == 0


def test_a_detector_finds_boxes_to_train_on():
    model = build(retinanet(None)).train()
    data = model.data_preprocessor(synthetic_batch(CONFIGS['mmdet'], 2, (128, 128)), True)
    losses = model(**data, mode='loss')
    assert sum(losses['loss_bbox']) > 0


def test_classes_alternate_and_true_images_are_as_much_larger_as_the_model_makes_them():
    samples = synthetic_batch(CONFIGS['mmpretrain'], 3, (16, 16))['data_samples']
    assert [sample.gt_label.tolist() for sample in samples] == [[0], [1], [0]]
    for net in ('edsr', 'swinir'):
        for num_modules in (None, 3):
            cfg = Config(dict(default_scope='mmagic', model=editor(net, num_modules, scale=3)))
            samples = synthetic_batch(cfg, 2, (16, 24))['data_samples']
            assert [sample.gt_img.shape for sample in samples] == [(3, 48, 72)] * 2


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(default_scope='mmseg'), r"default_scope='mmseg': a batch without data is known for \['mmagic', 'mmdet'"),
        (dict(model=dict()), r'default_scope=None: .* Leave the size out'),
        (dict(default_scope='mmagic', model=dict(generator=dict(type='LIIF'))), r'upscale_factor or \.upscale, which'),
        (dict(default_scope='mmagic', model=dict(type='SRGAN')), r'upscale_factor or \.upscale, which'),
    ],
)
def test_a_config_without_a_known_task_is_refused(cfg, message):
    with pytest.raises(ValueError, match=message):
        synthetic_batch(Config(cfg), 2, (16, 16))


def test_the_first_images_of_the_data_set_are_a_batch(tmp_path):
    cfg = Config(run_config(make_coco(tmp_path / 'coco', num_images=5), tmp_path / 'run'))
    data, num_batches = first_batch(cfg)
    assert num_batches == 3  # the last one is smaller
    assert [image.shape for image in data['inputs']] == [(3, 64, 64)] * 2
    assert [sample.img_id for sample in data['data_samples']] == [0, 1]


def test_missing_data_is_named_and_so_are_too_few_images(tmp_path):
    cfg = Config(run_config(make_coco(tmp_path / 'coco', num_images=5), tmp_path / 'run'))
    cfg.train_dataloader.batch_size = 6
    with pytest.raises(ValueError, match=r'batch_size=6, but the data set has 5 images'):
        first_batch(cfg)
    cfg.train_dataloader.dataset.data_root = str(tmp_path / 'nowhere') + '/'
    with pytest.raises(ValueError, match=r'data set is missing: .*nowhere.* Images of noise need no data'):
        first_batch(cfg)
