"""Models with local learning can be copied, pickled, averaged and converted, and train on."""

import copy
import io
import pickle

import pytest
import torch
from mmengine.model import ExponentialMovingAverage, convert_sync_batchnorm, revert_sync_batchnorm
from torch import nn

from ..helpers.detection import batch, build, retinanet
from ..helpers.runs import make_coco, run_config, runner
from ..helpers.training import Trainer, assert_equal, named, trainer


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    ('copied', 'moment', 'head'),
    [
        (copy.deepcopy, 'fresh', 'private'),
        (copy.deepcopy, 'in training', 'shared'),
        (pickled, 'in training', 'private'),
        (saved, 'in training', 'shared'),
    ],
)
def test_a_copy_trains_on_like_the_original_and_apart_from_it(copied, moment, head):
    run = trainer(3, auxiliary=dict(head=head))
    if moment == 'fresh':
        run.hook.after_train(run)
    run.step() if moment == 'in training' else None
    other = copied(run.model)
    run.hook.after_train(run)
    original = {key: value.clone() for key, value in run.model.state_dict().items()}
    assert_equal(dict(other.state_dict()), original)
    other_run = Trainer(other)
    other_run.step()
    assert_equal(dict(run.model.state_dict()), original)
    assert other_run.gradients.keys() == named(other, '')
    again = Trainer(run.model)
    again.step()
    assert_equal(again.gradients, other_run.gradients)


def test_an_average_of_the_model_predicts_and_follows():
    run = trainer(4, auxiliary=dict(head='private'))
    average = ExponentialMovingAverage(run.model, momentum=0.5)
    start = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    average.update_parameters(run.model)  # the first update copies
    run.step()
    average.update_parameters(run.model)
    for name, p in average.module.named_parameters():
        torch.testing.assert_close(p, (start[name] + dict(run.model.named_parameters())[name]) / 2)
    average.module.eval()
    assert len(average.module.test_step(batch())) == 2


def test_the_ema_hook_runs_and_resumes(tmp_path):
    root = make_coco(tmp_path / 'coco', num_images=4)
    ema = [dict(type='EMAHook', momentum=0.1)]
    whole = runner(run_config(root, tmp_path / 'whole', hooks=ema, epochs=2))
    whole.train()
    checkpoint = torch.load(tmp_path / 'whole/epoch_1.pth')
    assert {f'module.{key}' for key in checkpoint['state_dict']} <= set(checkpoint['ema_state_dict'])
    key = 'backbone.conv1.weight'
    assert not torch.equal(checkpoint['state_dict'][key], checkpoint['ema_state_dict'][f'module.{key}'])
    resumed = runner(
        run_config(
            root, tmp_path / 'resumed', hooks=ema, epochs=2, load_from=str(tmp_path / 'whole/epoch_1.pth'), resume=True
        )
    )
    resumed.train()
    ours, theirs = (torch.load(tmp_path / f'{name}/epoch_2.pth') for name in ('resumed', 'whole'))
    assert_equal(ours['state_dict'], theirs['state_dict'])
    assert_equal(ours['ema_state_dict'], theirs['ema_state_dict'])


def test_batch_norm_converts_to_sync_batch_norm_and_back_and_trains_on():
    model = build(retinanet(4, dict(norm_eval=False)))
    expected = trainer(4, dict(norm_eval=False))
    for convert in (convert_sync_batchnorm, nn.SyncBatchNorm.convert_sync_batchnorm):
        converted = convert(copy.deepcopy(model))
        kinds = {type(m).__name__ for m in converted.modules() if 'BatchNorm' in type(m).__name__}
        assert kinds == {'SyncBatchNorm'}
        assert converted.state_dict().keys() == model.state_dict().keys()
        back = Trainer(revert_sync_batchnorm(converted))  # SyncBN itself computes on accelerators only
        back.step()
        expected.step()
        assert_equal(back.gradients, expected.gradients)
        expected = trainer(4, dict(norm_eval=False))


def test_copied_layers_follow_the_mode_of_what_they_mirror():
    frozen_norm = build(retinanet(4)).train().backbone
    free_norm = build(retinanet(4, dict(norm_eval=False))).train().backbone
    for backbone, training in ((frozen_norm, False), (free_norm, True)):
        norms = [m for m in backbone.auxiliaries.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms and all(norm.training is training for norm in norms)
    free_norm.eval()
    assert not any(m.training for m in free_norm.modules())
