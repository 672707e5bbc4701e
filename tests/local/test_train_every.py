"""train_every=n: a module trains in every n-th optimizer step, in turns; in the others it only runs forward."""

import copy
import functools
import json

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim.optimizer import amp_optimizer_wrapper

from man_mm.engine import LocalAmpOptimWrapper

from ..classification import batch as labelled
from ..classification import classifier
from ..classification import make as make_classifier
from ..helpers.runs import make_coco, run_config, runner
from ..models import batch, build, retinanet
from ..restoration import batch as pairs
from ..restoration import editor
from ..restoration import make as make_editor
from ..training import SavedTensors, Trainer, assert_equal, gradients, local_parameters, trainer

PRIVATE = dict(head='private')


def every(n, num_modules=4, auxiliary=PRIVATE, backbone=None, **options):
    return trainer(num_modules, backbone, auxiliary, model_options=dict(train_every=n), **options)


def trained(run):
    """Modules that have gradients, all of theirs or none."""
    found = []
    for module in range(run.model.backbone.num_modules):
        own = local_parameters(run.model, module)
        assert run.gradients.keys() >= own or not run.gradients.keys() & own
        found += [module] if run.gradients.keys() >= own else []
    return found


@pytest.mark.parametrize(
    ('n', 'expected'),
    [
        (1, [[0, 1, 2, 3]] * 4),
        (2, [[0, 2, 3], [1, 3], [0, 2, 3], [1, 3]]),
        (3, [[0, 3], [2, 3], [1, 3], [0, 3]]),
        (5, [[0, 3], [3], [3], [2, 3], [1, 3], [0, 3]]),
    ],
)
def test_modules_train_in_turns_and_the_last_one_always(n, expected):
    run = every(n)
    for modules in expected:
        run.step()
        assert trained(run) == modules
        assert {module for module, _ in run.optim_wrapper.local_losses} == {*modules} - {3}


def test_modules_that_train_get_the_gradients_of_a_step_in_which_all_do():
    run, full = every(2), every(1)
    run.step()
    full.step()
    rest = {name: grad for name, grad in full.gradients.items() if name not in local_parameters(full.model, 1)}
    assert_equal(run.gradients, rest)


def test_the_model_predicts_and_the_bank_holds_the_same_whoever_trains():
    runs = [every(n) for n in (1, 3)]
    logs = [run.step() for run in runs]
    assert logs[0] == logs[1] and logs[0]['loss'] > 0
    peaks = [run.model.backbone.bank.peak_bytes for run in runs]
    assert peaks[0] == peaks[1] > 0
    assert len({run.message_hub.get_scalar('train/bank_mib').current() for run in runs}) == 1


def test_an_idle_module_keeps_its_weights_and_momentum():
    run = every(2)
    run.optimizer.param_groups[0]['weight_decay'] = 0.1
    run.step()
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    momenta = {p: copy.deepcopy(state) for p, state in run.optimizer.state.items()}
    run.step()
    idle = local_parameters(run.model, 0) | local_parameters(run.model, 2)
    for name, p in run.model.named_parameters():
        if name in idle:
            assert torch.equal(p, before[name])
            assert torch.equal(run.optimizer.state[p]['momentum_buffer'], momenta[p]['momentum_buffer'])
    for module in (1, 3):
        moved = local_parameters(run.model, module)
        assert any(not torch.equal(p, before[name]) for name, p in run.model.named_parameters() if name in moved)


def blocks_of(backbone, module):
    units = backbone.unrolled.units[slice(*backbone.partition.span(module))]
    return [backbone.backbone.get_submodule(unit.layers[-1]) for unit in units]


@pytest.mark.parametrize('with_cp', [False, True])
def test_an_idle_modules_forward_keeps_nothing_and_runs_no_auxiliary(with_cp):
    run = every(2, 5, backbone=dict(with_cp=with_cp))
    backbone, saved, seen, calls = run.model.backbone, SavedTensors(run.model), {}, []
    for module in range(5):
        for block in blocks_of(backbone, module):
            block.register_forward_hook(
                lambda block, args, out, m=module: seen.setdefault(m, []).append(
                    (args[0].requires_grad or out.requires_grad, saved.nbytes > 0)
                )
            )
    for index, auxiliary in enumerate(backbone.auxiliaries):
        auxiliary.register_forward_hook(lambda auxiliary, args, out, i=index: calls.append(i))
    run.step()
    seen.clear()
    calls.clear()
    with saved.watch():
        run.step()
    assert calls == [1, 3]
    assert {(False, False)} == {*seen[0], *seen[2]}
    # a checkpointed block runs once more in backward
    assert all((True, True) in seen[module] for module in (1, 3, 4))


def test_a_step_with_idle_modules_keeps_less():
    peaks = []
    for n in (1, 4):
        run = every(n, 2)
        saved = SavedTensors(run.model)
        run.step()  # module 0 trains
        with saved.watch():
            run.step()
        peaks.append(saved.peak)
    assert peaks[1] < 0.8 * peaks[0]


def test_running_statistics_of_idle_modules_move_and_those_of_idle_auxiliaries_do_not():
    run = every(2, backbone=dict(norm_eval=False))
    for _ in range(4):
        run.step()
    counts = {name: int(b) for name, b in run.model.named_buffers() if name.endswith('num_batches_tracked')}
    assert {count for name, count in counts.items() if '.auxiliaries.' not in name} == {4}
    assert {count for name, count in counts.items() if '.auxiliaries.' in name} == {2}


@pytest.mark.parametrize('counts', [2, 4])
@pytest.mark.parametrize('n', [2, 3])
def test_accumulation_starves_no_module(n, counts):
    run, seen = every(n, accumulative_counts=counts), []
    for _ in range(n):
        active = set()
        for i in range(counts):
            run.step(batch(1, first=i))
            active.add(frozenset(module for module, _ in run.optim_wrapper.local_losses))
        assert len(active) == 1  # all batches of a step train the same modules
        seen.append(trained(run))
    assert sorted(module for modules in seen for module in modules if module < 3) == [0, 1, 2]


def test_accumulated_batches_give_the_gradients_of_the_large_batch():
    for auxiliary in ({}, PRIVATE, dict(shared_head_grad='mean')):
        options = dict(num_modules=4, auxiliary=auxiliary, model_options=dict(train_every=2))
        small = gradients(batch(2), batch(2, first=2), accumulative_counts=2, **options)
        assert_equal(small, gradients(batch(4), **options), rtol=1e-4, atol=1e-6)


def test_the_mean_of_gradients_is_over_the_losses_of_the_step():
    runs = [every(2, auxiliary=dict(shared_head_grad=grad), lr=0.0) for grad in ('sum', 'mean')]
    for num_losses in (3, 2, 3):
        for run in runs:
            run.step()
        head = [name for name in runs[0].gradients if name.startswith('bbox_head')]
        assert head
        for name in head:
            torch.testing.assert_close(runs[0].gradients[name], runs[1].gradients[name] * num_losses)


@pytest.mark.parametrize('clip', [None, dict(max_norm=0.05, per_module=True)], ids=['', 'clip'])
@pytest.mark.parametrize('auxiliary', [{}, PRIVATE, dict(neck='shared'), dict(shared_head_grad='last')], ids=str)
def test_eager_steps_end_in_the_weights_of_ordinary_steps(auxiliary, clip):
    runs = [every(2, auxiliary=auxiliary, eager_step=eager, clip_grad=clip and dict(clip)) for eager in (False, True)]
    for first in range(3):
        assert runs[0].step(batch(first=first)) == runs[1].step(batch(first=first))
    assert_equal(*(dict(run.model.state_dict()) for run in runs))


def test_mixed_precision_and_idle_modules_go_together(monkeypatch):
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', functools.partial(torch.amp.GradScaler, 'cpu'))
    options = dict(wrapper=LocalAmpOptimWrapper, loss_scale=dict(init_scale=2.0**10), dtype='bfloat16')
    run, full = every(2, **options), every(1, **options)
    run.step()
    full.step()
    assert trained(run) == [0, 2, 3]
    assert_equal(run.gradients, {name: full.gradients[name] for name in run.gradients})
    run.step()
    assert trained(run) == [1, 3]


@pytest.mark.parametrize(
    ('model', 'data', 'k'),
    [
        (lambda n: make_classifier(classifier('man', backbone_train_every=n)), labelled(), 4),
        (lambda n: make_classifier(classifier('predsim', backbone_train_every=n)), labelled(), 4),
        (lambda n: make_editor(editor(train_every=n, auxiliary=dict(tail='shared'))), pairs(), 3),
    ],
    ids=['classifier', 'predsim', 'editor'],
)
def test_other_tasks_train_in_turns_too(model, data, k):
    run = Trainer(model(2))
    for expected in ([m for m in range(k - 1) if m % 2 == 0], [m for m in range(k - 1) if m % 2]):
        logs = run.step(copy.deepcopy(data))
        assert logs['loss'] > 0
        assert sorted({module for module, _ in run.optim_wrapper.local_losses}) == expected


def test_modules_that_share_an_auxiliary_train_it_in_turns():
    auxiliary = dict(cut_stage=False, head='private')
    run = trainer(9, auxiliary=auxiliary, model_options=dict(train_every=2, share='stage'))
    grads = []
    for _ in range(2):
        run.step()
        grads.append(any(name.startswith('backbone.auxiliaries.1.') for name in run.gradients))
    assert run.model.backbone.groups[1:3] == (1, 1)
    assert grads == [True, True]


def test_turns_go_on_from_the_iteration_of_a_resumed_run():
    run = every(3)
    run.optim_wrapper.initialize_count_status(run.model, 4, 100)  # as a Runner does after it has resumed
    run.step()
    assert trained(run) == [2, 3]


class Stop(Hook):
    """Ends a run in its second epoch."""

    def before_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 4:
            raise KeyboardInterrupt


def test_a_resumed_run_ends_as_the_unbroken_one(tmp_path):
    root = make_coco(tmp_path / 'coco')
    model = retinanet(4, train_every=2)  # an epoch has three iterations: its second begins with the other modules
    runner(run_config(root, tmp_path / 'unbroken', model, epochs=2)).train()
    broken = runner(run_config(root, tmp_path / 'broken', model, epochs=2))
    broken.register_hook(Stop())
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    runner(run_config(root, tmp_path / 'broken', model, epochs=2, resume=True)).train()
    ours, theirs = (torch.load(tmp_path / name / 'epoch_2.pth') for name in ('broken', 'unbroken'))
    assert_equal(ours['state_dict'], theirs['state_dict'])


def test_the_log_has_a_modules_losses_from_its_first_turn_on(tmp_path):
    root = make_coco(tmp_path / 'coco')
    runner(run_config(root, tmp_path / 'run', retinanet(4, train_every=2), epochs=1)).train()
    (file,) = (tmp_path / 'run').rglob('scalars.json')
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 3
    modules = [{key[:8] for key in line if key.startswith('local_')} for line in lines]
    assert modules == [{'local_00', 'local_02'}, {'local_00', 'local_01', 'local_02'}, modules[1]]
    totals = [line['local_00/total'] for line in lines]
    assert totals[0] == totals[1] != totals[2]  # an idle module's last value stands
    assert all(line['bank_mib'] > 0 for line in lines)


@pytest.mark.parametrize('n', [0, -1, True, False, 1.5, '2', None, [2]])
def test_a_turn_that_is_no_positive_integer_is_refused(n):
    with pytest.raises(ValueError, match=r'train_every=.* must be an integer, 1 \(every step\) or more'):
        build(retinanet(4, train_every=n))


@pytest.mark.parametrize(('num_modules', 'n', 'num'), [(1, 2, 1), (1, 1, 0), (4, 2, 0)])
def test_turns_without_local_losses_are_one_warning(num_modules, n, num, warnings):
    run = Trainer(build(retinanet(num_modules, train_every=n)))
    found = [text for text in warnings() if 'train_every' in text]
    assert len(found) == num and all(f'train_every={n} has nothing to act on' in text for text in found)
    assert run.step()['loss'] > 0


def test_idle_modules_hand_on_no_graph():
    run, seen = every(4, 5), []
    run.step()
    unit = blocks_of(run.model.backbone, 4)[0]
    unit.register_forward_pre_hook(lambda block, args: seen.append((args[0].requires_grad, args[0].grad_fn)))
    run.step()
    assert seen == [(False, None)]
