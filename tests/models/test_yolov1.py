"""YOLOV1Head computes the paper's Eq. 3, decodes what it encodes, and learns, in BP and locally."""

import copy
from functools import partial

import pytest
import torch
from mmdet.models.test_time_augs import DetTTAModel
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData

from man_mm.models import yolov1_head
from man_mm.models.yolov1_cells import cell_targets

from ..helpers.detection import CLASSES, FPN, PREPROCESSOR, RESNET, batch, build, local_backbone, sample
from ..helpers.device import DEVICE
from ..helpers.training import Trainer, assert_equal, named

pytestmark = pytest.mark.usefixtures('device')

NMS = dict(type='nms', iou_threshold=0.5)
TEST_CFG = dict(score_thr=0.05, nms_pre=50, nms=NMS, max_per_img=10)
HEAD = dict(type='man_mm.YOLOV1Head', num_classes=CLASSES, in_channels=64, conv_channels=8, conv_strides=(1,))
RULES = [dict(head='shared'), dict(head='private'), dict(head='shared', shared_head_grad='mean')]


def make_head(**options):
    return build({**HEAD, 'test_cfg': TEST_CFG, **options})


def yolo(num_modules=None, auxiliary=None, backbone=None, neck=None, **head):
    """Config of a YOLOv1; `num_modules=None` trains by BP."""
    net = {**RESNET, **(backbone or {})}
    if num_modules is not None:
        net = local_backbone(net, num_modules, auxiliary, neck='shared')
    return dict(
        type='SingleStageDetector',
        data_preprocessor=PREPROCESSOR,
        backbone=net,
        neck=neck,
        bbox_head={**HEAD, **head},
        test_cfg=TEST_CFG,
    )


def truth(boxes, labels=None):
    labels = [0] * len(boxes) if labels is None else labels
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels=torch.tensor(labels).long()
    )


def zeros(num=1, rows=2, cols=2, boxes=2):
    """Maps of zeros: class probabilities, boxes, confidences."""
    shape = (num, rows, cols)
    return torch.zeros(*shape, CLASSES), torch.zeros(*shape, boxes, 4), torch.zeros(*shape, boxes)


def losses(maps, *truths, shape=(100, 200), **options):
    metas = [dict(batch_input_shape=shape, img_shape=shape) for _ in truths]
    return make_head(num_boxes=maps[1].shape[3], **options).loss_by_feat(maps, list(truths), metas, None)


# Two objects in an image 200 px wide and 100 px high, with 2 x 2 cells of 100 x 50 px:
# A: centre (40, 25), 40 x 40 px: row 0, column 0, x = 0.4, y = 0.5, w = 40 / 200 = 0.2, h = 40 / 100 = 0.4
# B: centre (150, 75), 80 x 40 px: row 1, column 1, x = 0.5, y = 0.5, w = 0.4, h = 0.4
OBJECTS = truth([(20, 5, 60, 45), (110, 55, 190, 95)], [1, 2])


def predictions():
    cls, box, conf = zeros()
    box[0, 0, 0] = torch.tensor([(0.4, 0.5, 0.3, 0.3), (0.4, 0.5, 0.4, 0.6)])  # w, h: 0.09, 0.09 and 0.16, 0.36
    box[0, 1, 1] = torch.tensor([(0.7, 0.5, 0.5, 0.5), (0.5, 0.5, 0.2, 0.2)])  # w, h: 0.25, 0.25 and 0.04, 0.04
    conf[0] = torch.tensor([[(0.2, 0.9), (0.3, -0.1)], [(0.2, 0.0), (0.5, 0.1)]])
    cls[0, 0, 0], cls[0, 1, 1], cls[0, 0, 1] = torch.tensor([(0.1, 0.7, 0.0), (0.2, 0.0, 0.5), (0.4, 0.4, 0.4)])
    return cls, box, conf


def test_loss_equals_values_computed_by_hand():
    # A: concentric boxes, the smaller inside: IoU 0.0081 / 0.08 = 0.10125 and 0.16 * 0.36 / 0.08 = 0.72: the second
    # B: the first spans x 0.725 .. 0.975 of the image and the object 0.55 .. 0.95; its y lies inside the object's
    inter = (0.95 - 0.725) * 0.25
    iou_b = inter / (0.25 * 0.25 + 0.4 * 0.4 - inter)  # 0.338; the second has 0.0016 / 0.16 = 0.01
    wh = (0.4 - 0.2**0.5) ** 2 + (0.6 - 0.4**0.5) ** 2 + 2 * (0.5 - 0.4**0.5) ** 2
    expected = dict(
        loss_xy=5 * (0.7 - 0.5) ** 2,
        loss_wh=5 * wh,
        loss_conf=(0.9 - 0.72) ** 2 + (0.5 - iou_b) ** 2,
        loss_noobj=0.5 * (0.2**2 + 0.1**2 + 0.3**2 + 0.1**2 + 0.2**2),
        loss_cls=0.1**2 + (0.7 - 1) ** 2 + 0.2**2 + (0.5 - 1) ** 2,
    )
    expected = {name: torch.tensor(value) for name, value in expected.items()}
    assert_equal(losses(predictions(), OBJECTS), expected, rtol=1e-5, atol=1e-7)
    both = [torch.cat([ours, nothing]) for ours, nothing in zip(predictions(), zeros(), strict=True)]
    halves = {name: value / 2 for name, value in expected.items()}  # the mean over the images
    assert_equal(losses(both, OBJECTS, truth([])), halves, rtol=1e-5, atol=1e-7)
    weighted = losses(predictions(), OBJECTS, lambda_coord=1.0, lambda_noobj=2)
    expected.update(
        loss_xy=expected['loss_xy'] / 5, loss_wh=expected['loss_wh'] / 5, loss_noobj=4 * expected['loss_noobj']
    )
    assert_equal(weighted, expected, rtol=1e-5, atol=1e-7)


def test_of_two_objects_in_a_cell_the_first_is_learned():
    a, b = (20, 5, 60, 45), (10, 10, 90, 40)
    assert_equal(losses(predictions(), truth([a, b], [1, 2])), losses(predictions(), truth([a], [1])))
    assert_equal(losses(predictions(), truth([b, a], [2, 1])), losses(predictions(), truth([b], [2])))


def test_without_overlap_the_nearest_box_by_root_mean_square_distance_is_responsible():
    cls, box, conf = zeros()
    # from A at (0.2, 0.25, 0.2, 0.4) of the image: one far and of its size, one near but a point
    box[0, 0, 0] = torch.tensor([(-1.0, 0.5, 0.2**0.5, 0.4**0.5), (0.9, 0.5, 0.0, 0.0)])
    result = losses((cls, box, conf), truth([(20, 5, 60, 45)]))
    # squares: (0.2 + 0.5)^2 = 0.49 and 0.25^2 + 0.2^2 + 0.4^2 = 0.2625: the second
    assert result['loss_xy'].item() == pytest.approx(5 * (0.9 - 0.4) ** 2, rel=1e-5)
    assert result['loss_wh'].item() == pytest.approx(5 * (0.2 + 0.4), rel=1e-5)


def test_no_gradient_flows_through_the_target_of_the_confidence():
    cls, box, conf = (part.requires_grad_() for part in predictions())
    result = losses((cls, box, conf), OBJECTS)
    assert torch.autograd.grad(result['loss_conf'], [cls, box], allow_unused=True, retain_graph=True) == (None, None)
    (grad,) = torch.autograd.grad(result['loss_conf'], conf)
    assert grad[0, 0, 0, 1].item() == pytest.approx(2 * (0.9 - 0.72), rel=1e-4) and (grad != 0).sum() == 2


@pytest.mark.parametrize('boxes', [[], [(180, 80, 220, 120)], [(-20, -30, 5, 6)], [(50, 50, 50, 50)], [(9, 9, 3, 3)]])
def test_loss_and_gradients_are_finite_without_objects_on_the_edge_and_without_area(boxes):
    maps = [part.requires_grad_() for part in predictions()]
    total = sum(losses(maps, truth(boxes)).values())
    grads = torch.autograd.grad(total, maps)
    assert total.isfinite() and all(grad.isfinite().all() for grad in grads)
    assert grads[1].any() == bool(boxes) == grads[0].any()


def test_a_centre_on_the_right_and_bottom_edge_belongs_to_the_last_cell():
    cls, box, conf = zeros()
    box[0, 1, 1, 0] = torch.tensor((1.0, 1.0, 0.2**0.5, 0.4**0.5))
    result = losses((cls, box, conf), truth([(180, 80, 220, 120)]))
    assert result['loss_xy'] == 0 and result['loss_wh'].item() == pytest.approx(0, abs=1e-10)


def test_half_precision_maps_and_box_types_are_read():
    from mmdet.structures.bbox import HorizontalBoxes

    typed = InstanceData(bboxes=HorizontalBoxes(OBJECTS.bboxes), labels=OBJECTS.labels)
    assert_equal(losses(predictions(), typed), losses(predictions(), OBJECTS))
    maps = [part.half() * 300 for part in predictions()]
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses(maps, OBJECTS).values())
    model = build(yolo()).train()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        result = model(**model.data_preprocessor(batch(), True), mode='loss')
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in result.values())


def encoded(boxes, labels, shape, rows, cols):
    """Maps that predict boxes in an image of a shape (height, width) as second boxes, with confidence 0.8."""
    cls, box, conf = zeros(1, rows, cols)
    for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
        x, y = (x1 + x2) / 2 / shape[1] * cols, (y1 + y2) / 2 / shape[0] * rows
        place = (0, int(y), int(x))
        size = ((x2 - x1) / shape[1]) ** 0.5, ((y2 - y1) / shape[0]) ** 0.5
        box[place][1] = torch.tensor((x - int(x), y - int(y), *size))
        conf[place][1], cls[place][label] = 0.8, 0.5
    return cls, box, conf


def test_decoding_inverts_the_targets_with_padding_and_rescaling():
    boxes, labels, shape = [(4, 6, 28, 40), (70, 10, 88, 50), (36, 40, 40, 43)], [1, 2, 0], (64, 128)
    maps = encoded(boxes, labels, shape, 2, 4)
    encoding = losses(maps, truth(boxes, labels), shape=shape)
    assert encoding['loss_xy'] < 1e-9 and encoding['loss_wh'] < 1e-9
    assert encoding['loss_conf'].item() == pytest.approx(3 * (1 - 0.8) ** 2, rel=1e-4)  # the target is an IoU of 1
    meta = dict(batch_input_shape=shape, img_shape=(50, 90), scale_factor=(0.5, 0.25))
    (result,) = make_head().predict_by_feat(maps, [meta])
    order = result.labels.argsort()
    expected = torch.tensor([boxes[2], boxes[0], boxes[1]], dtype=torch.float32)
    torch.testing.assert_close(result.bboxes[order], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(result.scores, torch.full((3,), 0.8 * 0.5))
    (result,) = make_head().predict_by_feat(maps, [meta], rescale=True)
    torch.testing.assert_close(result.bboxes[order], expected * torch.tensor([2, 4, 2, 4]), rtol=0, atol=1e-3)


def test_boxes_are_clipped_scored_and_suppressed_as_the_test_config_says():
    cls, box, conf = zeros()
    box[0, 0, 0] = torch.tensor([(0.5, 0.5, 1.0, 1.0), (0.5, 0.5, 0.95, 1.0)])  # as large as the image, at its corner
    conf[0, 0, 0], cls[0, 0, 0, 1] = torch.tensor((0.5, 0.6)), 1.0
    conf[0, 1, 1], cls[0, 1, 1] = -1.0, -1.0  # the product of two negative numbers finds nothing
    meta = dict(batch_input_shape=(64, 64), img_shape=(40, 64))
    head = make_head()
    (result,) = head.predict_by_feat((cls, box, conf), [meta])
    assert result.bboxes.tolist() == [[0.0, 0.0, pytest.approx(16 + 32 * 0.95**2), 40.0]] and result.labels == 1

    def count(**cfg):
        return len(head.predict_by_feat((cls, box, conf), [meta], {**TEST_CFG, **cfg}, with_nms=False)[0])

    assert count() == 2 and count(nms_pre=1) == 1 and count(nms_pre=-1) == 2 and count(score_thr=0.55) == 1


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(grid_size=7, conv_strides=(1, 2)), r'grid_size=7 does not .*1 x 1 cells.* 7 times.*448 px.*grid_size=1'),
        (dict(fc_channels=16), r'fc_channels=16 needs bbox_head\.grid_size: a positive integer'),
        (dict(in_channels=32), r'in_channels=32 must be 64'),
        (dict(in_channels=[64]), r'in_channels=\[64\] must be an integer, 1 or more'),
        *[(dict(num_classes=v), r'num_classes=.* must be an integer, 1 or more') for v in (0, -1, '3', 2.0, True)],
        *[({key: 0}, rf'{key}=0 must be an integer, 1 or more') for key in ('grid_size', 'num_boxes', 'conv_channels')],
        (dict(grid_size=7, fc_channels='4096'), r"fc_channels='4096' must be an integer, 1 or more"),
        *[(dict(conv_strides=v), r'conv_strides=.* must be a list') for v in (2, (0,), '(1, 2)', (1, 2.0), None)],
        *[(dict(lambda_coord=v), r'lambda_coord=.* must be a number') for v in (-1, '5', None, float('nan'))],
        (dict(lambda_noobj=float('inf')), r'lambda_noobj=inf must be a number, zero or more'),
        (dict(lambda_no_obj=0.5), r"YOLOV1Head has no key {'lambda_no_obj': 0.5}. Its keys: .*'lambda_noobj'"),
    ],
)
def test_a_wrong_argument_is_refused_by_name_and_value(wrong, message):
    with pytest.raises(ValueError, match=message):
        build(yolo(**wrong)).eval()(torch.zeros(1, 3, 32, 32), mode='tensor')


@pytest.mark.parametrize(
    ('options', 'size', 'grid'),
    [
        (dict(), 64, 2),
        (dict(conv_strides=(1, 2, 1, 1)), 128, 2),
        (dict(conv_strides=(), num_boxes=3), 64, 2),
        (dict(norm_cfg=dict(type='BN')), 96, 3),
        (dict(fc_channels=16, grid_size=2), 64, 2),
        (dict(conv_strides=(), fc_channels=16, grid_size=2), 64, 2),
        (dict(conv_strides=(1, 2, 1, 1), grid_size=1), 16, 1),
        (dict(in_channels=8, neck=FPN), 64, 1),
    ],
)
def test_a_single_stage_detector_trains_and_predicts(options, size, grid):
    model = build(yolo(**options))
    ((cls, box, conf),) = model(torch.zeros(2, 3, size, size), mode='tensor')
    num_boxes = options.get('num_boxes', 2)
    assert cls.shape == (2, grid, grid, CLASSES) and conf.shape == (2, grid, grid, num_boxes)
    assert box.shape == (2, grid, grid, num_boxes, 4)
    optim_wrapper = OptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=1e-4))
    logs = model.train().train_step(batch(size=size), optim_wrapper)
    assert all(value.isfinite() for value in logs.values())
    assert set(logs) == {'loss', 'loss_xy', 'loss_wh', 'loss_conf', 'loss_noobj', 'loss_cls'}
    for result in model.eval().test_step(batch(size=size)):
        assert len(result.pred_instances) <= 10 and result.pred_instances.bboxes.shape[1] == 4


def test_predictions_of_an_image_and_its_mirror_image_are_merged():
    views = []
    for flip in (False, True):
        image, data_sample = sample()
        data_sample.set_metainfo(dict(flip=flip, flip_direction='horizontal' if flip else None))
        views.append(dict(inputs=[image.flip(2) if flip else image], data_samples=[data_sample]))
    model = build(yolo()).eval()
    model.bbox_head.test_cfg.score_thr = -1  # nothing is learned yet
    tta_cfg = ConfigDict(nms=NMS, max_per_img=10)
    tta = DetTTAModel(module=model, tta_cfg=tta_cfg)
    (merged,) = tta.merge_preds([[model.test_step(view)[0] for view in views]])
    assert 0 < len(merged.pred_instances) <= 10


@pytest.mark.parametrize('fc', [dict(), dict(fc_channels=16, grid_size=2)])
@pytest.mark.parametrize('auxiliary', RULES)
def test_every_parameter_is_trained_locally(auxiliary, fc):
    run = Trainer(build(yolo(4, auxiliary, **fc)))
    assert all(value.isfinite() for value in run.step().values())
    assert run.gradients.keys() == named(run.model, '')


@pytest.mark.parametrize('head', ['shared', 'private'])
def test_the_targets_of_a_batch_are_made_once_for_all_modules(head, monkeypatch):
    calls = []
    monkeypatch.setattr(yolov1_head, 'cell_targets', lambda *args: calls.append(args) or cell_targets(*args))
    Trainer(build(yolo(4, dict(head=head)))).step()
    assert len(calls) == 1


def test_private_heads_start_as_the_models_head_does_with_weights_of_their_own():
    model = build(yolo(4, dict(head='private'), grid_size=2, fc_channels=256))
    heads = [model.bbox_head, *(auxiliary.heads.bbox_head for auxiliary in model.backbone.auxiliaries)]
    for head in heads:
        assert (head.box_pred.bias == 0.5).all() and not head.cls_pred.bias.any() and not head.conf_pred.bias.any()
        assert head.box_pred.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert head.fc[1].weight.std().item() == pytest.approx((2 / 1.01 / 32) ** 0.5, rel=0.05)
    assert len({head.box_pred.weight[0, 0].item() for head in heads}) == 4


def pictures(num=4, size=128):
    """Images with three coloured boxes each on grey."""
    images, samples = [], []
    for index in range(num):
        generator = torch.Generator().manual_seed(index)
        with torch.device(generator.device):
            corners = torch.tensor([(0, 0), (64, 0), (0, 64)]) + torch.randint(0, 20, (3, 2), generator=generator)
            ends = corners + torch.randint(18, 44, (3, 2), generator=generator)
        boxes = torch.cat([corners, ends], 1).float().tolist()
        image, data_sample = sample(index, boxes, size)
        image.fill_(110)
        for (x1, y1, x2, y2), label in zip(data_sample.gt_instances.bboxes.int().tolist(), range(3), strict=True):
            image[:, y1:y2, x1:x2] = 30
            image[label, y1:y2, x1:x2] = 255
        instances = [dict(bbox=box, bbox_label=label) for label, box in enumerate(boxes)]
        data_sample.set_metainfo(dict(img_id=index, instances=instances))
        images, samples = [*images, image], [*samples, data_sample]
    return dict(inputs=images, data_samples=samples)


def average_precision(model, data):
    """AP50 in percent by COCO's API."""
    from mmdet.evaluation import CocoMetric

    metric = CocoMetric(metric='bbox')
    metric.dataset_meta = dict(classes=('red', 'green', 'blue'))
    results = model.eval().test_step(copy.deepcopy(data))
    metric.process({}, [result.to_dict() for result in results])
    return 100 * metric.evaluate(len(results)).get('coco/bbox_mAP_50', 0)  # none where nothing was found


@pytest.mark.parametrize('num_modules', [pytest.param(None, marks=pytest.mark.long), 4])
def test_it_learns_a_few_images_by_heart(num_modules):
    data = pictures()
    net = dict(base_channels=16, norm_eval=False)
    model = build(yolo(num_modules, backbone=net, in_channels=128, conv_channels=64))
    before = average_precision(model, data)
    model.train()
    if num_modules is None:
        wrapper = OptimWrapper(optimizer=torch.optim.Adam(model.parameters(), lr=1e-3))
        step = partial(model.train_step, optim_wrapper=wrapper)
    else:
        step = Trainer(model, lr=1e-3, optimizer=torch.optim.Adam).step
    for _ in range(50):
        step(copy.deepcopy(data))
    assert before < 30 and average_precision(model, data) > 90
