"""Detection data in upstream's layouts: VOC trees, and annotations of COCO that no loss should see."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from man_mm.runs.missing_data import missing_data

from ..helpers.detection import BOXES, retinanet
from ..helpers.runs import NAMES, make_coco, run_config, runner

ROOT = Path(__file__).parents[2]
VOC_CLASSES = ('cat', 'dog', 'person')


def make_voc(root, years=(2007, 2012), sets=('trainval', 'test'), num_images=4, size=64):
    """Write a VOC tree of generated images under `root/VOC{year}`."""
    rng = np.random.default_rng(0)
    for year in years:
        folder = root / f'VOC{year}'
        for name in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
            (folder / name).mkdir(parents=True)
        ids = [f'{year}_{i:06d}' for i in range(num_images)]
        for name in ids:
            Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(
                folder / f'JPEGImages/{name}.jpg'
            )
            objects = ''.join(
                f'<object><name>{VOC_CLASSES[j]}</name><difficult>0</difficult><bndbox>'
                + ''.join(
                    f'<{k}>{int(v) + 1}</{k}>' for k, v in zip(('xmin', 'ymin', 'xmax', 'ymax'), box, strict=True)
                )
                + '</bndbox></object>'
                for j, box in enumerate(BOXES)
            )
            size_of = f'<size><width>{size}</width><height>{size}</height><depth>3</depth></size>'
            (folder / f'Annotations/{name}.xml').write_text(f'<annotation>{size_of}{objects}</annotation>')
        for name in sets:
            (folder / f'ImageSets/Main/{name}.txt').write_text('\n'.join(ids) + '\n')
    return str(root) + '/'


def voc_config(root, name='voc0712_detection_400'):
    """The data of one of our configs, moved to `root`."""
    cfg = Config.fromfile(ROOT / f'configs/_base_/{name}.py')
    train = cfg.train_dataloader.dataset
    for dataset in (*train.get('datasets', [train]), cfg.val_dataloader.dataset, cfg.test_dataloader.dataset):
        dataset.data_root = root
    return cfg


@pytest.mark.parametrize('size', ['400', '448'])
def test_a_voc_tree_without_2012_is_named_before_training(tmp_path, size):
    cfg = voc_config(make_voc(tmp_path, years=(2007,)), f'voc0712_detection_{size}')
    message = missing_data(cfg, ('train_dataloader', 'val_dataloader'))
    assert message.startswith('The data set is missing: train_dataloader.dataset.datasets.1.ann_file')
    assert 'VOC2012/ImageSets/Main/trainval.txt' in message and str(tmp_path) in message
    assert missing_data(voc_config(str(tmp_path) + '/', f'voc07_detection_{size}'), ('train_dataloader',)) is None


def test_a_voc_tree_trains_and_is_scored_by_class(tmp_path):
    cfg = voc_config(make_voc(tmp_path / 'data'))
    model = retinanet(4)
    model['bbox_head'] = dict(model['bbox_head'], num_classes=20)
    small = run_config('', tmp_path / 'run', model, epochs=1)
    for key in ('train_dataloader', 'val_dataloader'):
        loader = cfg[key].to_dict()
        loader.update(num_workers=0, batch_size=2, persistent_workers=False)
        datasets = loader['dataset'].get('datasets', [loader['dataset']])
        for dataset in datasets:
            dataset['filter_cfg'] = None  # the objects are smaller than the 32 px that upstream asks for
            for step in dataset['pipeline']:
                if step['type'] == 'Resize':
                    step['scale'] = (64, 64)
        small[key] = loader
    small.update(log_level='INFO', val_evaluator=cfg.val_evaluator.to_dict(), val_cfg=dict(type='ValLoop'))
    run = runner(small)
    run.train()
    assert len(run.train_dataloader.dataset) == 8
    metrics = run.val_loop.run()
    assert set(metrics) >= {'pascal_voc/mAP', 'pascal_voc/AP50'}
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert all(f'| {name} ' in log for name in run.val_evaluator.dataset_meta['classes'])


def test_crowds_and_boxes_without_an_area_reach_no_loss(tmp_path):
    root = Path(make_coco(tmp_path / 'data', num_images=2))
    whole = json.loads((root / 'train.json').read_text())
    num = len(whole['annotations'])
    odd = [
        dict(bbox=[4, 4, 0, 20], area=0, iscrowd=0),
        dict(bbox=[4, 4, 20, 0.5], area=10, iscrowd=0),
        dict(bbox=[0, 0, 60, 60], area=3600, iscrowd=1),
        dict(bbox=[70, 70, 20, 20], area=400, iscrowd=0),  # outside of the image
    ]
    whole['annotations'] += [dict(box, id=num + i, image_id=0, category_id=0) for i, box in enumerate(odd)]
    (root / 'train.json').write_text(json.dumps(whole))
    cfg = run_config(f'{root}/', tmp_path / 'run', epochs=1)
    with DefaultScope.overwrite_default_scope('mmdet'):
        sample = DATASETS.build(cfg['train_dataloader']['dataset'])[0]['data_samples']
    assert sample.metainfo['img_id'] == 0
    assert len(sample.gt_instances) == len(BOXES) and len(sample.ignored_instances) == 1
    run = runner(cfg)
    run.train()
    assert all(torch.isfinite(value) for value in run.optim_wrapper.local_losses.values())
    assert run.train_dataloader.dataset.metainfo['classes'] == NAMES
