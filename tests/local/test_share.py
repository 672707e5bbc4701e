"""share='stage': one auxiliary for the modules of a stage. Its gradients are the sum over the modules."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from man_mm.analysis.module_rows import module_rows
from man_mm.local import StageOutputs, Unit, Unrolled, register_unroll, run_units
from man_mm.local.names import is_auxiliary_key

from ..helpers.backbones import check_mirrors
from ..helpers.classification import batch as labelled
from ..helpers.classification import classifier
from ..helpers.classification import make as make_classifier
from ..helpers.detection import batch, build, images, retinanet
from ..helpers.restoration import batch as pairs
from ..helpers.restoration import editor
from ..helpers.restoration import make as make_editor
from ..helpers.training import SpyWrapper, Trainer, assert_equal, auxiliary_indices, reached

REST = dict(cut_stage=False)  # of ResNet-18, modules that end in one stage then have the same auxiliaries
PYRAMID = dict(type='man_mm.DGLPyramid', channels=8, head='private')
INFOPRO = dict(lambda1=(5.0, 0.2), lambda2=(0.5, 0.5))


def detector(share='stage', num_modules=9, depth=18, with_cp=False, **auxiliary):
    backbone = dict(depth=depth, with_cp=with_cp)
    return retinanet(num_modules, backbone, auxiliary, share=share)


def classifier_of(rule, share='stage', num_modules=10, **auxiliary):
    return classifier(rule, num_modules, net_depth=20, backbone_share=share, **auxiliary)


def editor_of(share='stage', net='edsr', **auxiliary):
    return editor(net, {'edsr': 5, 'swinir': 4}[net], auxiliary=auxiliary, share=share)


def made(cfg):
    makers = dict(RetinaNet=build, ImageClassifier=make_classifier, BaseEditModel=make_editor)
    return makers[cfg['type']](cfg)


def local_of(model):
    return model.generator if hasattr(model, 'generator') else model.backbone


GROUPS = {
    'slm': (detector(num_modules=17, depth=34), (0, 1, 1, 2, 3, 3, 3, 4, 5, 5, 5, 5, 5, 6, 7, 7)),
    'slm K=6': (detector(num_modules=6, depth=34), (0, 1, 2, 3, 4)),
    'slm, n_s=2': (
        detector(num_modules=17, depth=34, units_per_stage=2),
        (0, 1, 2, 3, 4, 4, 5, 6, 7, 7, 7, 7, 8, 9, 10, 11),
    ),
    'slm behind the stage': (detector(**REST), (0, 1, 1, 2, 2, 3, 3, 4)),
    'pyramid': (detector(**PYRAMID), (0, 1, 1, 2, 2, 3, 3, 4)),
    'pyramid on banked levels': (detector(**PYRAMID, banked_levels=True), (0, 1, 2, 3, 4, 5, 6, 7)),
    'bank vectors': (classifier_of('man'), (0, 1, 1, 2, 3, 3, 4, 5, 5)),
    'bank vectors, no units': (classifier_of('man', units_per_stage=0), (0, 1, 1, 1, 2, 2, 2, 3, 3)),
    'vectors of other modules': (
        # layer1 ends inside of module 1, which so does not read it from the bank, but module 2 does
        classifier_of('man', num_modules=4, backbone_partition=['layer1.1', 'layer2.0', 'layer2.1']),
        (0, 1, 2),
    ),
    'vectors of more modules': (
        classifier_of('man', num_modules=4, backbone_partition=['layer2.1', 'layer3.0', 'layer3.1']),
        (0, 1, 2),
    ),
    'dgl': (classifier_of('dgl'), (0, 1, 1, 1, 2, 2, 2, 3, 3)),
    'predsim': (classifier_of('predsim'), (0, 1, 1, 1, 2, 2, 2, 3, 3)),
    'infopro': (classifier_of('infopro', **INFOPRO), (0, 1, 2, 3, 4, 5, 6, 7, 8)),
    'infopro, even': (classifier_of('infopro', **INFOPRO | dict(lambda1=(1, 1))), (0, 1, 1, 1, 2, 2, 2, 3, 3)),
    'auglocal': (classifier_of('auglocal', depth=1), (0, 1, 1, 1, 2, 2, 2, 3, 3)),
    'edsr': (editor_of(), (0, 1, 1, 1)),
    'swinir': (editor_of(net='swinir'), (0, 1, 1)),
}


@pytest.mark.parametrize('name', GROUPS)
def test_modules_share_where_they_end_in_one_stage_and_their_auxiliaries_are_alike(name):
    cfg, groups = GROUPS[name]
    net = local_of(made(cfg))
    assert auxiliary_indices(net) == groups
    assert len(net.auxiliaries) == groups[-1] + 1
    assert [net.local_modules[module].auxiliary for module in range(len(groups))] == [
        net.auxiliaries[i] for i in groups
    ]


class ShrinkingNet(nn.Sequential):
    """One stage in which the maps become smaller, and their channels stay."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=1))

    def forward(self, x):
        return (super().forward(x),)


@register_unroll(ShrinkingNet)
def shrinking_net(net):
    units = [Unit(name, 'all', (name,)) for name in '012']
    return Unrolled((*units[:-1], replace(units[-1], tap='2')), StageOutputs(('2',)))


def test_modules_whose_maps_differ_in_size_do_not_share_what_is_made_for_one_size():
    for rule, groups in (('predsim', (0, 1)), ('dgl', (0, 0))):
        cfg = classifier(rule, 3, backbone_share='stage')
        cfg['backbone']['backbone'] = dict(type=ShrinkingNet)
        assert auxiliary_indices(made(cfg).backbone) == groups


def test_every_module_has_an_auxiliary_of_its_own_unless_asked_otherwise():
    net = build(retinanet(17, dict(depth=34))).backbone
    assert auxiliary_indices(net) == tuple(range(16)) == tuple(range(len(net.auxiliaries)))


@pytest.mark.parametrize('share', ['all', True, None, 1, ['stage']])
def test_an_unknown_way_to_share_is_refused(share):
    with pytest.raises(ValueError, match=r"share=.* must be one of \('none', 'stage'\)"):
        build(detector(share))


@pytest.mark.parametrize('num_modules', [1, 4])
def test_sharing_that_cannot_act_is_one_warning_and_changes_nothing(num_modules, warnings):
    runs = [Trainer(build(detector(share, num_modules))) for share in ('none', 'stage')]
    (message,) = [text for text in warnings() if 'nothing to act on' in text]
    assert message.startswith("LocalBackbone: share='stage' has nothing to act on")
    for first in (0, 2):
        assert runs[0].step(batch(first=first)) == runs[1].step(batch(first=first))
    assert_equal(*(dict(run.model.state_dict()) for run in runs))


def test_sharing_that_acts_is_no_warning(warnings):
    build(detector(**REST))
    assert not [text for text in warnings() if 'share' in text]


TRAINED = {
    'checkpointed': (detector(with_cp=True, **REST), batch()),
    'private head': (detector(head='private', **REST), batch()),
    'pyramid': (detector(**PYRAMID), batch()),
    'bank vectors': (classifier_of('man'), labelled()),
    'dgl': (classifier_of('dgl'), labelled()),
    'predsim': (classifier_of('predsim'), labelled()),
    'auglocal': (classifier_of('auglocal'), labelled()),
    'edsr': (editor_of(), pairs()),
}


def twins(cfg):
    """The shared model, and one without sharing whose weights are the shared one's."""
    shared, plain = made(cfg), copy.deepcopy(cfg)
    plain['generator' if 'generator' in plain else 'backbone']['share'] = 'none'
    apart = made(plain)
    apart.load_state_dict({k: v for k, v in shared.state_dict().items() if not is_auxiliary_key(k)}, strict=False)
    for module, auxiliary in enumerate(local_of(apart).auxiliaries):
        source, own = (a.state_dict() for a in (local_of(shared).local_modules[module].auxiliary, auxiliary))
        assert [value.shape for value in own.values()] == [value.shape for value in source.values()]
        auxiliary.load_state_dict(dict(zip(own, source.values(), strict=True)))
    return shared, apart


def gradients_of(run, index):
    """Of an auxiliary, in order."""
    return [grad for name, grad in run.gradients.items() if f'.auxiliaries.{index}.' in name]


@cache
def stepped(name):
    """Both after a step, for all tests that look at them."""
    cfg, data = TRAINED[name]
    torch.manual_seed(0)
    runs = [Trainer(model) for model in twins(cfg)]
    for run in runs:
        run.step(copy.deepcopy(data))
    return runs


@pytest.mark.parametrize('name', TRAINED)
def test_gradients_of_a_shared_auxiliary_are_the_sum_of_those_of_equal_unshared_ones(name):
    runs = shared, apart = stepped(name)
    rest = [{name: grad for name, grad in run.gradients.items() if not is_auxiliary_key(name)} for run in runs]
    assert rest[0]
    assert_equal(*rest, rtol=1e-6, atol=1e-8)
    net = local_of(shared.model)
    for index in range(len(net.auxiliaries)):
        members = [gradients_of(apart, module) for module, group in enumerate(auxiliary_indices(net)) if group == index]
        expected = [sum(grads) for grads in zip(*members, strict=True)]
        assert expected
        assert_equal(dict(enumerate(gradients_of(shared, index))), dict(enumerate(expected)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', TRAINED)
def test_shared_auxiliaries_have_fewer_parameters_no_duplicate_keys_and_load_strictly(name):
    cfg, _ = TRAINED[name]
    shared, apart = (run.model for run in stepped(name))
    sizes = [sum(p.numel() for p in local_of(model).auxiliaries.parameters()) for model in (shared, apart)]
    assert 0 < sizes[0] < sizes[1]
    state = shared.state_dict()
    stored = [value.data_ptr() for key, value in state.items() if is_auxiliary_key(key) and value.numel()]
    assert len(stored) == len(set(stored))
    other = made(cfg)
    other.load_state_dict(state, strict=True)
    assert_equal(dict(other.state_dict()), dict(state))


def test_no_graph_crosses_a_cut_with_shared_auxiliaries():
    model, seen = build(detector(num_modules=17, depth=34)), []
    names = {p: name for name, p in model.named_parameters()}

    def before(loss, module):
        net = model.backbone
        last = module is None
        span = slice(*net.partition.span(net.num_modules - 1 if last else module))
        units = {names[p] for unit in net.unrolled.units[span] for p in unit.parameters(net.backbone)}
        found = {name for name in reached(loss, model) if name.startswith('backbone.')}
        own = set() if last else {names[p] for p in net.local_modules[module].auxiliary.parameters()}
        assert found == units | own or (last and found == units)
        seen.append(module)

    Trainer(model, SpyWrapper, before=before).step()
    assert seen == [*range(16), None]


def test_every_map_of_a_shared_slm_has_the_shape_of_the_backbones():
    net = build(detector(num_modules=17, depth=34)).backbone
    expected = [level.shape for level in net(images())]
    for module in range(16):
        x, taps = run_units(net.unrolled.units[: net.partition.span(module)[1]], net.backbone, images())
        assert [level.shape for level in net.local_modules[module].auxiliary(x, taps)] == expected


def test_an_slm_shared_up_to_the_end_of_a_stage_sees_the_output_of_every_module_as_the_stages():
    net = build(detector(**REST)).backbone
    for module in (1, 2):  # inside of layer1, and at its end
        x, taps = run_units(net.unrolled.units[: net.partition.span(module)[1]], net.backbone, images())
        assert torch.equal(net.local_modules[module].auxiliary(x, taps)[0], x)


@pytest.mark.parametrize(('head', 'clip'), [('shared', dict(max_norm=0.05, per_module=True)), ('private', None)])
def test_eager_steps_end_in_the_weights_of_ordinary_steps(head, clip):
    cfg = detector(head=head, **REST)
    runs = [Trainer(build(cfg), eager_step=eager, clip_grad=clip and dict(clip)) for eager in (False, True)]
    for first in range(2):
        assert runs[0].step(batch(first=first)) == runs[1].step(batch(first=first))
    assert_equal(*(dict(run.model.state_dict()) for run in runs))


def test_a_shared_auxiliarys_gradients_are_gone_after_its_last_module():
    model, alive = build(detector(head='private', **REST)), []

    def after(module):
        alive.append(
            {
                index
                for index, a in enumerate(model.backbone.auxiliaries)
                if any(p.grad is not None for p in a.parameters())
            }
        )

    Trainer(model, SpyWrapper, after=after, eager_step=True).step()
    assert alive == [set(), {1}, set(), {2}, set(), {3}, set(), set(), set()]


def test_parameters_of_modules_cover_the_backbone_and_shared_auxiliaries_once():
    net = build(detector(head='private', **REST)).backbone
    listed = [p for module in range(9) for p in net.local_modules[module].parameters(net.backbone)]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(net.parameters())


def test_module_rows_count_a_shared_auxiliary_once():
    net = build(detector(head='private', **REST)).backbone
    rows = module_rows(net)
    counts = [sum(p.numel() for p in a.parameters() if p.requires_grad) for a in net.auxiliaries]
    assert [row.auxiliary_parameters for row in rows] == [*counts[:2], 0, counts[2], 0, counts[3], 0, counts[4], 0]
    assert rows[2].reads == () and rows[3].reads == ('layer1',)


def test_a_shared_auxiliary_starts_from_the_units_behind_the_first_cut():
    plain, ours = build(retinanet(None, dict(depth=34)), seed=1), build(detector(num_modules=17, depth=34))
    mirrored = ours.backbone.auxiliaries[1].mirrored_keys()
    assert {key.rsplit('.', 2)[0] for key in mirrored.values() if key.startswith('layer1')} >= {'layer1.1'}
    assert not any(key.startswith('layer1.2') for key in mirrored.values())
    check_mirrors(ours.backbone, ours.backbone.backbone.state_dict())
    ours.load_state_dict(plain.state_dict(), strict=False)
    check_mirrors(ours.backbone, plain.backbone.state_dict())


def test_a_checkpoint_with_unshared_auxiliaries_brings_its_backbone_and_leaves_them(warnings):
    target, source = build(detector(**REST)), build(detector('none', **REST), seed=1)
    assert not target.load_state_dict(source.state_dict(), strict=False).unexpected_keys
    (message,) = [text for text in warnings() if 'another num_modules' in text]
    assert 'share' in message
    check_mirrors(target.backbone, source.backbone.backbone.state_dict())


def test_a_stopped_training_goes_on_from_its_state():
    def run(seed=0):
        return Trainer(build(detector(head='private', **REST), seed=seed))

    unbroken, broken, resumed = run(), run(), run(seed=5)
    for first in (0, 2):
        unbroken.step(batch(first=first))
    broken.step(batch(first=0))
    resumed.model.load_state_dict(broken.model.state_dict(), strict=True)
    resumed.optim_wrapper.load_state_dict(broken.optim_wrapper.state_dict())
    resumed.step(batch(first=2))
    assert_equal(dict(resumed.model.state_dict()), dict(unbroken.model.state_dict()))


def test_copies_share_among_themselves_alone():
    model = build(detector(head='private', **REST))
    twin = copy.deepcopy(model)
    known = {id(p) for p in model.parameters()}
    assert auxiliary_indices(twin.backbone) == auxiliary_indices(model.backbone)
    assert not known & {id(p) for p in twin.parameters()}
    logs = [Trainer(each).step() for each in (model, twin)]
    assert logs[0] == logs[1]


def test_the_hook_logs_every_module_of_a_shared_auxiliary():
    run = Trainer(build(detector(**REST)))
    run.step()
    keys = {key.split('/')[1] for key in run.message_hub.log_scalars if key.startswith('train/local_')}
    assert keys == {f'local_{module:02d}' for module in range(8)}
