"""What holds for every rule: coverage, isolation, transparency, AMP, and errors that name the cause."""

import copy
import functools

import pytest
import torch
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from man_mm.engine import LocalAmpOptimWrapper

from ..classification import RULES, batch, classifier, make
from ..training import SpyWrapper, Trainer, local_parameters, reached

UNITS = 7


def trainer(rule, num_modules=4, wrapper=None, model=None, **auxiliary):
    options = {} if wrapper is None else dict(wrapper=wrapper)
    return Trainer(make(classifier(rule, num_modules, model=model, **auxiliary)), **options)


@pytest.mark.parametrize('num_modules', [2, 4, UNITS])
@pytest.mark.parametrize('rule', RULES)
def test_every_parameter_gets_a_gradient_in_every_step(rule, num_modules):
    run = trainer(rule, num_modules)
    run.step(batch(labels=[0, 0, 1, 1]))
    assert set(run.gradients) == {name for name, p in run.model.named_parameters() if p.requires_grad}
    assert all(gradient.isfinite().all() for gradient in run.gradients.values())


@pytest.mark.parametrize('rule', RULES)
def test_a_local_loss_reaches_its_own_module_only(rule):
    seen = {}

    class Spy(SpyWrapper):
        def __init__(self, *args, **kwargs):
            super().__init__(
                *args, before=lambda loss, module: seen.update({module: reached(loss, run.model)}), **kwargs
            )

    run = trainer(rule, 4, wrapper=Spy)
    run.step(batch(labels=[0, 0, 1, 1]))
    for module in range(3):
        assert seen[module] == local_parameters(run.model, module)
    assert seen[None] == local_parameters(run.model, 3) | {'head.fc.weight', 'head.fc.bias'}


@pytest.mark.parametrize('rule', RULES)
def test_outside_training_the_model_is_the_plain_one(rule):
    model = make(classifier(rule)).eval()
    plain = make(classifier(), seed=1).eval()
    kept = {key: value for key, value in model.state_dict().items() if '.auxiliaries.' not in key}
    plain.load_state_dict(kept, strict=True)
    data = batch()
    with torch.no_grad(), DefaultScope.overwrite_default_scope('mmpretrain'):
        ours, theirs = model.test_step(copy.deepcopy(data)), plain.test_step(copy.deepcopy(data))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.pred_score, b.pred_score)


@pytest.mark.parametrize('rule', RULES)
def test_training_lowers_every_local_loss_on_a_batch_that_it_sees_again(rule):
    torch.manual_seed(0)
    run = trainer(rule, 3)
    data = batch(8, labels=[0, 0, 1, 1, 2, 2, 3, 3])

    def totals():
        run.step(copy.deepcopy(data))
        return [value.item() for (_, name), value in run.optim_wrapper.local_losses.items() if name == 'total']

    first = totals()
    for _ in range(30):
        last = totals()
    assert len(first) == 2 and all(after < before for before, after in zip(first, last, strict=True))


@pytest.mark.parametrize('rule', RULES)
def test_losses_and_gradients_under_amp_are_those_of_full_precision(rule, monkeypatch):
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)  # MMEngine asserts an accelerator
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', functools.partial(torch.amp.GradScaler, 'cpu'))
    full = trainer(rule)
    half = Trainer(
        copy.deepcopy(full.model), LocalAmpOptimWrapper, loss_scale=dict(init_scale=1024.0), dtype='bfloat16'
    )
    for run in (full, half):
        run.step(batch(8, labels=[0, 0, 1, 1, 2, 2, 3, 3]))
    assert full.gradients.keys() == half.gradients.keys()
    for key, value in half.optim_wrapper.local_losses.items():
        assert value.item() == pytest.approx(full.optim_wrapper.local_losses[key].item(), rel=0.05, abs=0.01), key
    ours, theirs = (torch.cat([g.flatten() for g in run.gradients.values()]) for run in (half, full))
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.85


@pytest.mark.parametrize('rule', RULES)
def test_weights_survive_a_checkpoint(rule):
    source, target = make(classifier(rule), seed=1), make(classifier(rule), seed=2)
    assert target.load_state_dict(source.state_dict(), strict=True)
    ours, theirs = target.state_dict(), source.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize('rule', [rule for rule in RULES if rule != 'man'])
def test_a_rule_without_bank_fills_none(rule):
    run = trainer(rule)
    run.step(batch(labels=[0, 0, 1, 1]))
    assert run.model.backbone.bank.peak_bytes == 0


@pytest.mark.parametrize('rule', RULES)
def test_a_misspelt_key_is_named_with_the_legal_ones(rule):
    with pytest.raises(ValueError, match=r"has no key {'dept': 3}\. Its keys: \[") as error:
        make(classifier(rule, dept=3))
    assert "'place'" not in str(error.value)


@pytest.mark.parametrize('rule', RULES)
def test_more_modules_than_units_are_refused(rule):
    with pytest.raises(ValueError, match=r'num_modules=8 must be an integer from 1 .* to 7'):
        make(classifier(rule, 8))


@pytest.mark.parametrize('rule', [rule for rule in RULES if rule != 'man'])
def test_the_models_own_head_cannot_read_another_networks_features(rule):
    with pytest.raises(ValueError, match=r"auxiliary.head='shared' does not go with man_mm\."):
        make(classifier(rule, head='shared'))


@pytest.mark.parametrize('rule', ['man', 'predsim', 'infopro', 'auglocal'])
def test_a_batch_of_one_image_trains_where_nothing_is_taken_over_the_batch(rule):
    run = trainer(rule)
    run.step(batch(1))
    assert all(gradient.isfinite().all() for gradient in run.gradients.values())


@pytest.mark.parametrize(('rule', 'options'), [('dgl', {}), ('auglocal', dict(depth=1)), ('contrast', {})])
def test_a_batch_of_one_image_is_refused_where_the_rule_needs_more(rule, options):
    with pytest.raises(ValueError, match=r'batch of one image.*train_dataloader.batch_size'):
        trainer(rule, **options).step(batch(1))


@pytest.mark.parametrize('rule', RULES)
def test_grey_images_are_refused_by_their_channels(rule):
    grey = dict(data_preprocessor=dict(mean=[0.0], std=[1.0], to_rgb=False))
    with pytest.raises(ValueError, match=r'images have 1 channel\(s\), but the first convolution .* reads 3'):
        trainer(rule, model=grey).step(batch(channels=1))


@pytest.mark.parametrize('label', [-1, 10])
@pytest.mark.parametrize('rule', RULES)
def test_labels_out_of_range_are_refused_before_a_weight_changes(rule, label):
    run = trainer(rule)
    before = copy.deepcopy(run.model.state_dict())
    with pytest.raises(ValueError, match=rf'labels \[{label}\] are out of range: model.head.num_classes=10'):
        run.step(batch(labels=[0, 1, 2, label]))
    assert all(torch.equal(value, before[key]) for key, value in run.model.state_dict().items())


def test_a_private_head_of_another_width_keeps_the_heads_kind():
    model = make(classifier('dgl', 2))
    own = model.backbone.auxiliaries[0].heads.head
    assert type(own) is type(model.head) and own.in_channels == own.fc.in_features
    assert own.fc.out_features == 10 and isinstance(own.loss_module, type(model.head.loss_module))
    assert not {id(p) for p in own.parameters()} & {id(p) for p in model.head.parameters()}


class BareHead(nn.Module):
    """A head that has nothing to widen."""

    in_channels = 16

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


def test_a_head_without_a_layer_that_reads_its_input_is_refused():
    auxiliary = make(classifier('dgl', 2)).backbone.auxiliaries[0]
    auxiliary.heads.clear()
    with pytest.raises(ValueError, match='BareHead has no linear layer that reads its 16 input features'):
        auxiliary.adopt_head('head', BareHead())
