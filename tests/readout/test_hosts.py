"""A host model that does not fit the readout is refused, and none is left changed."""

import copy
import pickle
from typing import ClassVar

import pytest
import torch
from mmdet.models import RetinaNet
from mmengine.structures import InstanceData
from torch import nn

from ..helpers.detection import batch, build, retinanet
from ..helpers.training import Trainer, assert_equal, gradients, trainer


def test_an_interrupted_run_leaves_no_trace_in_the_next_one():
    """`after_train` is not called when a run is interrupted; the mean over K losses must not be taken twice."""
    fresh = gradients(auxiliary=dict(shared_head_grad='mean'))
    run = trainer(auxiliary=dict(shared_head_grad='mean'))
    run.hook.before_train(run)
    run.hook.before_train(run)
    run.step()
    for name, gradient in run.gradients.items():
        assert torch.equal(gradient, fresh[name]), name
    run.hook.after_train(run)
    assert not run.host._forward_pre_hooks and not run.host._forward_hooks
    assert not any(p._backward_hooks for p in run.host.parameters())


class ReentrantHeadNet(RetinaNet):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        head, forward = self.bbox_head, self.bbox_head.forward_single
        head.forward_single = lambda x: torch.utils.checkpoint.checkpoint(forward, x, use_reentrant=True)


def test_last_reaches_a_shared_head_through_the_main_loss_alone_even_when_it_is_recomputed_in_backward():
    cfg = retinanet(auxiliary=dict(shared_head_grad='last'))
    plain = Trainer(build(cfg))
    checkpointed = Trainer(build({**cfg, 'type': ReentrantHeadNet}))
    plain.step()
    checkpointed.step()
    name = 'bbox_head.retina_cls.weight'
    torch.testing.assert_close(checkpointed.gradients[name], plain.gradients[name])


class FlippingNet(RetinaNet):
    def loss(self, inputs, data_samples):
        losses = self.bbox_head.loss(self.extract_feat(inputs), data_samples)
        self.extract_feat(inputs.flip(3))
        return losses


class DirectNet(RetinaNet):
    def loss(self, inputs, data_samples):
        return self.bbox_head.loss(self.neck(self.backbone(inputs)), data_samples)


@pytest.mark.parametrize(
    ('host', 'message'),
    [(FlippingNet, 'FlippingNet calls extract_feat 2 times'), (DirectNet, 'runs its backbone inside a local loss')],
)
def test_a_host_whose_loss_does_not_extract_once_is_refused(host, message):
    run = Trainer(build({**retinanet(), 'type': host}))
    with pytest.raises(ValueError, match=message):
        run.step()
    assert 'extract_feat' not in vars(run.host)


class HeadFirstNet(RetinaNet):
    """Registers its head before its backbone."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        net, head = self._modules.pop('backbone'), self._modules.pop('bbox_head')
        net.auxiliaries[0].heads.clear()
        self.bbox_head = head
        self.backbone = net


def test_a_head_that_is_registered_before_the_backbone_is_copied_too():
    model = build({**retinanet(2, auxiliary=dict(head='private')), 'type': HeadFirstNet})
    assert list(model.backbone.auxiliaries[0].heads) == ['bbox_head']


class LateHeadNet(RetinaNet):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.more = nn.ModuleList()
        self.more.append(nn.Linear(2, 2))


def test_a_part_that_grows_after_it_is_registered_cannot_be_private():
    with pytest.raises(ValueError, match=r"LateHeadNet has no head \['more'\]"):
        Trainer(build({**retinanet(auxiliary=dict(head='private')), 'type': LateHeadNet}))


def test_a_checkpoint_of_another_cut_brings_its_backbone_and_leaves_its_auxiliaries():
    source, target = build(retinanet(4), seed=1), build(retinanet(3), seed=2)
    target.load_state_dict(source.state_dict(), strict=False)
    trunk = target.backbone.backbone.state_dict()
    for auxiliary in target.backbone.auxiliaries:
        own = auxiliary.state_dict()
        for key, mirrored in auxiliary.mirrored_keys().items():
            assert torch.equal(own[key], trunk[mirrored]), key
    for key, value in source.backbone.backbone.state_dict().items():
        assert torch.equal(trunk[key], value), key


def test_a_neck_may_be_a_chain():
    neck = [
        dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=5),
        dict(type='BFP', in_channels=8, num_levels=5, refine_level=2),
    ]
    cfg = retinanet(auxiliary=dict(neck=neck))
    cfg['neck'] = neck
    cfg['bbox_head'] = copy.deepcopy(cfg['bbox_head'])
    cfg['bbox_head']['anchor_generator']['strides'] = [4, 8, 16, 32, 64]
    Trainer(build(cfg)).step(batch())


class PoppingNet(RetinaNet):
    """Takes parts out of its data samples and puts others in, as Fast R-CNN and RTMDet-Ins do."""

    seen: ClassVar[list] = []

    def loss(self, inputs, data_samples):
        for sample in data_samples:
            self.seen.append((sample.proposals.pop('bboxes'), sample.gt_instances.labels))
            sample.gt_instances.labels = sample.gt_instances.labels.float().long()
        return super().loss(inputs, data_samples)


def test_every_loss_gets_the_data_samples_as_they_came():
    data = batch()
    for sample in data['data_samples']:
        sample.proposals = InstanceData(bboxes=torch.rand(3, 4))
    PoppingNet.seen.clear()
    Trainer(build({**retinanet(), 'type': PoppingNet})).step(data)
    assert len(PoppingNet.seen) == 2 * 4
    for index, (boxes, labels) in enumerate(PoppingNet.seen):
        assert (
            boxes is PoppingNet.seen[index % 2][0] and labels is PoppingNet.seen[index % 2][1]
        )  # no copies of tensors


@pytest.mark.parametrize('rule', ['sum', 'mean', 'last'])
def test_a_model_in_training_can_be_pickled(rule):
    run = trainer(auxiliary=dict(shared_head_grad=rule))
    run.step()
    other = pickle.loads(pickle.dumps(run.model))
    assert_equal(dict(other.state_dict()), dict(run.model.state_dict()))
