"""What people do around a training step: frozen backbones, losses that nobody steps by, keys that replace forwards."""

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing

from ..helpers import classification
from ..helpers.detection import batch, build, retinanet
from ..helpers.training import Trainer, assert_equal, trainer


@pytest.fixture
def log(caplog):
    """What is logged."""
    logger = MMLogger.get_instance('surprises')
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def models(kind):
    if kind == 'detector':
        return build(retinanet(4, auxiliary=dict(head='private'))), batch()
    return classification.make(classification.classifier('man')), classification.batch(4)


@pytest.mark.parametrize('eager_step', [False, True])
@pytest.mark.parametrize('kind', ['detector', 'classifier'])
def test_a_hook_that_freezes_the_backbone_leaves_neck_and_head_to_train_as_upstream(kind, eager_step, log):
    model, data = models(kind)
    run = Trainer(model, eager_step=eager_step)
    for parameter in model.backbone.parameters():
        parameter.requires_grad = False
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(2):
        run.step(data)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert set(run.gradients) == {name for name in before if not name.startswith('backbone.')}
    assert any('head' in name for name in moved) and moved <= set(run.gradients)
    told = [record.message for record in log.records if 'trains nothing' in record.message]
    assert len(told) == 3 and 'freezes model.backbone.parameters() freezes the auxiliaries' in told[0]


@pytest.mark.parametrize('eager_step', [False, True])
@pytest.mark.parametrize('in_context', [False, True])
def test_a_loss_that_nobody_steps_by_is_refused_at_the_next_one_which_then_trains_as_if_it_had_not_been(
    in_context, eager_step
):
    run, other = (trainer(4, momentum=0.0, eager_step=eager_step) for _ in range(2))
    data = run.model.data_preprocessor(batch(), True)
    if in_context:
        with run.optim_wrapper.optim_context(run.model):
            run.model(**data, mode='loss')
    else:
        run.model(**data, mode='loss')
    words = 'modules have been stepped' if eager_step else 'no weight has moved'
    with pytest.raises(ValueError, match=rf'no optim_wrapper.update_params followed: .*{words}.* under torch.no_grad'):
        run.step()
    if eager_step:
        return
    run.optim_wrapper.zero_grad()
    run.step(), other.step()
    assert_equal(run.gradients, other.gradients)


def test_losses_without_gradients_or_in_evaluation_leave_nothing_behind():
    run, other = trainer(4), trainer(4)
    data = run.model.data_preprocessor(batch(), True)
    with torch.no_grad():
        run.model(**data, mode='loss')
    run.model.eval()(**data, mode='loss')
    run.model.train()
    run.step(), other.step()
    assert_equal(run.gradients, other.gradients)


@pytest.mark.parametrize(
    ('key', 'names', 'cure'),
    [
        ('activation_checkpointing', 'backbone', 'man_mm.ActivationCheckpointHook'),
        ('activation_checkpointing', ['backbone.layer1'], 'man_mm.ActivationCheckpointHook'),
        ('activation_checkpointing', ['neck', 'backbone.layer2.0'], 'man_mm.ActivationCheckpointHook'),
        ('activation_checkpointing', ['backbone.backbone.layer2.0.conv1'], 'man_mm.ActivationCheckpointHook'),
        ('efficient_conv_bn_eval', ['backbone'], 'one by one'),
        ('efficient_conv_bn_eval', ['backbone.layer1'], 'one by one'),
    ],
)
def test_keys_that_reach_into_the_backbone_by_name_are_refused_before_training(key, names, cure):
    run = trainer(4)
    run.cfg = Config({key: names})
    with pytest.raises(ValueError, match=rf'{key}=.*: backbone.* module by module.*{cure}'):
        run.hook.before_train(run)
    one = trainer(1)
    one.cfg = run.cfg  # K = 1 is upstream's own forward
    one.hook.before_train(one)


def test_the_same_keys_act_beside_the_backbone_and_on_blocks():
    run, other = trainer(4), trainer(4)
    run.cfg = Config(
        dict(activation_checkpointing=['bbox_head.cls_convs.0'], efficient_conv_bn_eval=['backbone.layer2.0'])
    )
    turn_on_activation_checkpointing(run.model, run.cfg.activation_checkpointing)
    turn_on_efficient_conv_bn_eval(run.model, run.cfg.efficient_conv_bn_eval)
    run.hook.before_train(run)
    run.step(), other.step()
    assert_equal(run.gradients, other.gradients, rtol=1e-4, atol=1e-5)


def test_a_step_without_local_losses_is_an_error_that_names_the_cause():
    run = trainer(4)
    net = run.model.backbone.backbone
    run.model.backbone.forward = lambda x: net(x)  # as a trace or a cache does
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    with pytest.raises(ValueError, match=r'none of the 3 local losses was made .* replaced, traced or cached'):
        run.step()
    assert_equal(dict(run.model.state_dict()), before)
