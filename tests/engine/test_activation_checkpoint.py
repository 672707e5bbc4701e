"""ActivationCheckpointHook saves memory, and changes nothing else."""

import copy
import pickle
import re
from unittest.mock import Mock

import pytest
import torch
from mmdet.models import RetinaHead
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from torch import nn

from man_mm.analysis.memory import PeakMemory, training_tensors
from man_mm.engine import ActivationCheckpointHook, FeatureBankHook, LocalOptimWrapper

from ..models import batch, build, retinanet
from ..runs import make_coco, run_config, runner
from ..training import SavedTensors, assert_equal, fake_runner

LEVELS = 5
PRIVATE = dict(head='private')
HEADS = 'backbone.auxiliaries.*.heads.bbox_head'
BP = ['neck', '*bbox_head.forward_single', '*bbox_head.loss_by_feat_single']
EVERYWHERE = [*BP, 'backbone.auxiliaries.*.neck', 'backbone.backbone.layer?.?']


class Run:
    """A model in training with the hooks that it needs; `functions` are checkpointed, `heavy` is its readout."""

    def __init__(
        self, functions=None, num_modules=None, auxiliary=None, backbone=None, first=False, heavy=False, **options
    ):
        cfg = retinanet(num_modules, dict(base_channels=2) if heavy else backbone, auxiliary)
        if heavy:
            cfg['neck'] = {**cfg['neck'], 'in_channels': [2, 4, 8, 16], 'out_channels': 16}
            cfg['bbox_head'] = {**cfg['bbox_head'], 'in_channels': 16, 'feat_channels': 32, 'stacked_convs': 3}
            if num_modules is not None:
                cfg['backbone']['auxiliary']['neck'] = cfg['neck']
        self.model = build(cfg).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        wrapper = OptimWrapper if num_modules is None else LocalOptimWrapper
        self.optim_wrapper = wrapper(optimizer=self.optimizer, **options)
        self.gradients = {}
        self.optimizer.register_step_pre_hook(self._record)
        self.hook = ActivationCheckpointHook(functions) if functions else None
        hooks = [*([] if num_modules is None else [FeatureBankHook()]), *([self.hook] if functions else [])]
        for hook in reversed(hooks) if first else hooks:
            hook.bind(self.model, self.optim_wrapper)

    def _record(self, *_):
        self.gradients |= {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}

    def step(self, **options):
        return self.model.train_step(batch(**options), self.optim_wrapper)

    def losses(self, **options):
        data = self.model.data_preprocessor(batch(**options), True)
        with self.optim_wrapper.optim_context(self.model):
            return self.model(**data, mode='loss')

    def update(self, losses):
        self.optim_wrapper.update_params(self.model.parse_losses(losses)[0])

    def memory(self):
        """Bytes beside the model: what the forward of a step leaves for the backward, and the peak of both."""
        self.step()
        saved = SavedTensors(self.model)
        with PeakMemory(training_tensors(self.model, self.optimizer)) as meter, saved.watch():
            losses = self.losses(size=256)
            kept = saved.nbytes
            self.update(losses)
        return kept, meter.peak_bytes - meter.start_bytes


def patched(model):
    """Parts of a model that have an attribute in the place of a method."""
    methods = {'forward', 'forward_single', 'loss_by_feat_single', 'loss'}
    return [path for path, part in model.named_modules() if methods & vars(part).keys()]


@pytest.fixture
def calls(monkeypatch):
    """The heads of all calls of `forward_single`, and whether the hook's patches were in place."""
    made, original = [], RetinaHead.forward_single

    def forward_single(head, x):
        made.append((head, 'forward_single' in vars(head)))
        return original(head, x)

    monkeypatch.setattr(RetinaHead, 'forward_single', forward_single)
    return made


@pytest.mark.parametrize(
    ('functions', 'options'),
    [
        (BP, dict()),
        (EVERYWHERE, dict(num_modules=4)),
        (EVERYWHERE, dict(num_modules=4, auxiliary=PRIVATE)),
        (EVERYWHERE, dict(num_modules=4, auxiliary=PRIVATE, first=True)),
        (BP, dict(num_modules=4, auxiliary=dict(neck='shared', shared_head_grad='last'))),
        (EVERYWHERE, dict(num_modules=9, auxiliary=dict(shared_head_grad='mean'), eager_step=True)),
        (['*'], dict()),
    ],
    ids=str,
)
def test_losses_and_gradients_are_the_same_to_the_bit(functions, options, calls):
    plain, ours = Run(**options), Run(functions, **options)
    for i in range(2):
        expected = plain.step(first=i)
        before = len(calls)
        logs = ours.step(first=i)
        assert_equal(logs, expected)
        assert len(calls) - before == 2 * LEVELS * (options.get('num_modules') or 1)
    assert_equal(ours.gradients, plain.gradients)
    assert_equal(dict(ours.model.state_dict()), dict(plain.model.state_dict()))


@pytest.mark.parametrize('num_modules', [None, 4])
def test_gradients_under_autocast_are_the_same_to_the_bit(num_modules):
    runs = [Run(functions, num_modules) for functions in (None, BP)]
    for run in runs:
        with torch.autocast('cpu', torch.bfloat16):
            losses = run.losses()
        run.update(losses)
    assert_equal(runs[1].gradients, runs[0].gradients)


def test_local_losses_recompute_inside_the_forward_and_the_main_loss_behind_it(calls):
    run = Run(['bbox_head.forward_single'], 2)
    run.step()
    assert [is_patched for _, is_patched in calls] == [True] * 3 * LEVELS + [False] * LEVELS


def test_nothing_is_recomputed_twice_where_a_function_calls_another(calls):
    plain, run = Run(), Run(['bbox_head', 'bbox_head.forward_single', 'bbox_head.*_convs.*'])
    plain.step()
    run.step()
    assert len(calls) == LEVELS + 2 * LEVELS
    assert_equal(run.gradients, plain.gradients)


@pytest.mark.parametrize('num_modules', [None, 4])
@pytest.mark.parametrize(
    ('functions', 'kept_fraction', 'peak_fraction'),
    [(BP[:1], 0.99, 1), (BP[1:2], 0.7, 0.96), (BP[2:], 0.99, 0.99), ([*BP, '*layer?.?'], 0.5, 0.9)],
)
def test_less_is_kept_for_backward_and_the_peak_falls(num_modules, functions, kept_fraction, peak_fraction):
    plain, ours = (Run(entries, num_modules, heavy=True).memory() for entries in (None, functions))
    assert ours[0] < kept_fraction * plain[0] and ours[1] <= peak_fraction * plain[1]


def test_random_layers_draw_the_same_numbers_again():
    runs = [Run(functions) for functions in (None, ['neck', 'bbox_head.forward_single'])]
    for run in runs:
        run.model.bbox_head.cls_convs.append(nn.Dropout(0.5))
        torch.manual_seed(7)
        run.step()
    assert_equal(runs[1].gradients, runs[0].gradients)


def test_running_statistics_see_each_batch_twice():
    seen = []
    for functions in (None, ['backbone.layer1.*']):
        run = Run(functions, backbone=dict(norm_eval=False))
        run.step()
        seen.append(int(run.model.backbone.layer1[0].bn1.num_batches_tracked))
    assert seen == [1, 2]


@pytest.mark.parametrize('options', [{}, dict(num_modules=4, auxiliary=PRIVATE)], ids=str)
def test_evaluation_and_copies_see_the_plain_model(options, calls):
    plain, run = Run(**options), Run(BP, **options)
    plain.step()
    run.step()
    for model in (run.model, copy.deepcopy(run.model), pickle.loads(pickle.dumps(run.model))):
        assert not patched(model)
        assert model.state_dict().keys() == plain.model.state_dict().keys()
        calls.clear()
        ours, theirs = (m.eval().test_step(batch())[0].pred_instances for m in (model, plain.model))
        assert torch.equal(ours.bboxes, theirs.bboxes) and torch.equal(ours.scores, theirs.scores)
        assert not any(is_patched for _, is_patched in calls)


def test_a_copy_computes_with_its_own_weights_and_is_checkpointed_itself(calls):
    run = Run(BP)
    run.step()
    other = copy.deepcopy(run.model)
    for p in other.parameters():
        p.data.mul_(0.5)
    calls.clear()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.01)
    other.train_step(batch(), OptimWrapper(optimizer=optimizer))
    assert [head for head, _ in calls] == [other.bbox_head] * 2 * LEVELS
    assert not patched(other) and not patched(run.model)


def test_a_copy_made_inside_a_forward_computes_with_its_own_weights(calls):
    run, copies = Run(BP), []
    run.model.neck.register_forward_hook(lambda *_: copies.append(copy.deepcopy(run.model)))
    run.step()
    calls.clear()
    copies[0].eval().test_step(batch())
    assert [head for head, _ in calls] == [copies[0].bbox_head] * LEVELS
    assert not patched(copies[0])


def test_binding_twice_does_not_stack_and_two_hooks_do_not_either(calls):
    run = Run(BP)
    run.hook.bind(run.model)
    other = ActivationCheckpointHook(['*bbox_head.forward_single'])
    other.bind(run.model)
    run.step()
    assert len(calls) == 2 * LEVELS and not patched(run.model)
    other.after_train(None)
    run.hook.after_train(None)
    assert not run.model._forward_pre_hooks and not run.model._forward_hooks
    calls.clear()
    run.step()
    assert len(calls) == LEVELS


def test_a_method_replaced_by_another_tool_is_used_and_given_back():
    run = Run(['neck'])
    run.model.neck.forward = forward = Mock(wraps=run.model.neck.forward)
    run.step()
    assert vars(run.model.neck)['forward'] is forward and forward.call_count == 2


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_model_as_it_was(error, calls):
    run = Run(BP)

    def fail(*_):
        raise error

    handle = run.model.bbox_head.retina_cls.register_forward_hook(fail)
    with pytest.raises(error):
        run.step()
    handle.remove()
    if error is RuntimeError:  # torch runs no hooks for the other one
        assert not patched(run.model)
    calls.clear()
    run.model.eval().test_step(batch())
    assert [is_patched for _, is_patched in calls] == [False] * LEVELS and not patched(run.model)


class Sine(nn.Module):
    def forward(self, inputs, **options):
        return inputs[0].sin() * options['by'][0]


class Overwriter(nn.Module):
    """Changes what it gave to a part of itself; `x * 2` keeps nothing for its own backward."""

    def __init__(self):
        super().__init__()
        self.part = self.alias = Sine()

    def forward(self, x, by):
        y = x * 2
        result = self.part([y], by={0: by})
        y.detach().zero_()
        return result


def test_an_input_in_a_list_changed_in_place_is_an_error_and_not_another_gradient():
    model = Overwriter()
    ActivationCheckpointHook(['alias']).bind(model)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        model(torch.ones(3, requires_grad=True), torch.ones(3)).sum().backward()


@pytest.mark.parametrize('mode', ['no_grad', 'eval'])
def test_without_gradients_nothing_is_patched(mode, calls):
    run = Run(BP)
    run.model.train(mode != 'eval')
    with torch.set_grad_enabled(mode != 'no_grad'):
        run.losses()
    assert [is_patched for _, is_patched in calls] == [False] * LEVELS


@pytest.mark.parametrize(
    ('entry', 'similar'),
    [
        ('nek', "'neck'"),
        ('bbox_hed.forward_single', "'bbox_head.forward_single'"),
        ('bbox_head.forward_singel', "'bbox_head.forward_single'"),
        ('backbone.auxiliaries.*.heads.bbox_hed.forward_single', 'bbox_head.forward_single'),
        ('bbox_head.cls_convs', 'bbox_head.cls_convs.0'),  # a list of modules has no forward
        ('loss', "Its parts: ['data_preprocessor', 'backbone', 'neck', 'bbox_head']"),
        ('neck.parameters', 'Similar'),
    ],
)
def test_an_entry_that_means_nothing_raises_with_what_is_legal(entry, similar):
    model = build(retinanet(4, auxiliary=PRIVATE))
    with pytest.raises(
        ValueError, match=f'ActivationCheckpointHook.functions: {re.escape(repr(entry))} is neither'
    ) as error:
        ActivationCheckpointHook(['neck', entry]).before_train(fake_runner(model=model))
    assert similar in str(error.value)
    assert not model._forward_pre_hooks


@pytest.mark.parametrize('entry', ['backbone', 'back*'])
def test_modules_trained_by_local_losses_cannot_be_recomputed(entry):
    with pytest.raises(
        ValueError, match=f'ActivationCheckpointHook.functions: {re.escape(repr(entry))} means backbone, which'
    ):
        ActivationCheckpointHook([entry]).bind(build(retinanet(4)))
    ActivationCheckpointHook([entry]).bind(build(retinanet(1)))


@pytest.mark.parametrize('functions', ['neck', [], None, [3], dict(neck=1)])
def test_functions_must_be_a_list_of_names(functions):
    with pytest.raises(ValueError, match=re.escape(f'ActivationCheckpointHook.functions={functions!r} must be a list')):
        HOOKS.build(dict(type='man_mm.ActivationCheckpointHook', functions=functions))


def test_wildcards_stand_for_parts_of_a_path(calls):
    run = Run(['backbone.auxiliaries.[01].heads.b?ox_head.forward_single'], 4, PRIVATE)
    run.step()
    own = [auxiliary.heads['bbox_head'] for auxiliary in run.model.backbone.auxiliaries]
    counts = [sum(head is called for called, _ in calls) for head in (*own, run.model.bbox_head)]
    assert counts == [2 * LEVELS, 2 * LEVELS, LEVELS, LEVELS]


def test_a_run_with_bank_and_average_ends_in_the_same_weights(tmp_path):
    root = make_coco(tmp_path / 'coco', num_images=4)
    functions = ['neck', 'bbox_head.forward_single', f'{HEADS}.forward_single', f'{HEADS}.loss']
    hook = dict(type='man_mm.ActivationCheckpointHook', functions=functions)
    ema = dict(type='EMAHook', momentum=0.1)
    weights = []
    for name, hooks in (('plain', [ema]), ('ours', [hook, ema])):
        run = runner(run_config(root, tmp_path / name, retinanet(4, auxiliary=PRIVATE), hooks=hooks, epochs=1))
        run.train()
        assert run.iter == 2 and not patched(run.model)
        weights.append(torch.load(tmp_path / name / 'epoch_1.pth'))
    for key in ('state_dict', 'ema_state_dict'):
        assert_equal(weights[1][key], weights[0][key])


def test_functions_that_training_does_not_call_are_one_warning(monkeypatch):
    said = []
    monkeypatch.setattr('man_mm.engine.activation_checkpoint.print_log', lambda message, **_: said.append(message))
    run = Run(['neck', 'bbox_head.predict', 'bbox_head.forward_single', 'neck*.conv'])
    for i in range(2):
        run.step()
        run.hook.after_train_iter(fake_runner(iter=i), i)
    assert said == [
        "ActivationCheckpointHook.functions: ['bbox_head.predict'] save nothing so far: "
        'the first iteration called none of them.'
    ]
