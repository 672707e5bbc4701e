"""After a module's local backward no other module has a gradient, and no graph crosses a cut."""

import pytest

from ..helpers.detection import build, retinanet
from ..helpers.training import SpyWrapper, Trainer, local_parameters, named, reached

DEPTHS = [2, 3, 4, 9]
SHARED, PRIVATE = {}, dict(head='private')


def spied(num_modules, before=None, after=None, **auxiliary):
    model = build(retinanet(num_modules, auxiliary=auxiliary))
    run = Trainer(
        model,
        SpyWrapper,
        before=before and (lambda *a: before(model, *a)),
        after=after and (lambda *a: after(model, *a)),
    )
    run.step()
    return model


@pytest.mark.parametrize('num_modules', DEPTHS)
def test_a_local_backward_gives_gradients_to_its_module_its_auxiliary_and_the_shared_head_only(num_modules):
    seen = []

    def after(model, module):
        if module is None:
            return
        have = {name for name, p in model.named_parameters() if p.grad is not None}
        earlier = set().union(*(local_parameters(model, m) for m in range(module)))
        assert have - earlier == local_parameters(model, module) | named(model, 'bbox_head')
        seen.append(module)

    spied(num_modules, after=after)
    assert seen == list(range(num_modules - 1))


@pytest.mark.parametrize(
    ('num_modules', 'auxiliary'),
    [
        *((num_modules, SHARED) for num_modules in DEPTHS),
        (2, PRIVATE),
        (9, PRIVATE),
        (3, dict(neck='shared')),
        (4, dict(shared_head_grad='last')),
    ],
    ids=str,
)
def test_no_graph_crosses_a_cut(num_modules, auxiliary):
    seen = []

    def before(model, loss, module):
        shared = set() if auxiliary in (PRIVATE, dict(shared_head_grad='last')) else named(model, 'bbox_head')
        if auxiliary == dict(neck='shared'):
            shared = named(model, 'bbox_head', 'neck')
        if module is None:
            module, shared = num_modules - 1, named(model, 'bbox_head', 'neck')
        assert reached(loss, model) == local_parameters(model, module) | shared
        seen.append(module)

    spied(num_modules, before=before, **auxiliary)
    assert seen == list(range(num_modules))


def test_local_losses_leave_the_total_loss_alone():
    run = Trainer(build(retinanet(4)))
    logs = run.step()
    assert set(logs) == {'loss', 'loss_cls', 'loss_bbox'}
    assert logs['loss'] == logs['loss_cls'] + logs['loss_bbox']
    local = [key for key in run.message_hub.log_scalars if 'local' in key]
    assert sorted(local) == sorted(f'train/local_{m:02d}/{term}' for m in range(3) for term in ('cls', 'bbox', 'total'))
    assert not any('loss' in key for key in local)
