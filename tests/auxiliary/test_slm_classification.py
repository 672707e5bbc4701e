"""SLM with a classifier of its own, and what it reads of the feature bank."""

import pytest
import torch
from torch.nn import functional as F

from man_mm.local import FeatureBank

from ..helpers.classification import batch, classifier, make, resnet32
from ..helpers.detection import build, retinanet
from ..helpers.training import Trainer


def test_units_and_head_of_resnet32_at_every_cut():
    """In the order of the modules: blocks of the SLM, and what the bank adds to the 64 features of its last one."""
    names = [f'layer{stage}.{i}' for stage in (1, 2, 3) for i in range(5)]
    auxiliaries = resnet32('man').backbone.auxiliaries
    for module, auxiliary in enumerate(auxiliaries):
        rest = names[module:]
        first = [next((n for n in rest if n.startswith(stage)), None) for stage in ('layer1', 'layer2', 'layer3')]
        assert [unit.name for unit in auxiliary.units] == [name for name in first if name]
        banked = 0 if module <= 5 else 16 if module <= 10 else 16 + 32
        assert auxiliary.heads.head.fc.in_features == 64 + banked


def test_without_bank_vectors_heads_read_the_small_models_features_alone():
    for auxiliary in resnet32('man', bank_vectors=False).backbone.auxiliaries:
        assert auxiliary.heads.head.fc.in_features == 64


def watched_run(**auxiliary):
    """One step at one unit a module: the outputs of the backbone's blocks, and what every private head read."""
    run = Trainer(make(classifier('man', 7, **auxiliary)))
    net, ends, read = run.model.backbone.backbone, {}, {}
    for stage in ('layer1', 'layer2'):
        last = net.get_submodule(f'{stage}.1')
        last.register_forward_hook(lambda module, inputs, output, stage=stage: ends.update({stage: output.detach()}))
    for module, own in enumerate(run.model.backbone.auxiliaries):
        own.heads.head.fc.register_forward_hook(
            lambda _, inputs, output, module=module: read.update({module: inputs[0].detach()})
        )
    run.step(batch(4))
    return ends, read


def test_heads_read_the_normalised_means_of_earlier_stages_of_the_same_batch():
    ends, read = watched_run()
    means = {stage: F.layer_norm(end.mean((2, 3)), (end.shape[1],)) for stage, end in ends.items()}
    assert [read[module].shape[1] for module in range(6)] == [16, 16, 16, 16 + 4, 16 + 4, 16 + 4 + 8]
    for module in (3, 4, 5):
        torch.testing.assert_close(read[module][:, 16:20], means['layer1'])
    torch.testing.assert_close(read[5][:, 20:], means['layer2'])


def test_without_bank_heads_read_zeros_in_its_place():
    _, read = watched_run(backbone_bank=False)
    for module in (3, 4, 5):
        assert not read[module][:, 16:].any() and read[module][:, :16].any()


def test_the_bank_keeps_means_and_no_maps():
    run = Trainer(make(classifier('man', 7)))
    run.step(batch(4))
    assert run.hook.bank_bytes == 4 * (4 + 8) * 4  # images, channels, bytes of a float


def test_the_models_own_head_reads_no_bank_vectors():
    with pytest.raises(ValueError, match=r"bank_vectors=True needs a head of its own.*auxiliary.head='private'"):
        make(classifier('man', head='shared'))
    run = Trainer(make(classifier('man', head='shared', bank_vectors=False)))
    run.step(batch(4))
    assert not any('heads' in name for name, _ in run.model.named_parameters())
    assert run.hook.bank_bytes == 0


def test_no_units_leave_a_classifier_on_the_modules_own_channels():
    auxiliaries = resnet32('man', units_per_stage=0).backbone.auxiliaries
    channels = [16] * 6 + [32] * 5 + [64] * 4
    banked = [0] * 6 + [16] * 5 + [48] * 4
    for auxiliary, own, more in zip(auxiliaries, channels, banked, strict=True):
        assert auxiliary.heads.head.fc.in_features == own + more
        assert sum(p.numel() for p in auxiliary.parameters()) == (own + more) * 10 + 10


@pytest.mark.parametrize('options', [dict(units_per_stage=0), dict(units_per_stage=2), dict(cut_stage=False)], ids=str)
def test_other_depths_train_every_parameter(options):
    run = Trainer(make(classifier('man', 7, **options)))
    run.step(batch(4))
    assert set(run.gradients) == {name for name, _ in run.model.named_parameters()}


def test_without_units_for_the_stage_of_the_cut_the_modules_output_stands_for_it():
    auxiliaries = resnet32('man', cut_stage=False).backbone.auxiliaries
    expected = [['layer1.0', 'layer2.0', 'layer3.0']] + [['layer2.0', 'layer3.0']] * 5 + [['layer3.0']] * 5 + [[]] * 4
    assert [[unit.name for unit in auxiliary.units] for auxiliary in auxiliaries] == expected


@pytest.mark.parametrize('options', [dict(units_per_stage=0), dict(cut_stage=False)], ids=str)
def test_a_transformer_can_do_without_units(options):
    arch = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32)
    head = dict(type='VisionTransformerClsHead', num_classes=10, in_channels=16)
    cfg = classifier('man', 3, model=dict(neck=None, head=head), bank_vectors=False, **options)
    cfg['backbone']['backbone'] = dict(type='VisionTransformer', arch=arch, img_size=16, patch_size=8)
    run = Trainer(make(cfg))
    run.step(batch(4))
    assert set(run.gradients) == {name for name, _ in run.model.named_parameters()}


def test_a_detectors_private_heads_keep_their_width():
    model = build(retinanet(9, auxiliary=dict(head='private', cut_stage=False)))
    assert all(auxiliary.heads.bbox_head.in_channels == 8 for auxiliary in model.backbone.auxiliaries)
    Trainer(model).step()


def test_private_heads_of_one_kind_start_from_weights_of_their_own():
    model = resnet32('man', 4, bank_vectors=False)
    heads = [auxiliary.heads.head.fc.weight for auxiliary in model.backbone.auxiliaries] + [model.head.fc.weight]
    assert all(not torch.equal(a, b) for i, a in enumerate(heads) for b in heads[:i])


def test_a_private_head_of_another_width_is_drawn_afresh_in_every_layer():
    head = dict(type='StackedLinearClsHead', num_classes=10, in_channels=16, mid_channels=[12], init_cfg=None)
    model = make(classifier('dgl', 4, model=dict(head=head)))
    heads = [*(auxiliary.heads.head for auxiliary in model.backbone.auxiliaries), model.head]
    for layer in ('layers.0.fc', 'layers.1.fc'):
        weights = [own.get_submodule(layer).weight.flatten()[:10] for own in heads]
        assert all(not torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])


def test_a_head_that_does_not_say_what_it_reads_is_refused_where_it_would_read_another_width():
    head = dict(type='CSRAClsHead', num_classes=10, in_channels=16, num_heads=1, lam=0.1)
    with pytest.raises(ValueError, match='CSRAClsHead has no linear layer that reads its unknown number of input'):
        make(classifier('dgl', 4, model=dict(head=head, neck=None)))


def test_the_models_own_head_cannot_read_a_narrower_modules_output():
    with pytest.raises(ValueError, match=r"the model's head reads 16 channels, the output of module 0 .* has 4"):
        make(classifier('man', 4, head='shared', bank_vectors=False, units_per_stage=0))


@pytest.mark.parametrize(('num_modules', 'notes'), [(2, 1), (7, 0)])
def test_a_bank_without_a_vector_to_give_is_said_once(num_modules, notes, monkeypatch):
    said = []
    monkeypatch.setattr('man_mm.auxiliary.slm.print_log', lambda message, **_: said.append(message))
    model = make(classifier('man', num_modules))
    assert [message[:27] for message in said] == ['auxiliary.bank_vectors=True'] * notes
    assert any(unit.pooled for unit in model.backbone.banked.values()) is not bool(notes)


def scaled(taps, scale):
    return {name: tap * scale for name, tap in taps.items()}


def test_what_the_bank_holds_changes_the_losses_of_later_modules_alone(monkeypatch):
    losses, put = [], FeatureBank.put
    for scale in (1.0, -1.0):
        run = Trainer(make(classifier('man', 7)))
        monkeypatch.setattr(FeatureBank, 'put', lambda bank, taps, scale=scale: put(bank, scaled(taps, scale)))
        run.step(batch(4))
        losses.append([value.item() for (_, name), value in run.optim_wrapper.local_losses.items() if name == 'total'])
    assert [a == b for a, b in zip(*losses, strict=True)] == [True] * 3 + [False] * 3


def test_bank_vectors_carry_no_graph():
    run = Trainer(make(classifier('man', 7)))
    auxiliary = run.model.backbone.auxiliaries[5]
    seen, local_losses = [], auxiliary.local_losses

    def watch(x, taps, task):
        seen.extend(taps[name].requires_grad for name in auxiliary.vectors)
        return local_losses(x, taps, task)

    auxiliary.local_losses = watch
    run.step(batch(4))
    assert seen == [False, False]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(units_per_stage=-1), r'auxiliary.units_per_stage=-1 must be an integer, 0 or more'),
        (dict(cut_stage='no'), r"auxiliary.cut_stage='no' must be True or False"),
        (dict(bank_vectors=1), r'auxiliary.bank_vectors=1 must be True or False'),
    ],
)
def test_values_that_are_none_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(classifier('man', **options))


SWIN = dict(
    type='SwinTransformer',
    arch=dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2]),
    stage_cfgs=dict(block_cfgs=dict(window_size=12)),
)


def with_windows_of_12(**net):
    cfg = classifier('man', 3)
    cfg['backbone'].update(backbone={**SWIN, **net}, probe_size=None)
    cfg['head']['in_channels'] = 64
    return make(cfg)


def test_shapes_are_probed_at_the_image_size_of_the_backbone():
    auxiliaries = with_windows_of_12(img_size=384).backbone.auxiliaries
    assert [auxiliary.head_width(64) for auxiliary in auxiliaries] == [64, 64 + 8]


def test_a_probe_that_fails_names_its_size():
    with pytest.raises(
        ValueError, match=r'probe_size=\(256, 256\): SwinTransformer does not run .*smaller than the window'
    ):
        with_windows_of_12()
