"""What holds for every rule: coverage, isolation, transparency, AMP, and errors that name the cause."""

import copy
import pickle
from collections import Counter

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from torch import nn

from man_mm.engine import LocalAmpOptimWrapper

from ..helpers.classification import RULES, batch, classifier, make
from ..helpers.training import SavedTensors, SpyWrapper, Trainer, assert_equal, local_parameters, reached

pytestmark = pytest.mark.usefixtures('device')

UNITS = 7
HEAD = {'head.fc.weight', 'head.fc.bias'}
GREY = dict(data_preprocessor=dict(num_classes=10, mean=[120.0], std=[60.0], to_rgb=False))


def pairs():
    return batch(labels=[0, 0, 1, 1])


def trainer(rule, num_modules=4, **auxiliary):
    return Trainer(make(classifier(rule, num_modules, **auxiliary)))


@pytest.mark.parametrize('num_modules', [2, UNITS])
@pytest.mark.parametrize('rule', RULES)
def test_every_parameter_gets_its_gradient_once_a_step(rule, num_modules):
    run, times = trainer(rule, num_modules), Counter()
    for name, p in run.model.named_parameters():
        p.register_post_accumulate_grad_hook(lambda p, name=name: times.update([name]))
    run.step(pairs())
    assert times == dict.fromkeys((name for name, _ in run.model.named_parameters()), 1)
    assert all(gradient.isfinite().all() for gradient in run.gradients.values())


@pytest.mark.parametrize('rule', RULES)
def test_a_local_loss_reaches_its_own_module_only_and_leaves_no_graph(rule):
    model = make(classifier(rule, 4))
    seen, alive, saved = {}, [], SavedTensors(model)
    run = Trainer(
        model,
        SpyWrapper,
        before=lambda loss, module: seen.update({module: reached(loss, model)}),
        after=lambda module: alive.append(
            (saved.nbytes, {name for name, p in model.named_parameters() if p.grad is not None})
        ),
    )
    with saved.watch():
        run.step(pairs())
    trained = set()
    for module, (nbytes, with_gradient) in zip([0, 1, 2, None], alive, strict=True):
        own = local_parameters(model, 3) | HEAD if module is None else local_parameters(model, module)
        trained |= own
        assert seen[module] == own
        assert with_gradient == trained
        assert nbytes == 0
    assert saved.peak > 0


@pytest.mark.parametrize('rule', RULES)
def test_auxiliaries_change_nothing_that_the_backbone_computes(rule):
    run = trainer(rule, UNITS)
    plain = make(classifier(), seed=1).train()
    plain.load_state_dict({k: v for k, v in run.model.state_dict().items() if '.auxiliaries.' not in k}, strict=True)
    expected = plain.train_step(pairs(), OptimWrapper(torch.optim.SGD(plain.parameters(), 0.01)))
    assert torch.equal(run.step(pairs())['loss'], expected['loss'])
    buffers, norms = dict(run.model.backbone.backbone.named_buffers()), dict(plain.backbone.named_buffers())
    assert all(torch.equal(buffers[key], norms[key]) for key in norms)
    forwards = {int(value) for key, value in run.model.named_buffers() if key.endswith('num_batches_tracked')}
    assert forwards == {1}  # of the auxiliaries' norms too


@pytest.mark.parametrize('rule', RULES)
def test_stepping_module_by_module_gives_the_same_weights(rule):
    run, eager = trainer(rule), Trainer(make(classifier(rule)), eager_step=True)
    for each in (run, eager):
        each.step(pairs(), batch(8, labels=[0, 1] * 4, seed=1))
    assert_equal(eager.model.state_dict(), run.model.state_dict())


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
    for _ in range(12):
        last = totals()
    assert len(first) == 2 and all(after < before for before, after in zip(first, last, strict=True))


@pytest.mark.usefixtures('mixed_precision')
@pytest.mark.parametrize('rule', RULES)
def test_losses_and_gradients_under_amp_are_those_of_full_precision(rule):
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
def test_a_checkpoint_and_a_pickled_copy_go_on_like_the_original(rule):
    source, target = trainer(rule), make(classifier(rule), seed=2)
    source.step(pairs())
    target.load_state_dict(source.model.state_dict(), strict=True)
    loaded, copied, pickled = (
        Trainer(model) for model in (target, copy.deepcopy(source.model), pickle.loads(pickle.dumps(source.model)))
    )
    for run in (source, loaded, copied, pickled):
        run.step(batch(labels=[2, 2, 3, 3], seed=1))
    for run in (loaded, copied, pickled):
        assert_equal(run.gradients, source.gradients)


@pytest.mark.parametrize('rule', [rule for rule in RULES if rule != 'man'])
def test_a_rule_without_bank_fills_none(rule):
    run = trainer(rule)
    run.step(pairs())
    assert run.hook.bank_bytes == 0


@pytest.mark.parametrize('rule', RULES)
def test_a_misspelt_key_is_named_with_the_legal_ones(rule):
    with pytest.raises(ValueError, match=r"has no key {'dept': 3}\. Its keys: \[") as error:
        make(classifier(rule, dept=3))
    assert "'site'" not in str(error.value)


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
    with pytest.raises(ValueError, match=r'images have 1 channel\(s\), but the first convolution .* reads 3'):
        trainer(rule, model=GREY).step(batch(channels=1))


@pytest.mark.parametrize(('rule', 'partition'), [*((rule, 'uniform') for rule in RULES), ('man', 'memory')])
def test_grey_images_train_a_backbone_that_reads_them(rule, partition):
    cfg = classifier(rule, model=GREY, backbone_partition=partition)
    cfg['backbone']['backbone']['in_channels'] = 1
    run = Trainer(make(cfg))
    run.step(batch(channels=1, labels=[0, 0, 1, 1]))
    assert set(run.gradients) == {name for name, _ in run.model.named_parameters()}


@pytest.mark.parametrize('rule', [rule for rule in RULES if rule != 'contrast'])
def test_mixed_batches_train(rule):
    run = trainer(rule, model=dict(train_cfg=dict(augments=dict(type='Mixup', alpha=0.8))))
    run.step(batch(8, labels=[0, 0, 1, 1, 2, 2, 3, 3]))
    assert all(gradient.isfinite().all() for gradient in run.gradients.values())


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


@pytest.mark.parametrize('rule', ['man', 'dgl', 'infopro'])
def test_a_private_head_of_another_width_normalises_as_the_models_does(rule):
    model = make(classifier(rule, UNITS, model=dict(head=dict(type='ArcFaceClsHead', num_classes=10, in_channels=16))))
    own = model.backbone.auxiliaries[5].heads.head
    assert own.in_channels != 16
    with torch.no_grad():
        cosines = own.norm_product(100 * torch.randn(8, own.in_channels))
    assert cosines.abs().max() <= 1.001


def test_a_head_of_a_config_reads_the_auxiliarys_features():
    head = dict(
        type='LinearClsHead', num_classes=10, in_channels=16, loss=dict(type='CrossEntropyLoss', loss_weight=3.0)
    )
    ours, theirs = trainer('dgl', 2, head=dict(head=head)), trainer('dgl', 2)
    ours.model.load_state_dict(theirs.model.state_dict())
    for run in (ours, theirs):
        run.step(batch())
    total = (0, 'total')
    torch.testing.assert_close(ours.optim_wrapper.local_losses[total], 3 * theirs.optim_wrapper.local_losses[total])


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
