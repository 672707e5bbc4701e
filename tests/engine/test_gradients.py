"""The gradients that a step makes are those of the local losses: computed again here from the layers, by hand."""

import pytest
import torch

from ..helpers.detection import batch, build, retinanet
from ..helpers.training import Trainer, assert_equal, gradients, local_parameters, named, trainer

BLOCKS = [f'layer{stage}.{i}' for stage in (1, 2, 3, 4) for i in (0, 1)]
CUTS = {2: (4,), 3: (3, 6), 4: (2, 4, 7), 9: (1, 2, 3, 4, 5, 6, 7, 8)}
"""Index of the first unit after each cut: unit 0 is the stem, unit i is BLOCKS[i - 1]."""


def stem(net, x):
    return net.maxpool(net.relu(net.bn1(net.conv1(x))))


def run_blocks(net, names, x, stages):
    """Run blocks of `net` by name; the last output of a stage stands for the stage."""
    for name in names:
        x = net.get_submodule(name)(x)
        stages[name[:6]] = x
    return x


def by_hand(model, data, num_modules):
    """Gradients of the local losses and the main loss, each by `autograd.grad`, summed."""
    model.train()
    data = model.data_preprocessor(data, True)
    net, total, bank, start = model.backbone.backbone, {}, {}, 0
    names = {p: name for name, p in model.named_parameters()}
    x = data['inputs']
    for module, stop in enumerate((*CUTS[num_modules], 9)):
        x, stages = x.detach(), dict(bank)
        if start == 0:
            x = stem(net, x)
        x = run_blocks(net, BLOCKS[max(start - 1, 0) : stop - 1], x, stages)
        bank = {name: feature.detach() for name, feature in stages.items()}
        neck = model.neck
        if stop < 9:
            auxiliary = model.backbone.auxiliaries[module]
            slm = {name[:6]: name for name in reversed(BLOCKS[stop - 1 :])}  # the first block of every stage left
            run_blocks(auxiliary.layers, sorted(slm.values()), x, stages)
            neck = auxiliary.neck
        losses = model.bbox_head.loss(neck([stages[f'layer{i}'] for i in (1, 2, 3, 4)]), data['data_samples'])
        loss = sum(sum(value) for value in losses.values())
        trained = [p for p in model.parameters() if p.requires_grad]
        for p, grad in zip(trained, torch.autograd.grad(loss, trained, allow_unused=True), strict=True):
            if grad is not None:
                total[names[p]] = total[names[p]] + grad if names[p] in total else grad
        start = stop
    return total


@pytest.mark.parametrize(('num_modules', 'norm_eval'), [(2, False), (3, True), (4, False), (9, True)])
def test_gradients_equal_those_of_local_losses_built_by_hand(num_modules, norm_eval):
    expected = by_hand(build(retinanet(num_modules, dict(norm_eval=norm_eval))), batch(), num_modules)
    ours = gradients(num_modules=num_modules, backbone=dict(norm_eval=norm_eval))
    assert_equal(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ('num_modules', 'auxiliary'),
    [
        (2, {}),
        (9, {}),
        (3, dict(head='private')),
        (9, dict(head='private')),
        (4, dict(neck='shared')),
        (3, dict(neck='shared', head='private')),
        (2, dict(shared_head_grad='mean')),
    ],
    ids=str,
)
def test_every_trainable_parameter_gets_a_gradient(num_modules, auxiliary):
    run = trainer(num_modules, auxiliary=auxiliary)
    run.step()
    assert run.gradients.keys() == named(run.model, '')


@pytest.mark.parametrize(
    ('num_modules', 'auxiliary'), [(2, {}), (9, {}), (4, dict(head='private')), (3, dict(neck='shared'))], ids=str
)
def test_a_parameter_gets_one_contribution_a_step_and_a_shared_one_gets_k(num_modules, auxiliary):
    run = trainer(num_modules, auxiliary=auxiliary)
    counts = dict.fromkeys(named(run.model, ''), 0)

    def count(name):
        counts[name] += 1

    for name, p in run.model.named_parameters():
        p.register_post_accumulate_grad_hook(lambda _, name=name: count(name))
    run.step()
    shared = named(run.model, *['bbox_head'] * (auxiliary.get('head') != 'private'), *['neck'] * ('neck' in auxiliary))
    assert counts == {name: num_modules if name in shared else 1 for name in counts}


@pytest.mark.parametrize(('num_modules', 'neck'), [(4, 'private'), (2, 'shared')])
def test_shared_head_grad_scales_what_is_shared_and_nothing_else(num_modules, neck):
    options = dict(neck='shared') if neck == 'shared' else {}
    by_rule = {
        rule: gradients(num_modules=num_modules, auxiliary=dict(shared_head_grad=rule, **options))
        for rule in ('sum', 'mean', 'last')
    }
    model = build(retinanet(num_modules, auxiliary=options))
    shared = named(model, 'bbox_head', *['neck'] * (neck == 'shared'))
    main = main_loss_gradients(num_modules, options)
    for name, whole in by_rule['sum'].items():
        mean, last = by_rule['mean'][name], by_rule['last'][name]
        if name in shared:
            torch.testing.assert_close(mean, whole / num_modules, rtol=1e-5, atol=1e-7)
            assert torch.equal(last, main[name]) and not torch.equal(last, whole)
        else:
            assert torch.equal(mean, whole) and torch.equal(last, whole), name


def main_loss_gradients(num_modules, auxiliary):
    """Gradients of the main loss alone: what the same step adds after the local backwards."""
    run = Trainer(build(retinanet(num_modules, auxiliary=auxiliary)))
    plain_backward = run.optim_wrapper.backward

    def backward(loss, **kwargs):
        run.model.zero_grad()
        plain_backward(loss, **kwargs)

    run.optim_wrapper.backward = backward
    run.step()
    return run.gradients


def test_the_main_loss_trains_the_last_module_neck_and_head_only():
    model = build(retinanet(4))
    expected = local_parameters(model, 3) | named(model, 'neck', 'bbox_head')
    assert main_loss_gradients(4, {}).keys() == expected


def test_parameters_of_modules_cover_backbone_and_auxiliaries_once():
    model = build(retinanet(4))
    listed = [
        p for module in range(4) for p in model.backbone.local_modules[module].parameters(model.backbone.backbone)
    ]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(model.backbone.parameters())
