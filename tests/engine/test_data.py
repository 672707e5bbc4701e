"""Odd data trains or fails as it does upstream."""

import pytest
import torch
from mmengine.optim import OptimWrapper

from ..helpers.detection import BOXES, batch, build, retinanet, sample
from ..helpers.detectors import detector
from ..helpers.runs import make_coco, run_config, runner
from ..helpers.training import Trainer, trainer

ODD_BOXES = {
    'no objects': (),
    'tiny': ((10.0, 10.0, 10.01, 10.01),),
    'larger than the image': ((-50.0, -50.0, 200.0, 200.0),),
    'outside the image': ((70.0, 70.0, 90.0, 90.0),),
}
POINT, LINE = (10.0, 10.0, 10.0, 10.0), (4.0, 20.0, 60.0, 20.0)


def logs_of_plain(data):
    model = build(retinanet(None)).train()
    return model.train_step(data, OptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.01)))


@pytest.mark.parametrize('boxes', ODD_BOXES.values(), ids=ODD_BOXES)
@pytest.mark.parametrize('num_modules', [1, 4])
def test_odd_boxes_train_without_error_and_with_upstreams_main_loss(num_modules, boxes):
    run = trainer(num_modules)
    plain = build(retinanet(None))
    run.model.load_state_dict(plain.state_dict(), strict=False)
    logs = run.step(batch(boxes=boxes))
    assert logs == logs_of_plain(batch(boxes=boxes))
    assert all(value.isfinite() for value in logs.values())
    assert all(p.isfinite().all() for p in run.model.parameters())


@pytest.mark.parametrize(
    'boxes', [(POINT,), (LINE,), (*BOXES, POINT)], ids=['a point', 'a line', 'a point among objects']
)
def test_boxes_without_area_are_infinite_losses_upstream_and_an_error_here(boxes):
    assert not logs_of_plain(batch(boxes=boxes))['loss'].isfinite()
    with pytest.raises(FloatingPointError, match=r'local loss is infinite or NaN: .*bbox of module 0'):
        trainer(4).step(batch(boxes=boxes))


def test_boxes_without_area_never_arrive_from_a_coco_data_set(tmp_path):
    root = make_coco(tmp_path / 'coco', num_images=2, boxes=(*BOXES, POINT, LINE))
    run = runner(run_config(root, tmp_path / 'run', epochs=1))
    run.train()
    assert {len(item['data_samples'].gt_instances) for item in run.train_dataloader.dataset} == {len(BOXES)}


@pytest.mark.parametrize('name', ['fcos', 'faster_rcnn', 'detr', 'deformable_detr'])
def test_a_batch_of_images_with_and_without_objects_trains_every_detector(name):
    pairs = [sample(0), sample(1, boxes=())]
    data = dict(inputs=[image for image, _ in pairs], data_samples=[data_sample for _, data_sample in pairs])
    logs = Trainer(build(detector(name))).step(data)
    assert all(value.isfinite() for value in logs.values())


def test_images_of_different_sizes_are_padded_and_train():
    pairs = [sample(0), sample(1, size=96)]
    data = dict(inputs=[image for image, _ in pairs], data_samples=[data_sample for _, data_sample in pairs])
    assert trainer(4).step(data)['loss'].isfinite()


def broken(path):
    path.write_bytes(path.read_bytes()[:20])


@pytest.mark.parametrize(('harm', 'error'), [(broken, AssertionError), (lambda path: path.unlink(), FileNotFoundError)])
def test_a_broken_or_missing_image_stops_with_upstreams_error_which_names_the_file(tmp_path, harm, error):
    root = make_coco(tmp_path / 'coco', num_images=2)
    harm(tmp_path / 'coco/images/1.png')
    run = runner(run_config(root, tmp_path / 'run', epochs=1))
    with pytest.raises(error, match=r'images/1\.png'):
        run.train()
    assert run.model.backbone.step is None


def test_annotations_without_objects_train(tmp_path):
    root = make_coco(tmp_path / 'coco', num_images=2, boxes=())
    runner(run_config(root, tmp_path / 'run', epochs=1)).train()
    assert (tmp_path / 'run/epoch_1.pth').exists()
