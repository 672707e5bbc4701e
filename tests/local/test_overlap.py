"""overlap=o: the last o units of a module are trained by the next one too."""

import pytest
import torch

from man_mm.analysis.structure import module_rows
from man_mm.engine.pipeline.checks import refuse_dependence
from man_mm.engine.setup_record import describe

from ..classification import batch as labelled
from ..classification import classifier, make
from ..models import batch, build, retinanet
from ..training import SavedTensors, SpyWrapper, Trainer, assert_equal, local_parameters, named, reached, trainer

PRIVATE = dict(head='private')
UNITS = ['stem', 'layer1.0', 'layer1.1', 'layer2.0', 'layer2.1', 'layer3.0', 'layer3.1', 'layer4.0', 'layer4.1']


def overlapping(overlap=1, num_modules=4, auxiliary=PRIVATE, **options):
    """A trainer of the tiny RetinaNet in whose blocks all gradients differ from zero."""
    keys = {key: options.pop(key) for key in ('partition', 'train_every', 'share') if key in options}
    net = dict(zero_init_residual=False)
    return trainer(num_modules, net, auxiliary, model_options=dict(overlap=overlap, **keys), **options)


def units(backbone, span):
    """Names of the trainable parameters of some units."""
    names = {p: name for name, p in backbone.named_parameters()}
    chosen = backbone.unrolled.units[slice(*span)]
    return {f'backbone.{names[p]}' for unit in chosen for p in unit.parameters(backbone.backbone) if p.requires_grad}


def of(run, names):
    return {name: run.gradients[name] for name in names}


@pytest.mark.parametrize(('num_modules', 'overlap'), [(2, 0), (2, 3), (4, 1), (4, 2), (9, 1)])
def test_a_loss_reaches_its_module_and_as_many_units_before_it(num_modules, overlap):
    model = build(retinanet(num_modules, auxiliary=PRIVATE, overlap=overlap))
    backbone, seen = model.backbone, []

    def before(loss, module):
        last = num_modules - 1
        module = last if module is None else module
        start, stop = backbone.partition.span(module)
        others = named(model, f'backbone.auxiliaries.{module}.') if module < last else named(model, 'neck', 'bbox_head')
        assert reached(loss, model) == units(backbone, (start - overlap * (module > 0), stop)) | others
        seen.append(module)

    Trainer(model, SpyWrapper, before=before).step()
    assert seen == [*range(num_modules)]


@pytest.mark.parametrize('overlap', [1, 2, 4])
def test_gradients_of_overlapped_units_are_the_sum_of_both_losses_and_others_stay(overlap):
    """The main loss' part is that of a run whose last module begins where the overlap does."""
    at, earlier = UNITS[3], UNITS[3 - overlap] if overlap < 4 else None
    run, plain = (overlapping(o, 2, partition=[at]) for o in (overlap, 0))
    main = overlapping(0, 2, partition=[earlier]) if earlier else trainer(1, dict(zero_init_residual=False))
    main.model.load_state_dict(run.model.state_dict(), strict=False)  # heads are drawn after auxiliaries
    for each in (run, plain, main):
        each.step()
    backbone = run.model.backbone
    both = units(backbone, (4 - overlap, 4))
    if earlier is None:  # back-propagation
        assert both == units(backbone, (0, 4))
    assert all(plain.gradients[name].any() and main.gradients[name].any() for name in both)
    summed = {name: plain.gradients[name] + main.gradients[name] for name in both}
    assert_equal(of(run, both), summed, rtol=1e-5, atol=1e-6)
    assert_equal(of(run, run.gradients.keys() - both), of(plain, plain.gradients.keys() - both))


@pytest.mark.parametrize('share', ['none', 'stage'])
def test_every_parameter_gets_its_last_gradient_from_one_module(share):
    """So eager steps and distributed training handle it once, when all of its gradient is there."""
    model = overlapping(1, 9, share=share).model
    found = [local_parameters(model, module) for module in range(9)]
    assert sum(map(len, found)) == len(set().union(*found))
    assert set().union(*found) == named(model, 'backbone')


@pytest.mark.parametrize(('num_modules', 'overlap', 'auxiliary'), [(4, 1, {}), (4, 2, PRIVATE), (9, 1, PRIVATE)])
def test_eager_steps_end_in_the_weights_of_ordinary_steps(num_modules, overlap, auxiliary):
    runs = [overlapping(overlap, num_modules, auxiliary, eager_step=eager) for eager in (False, True)]
    for i in range(3):
        logs = [run.step(batch(first=i)) for run in runs]
        assert logs[0] == logs[1]
    assert_equal(*(dict(run.model.state_dict()) for run in runs))


def test_losses_and_predictions_of_a_step_do_not_change():
    runs = [overlapping(overlap) for overlap in (0, 1)]
    logs = [run.step() for run in runs]
    assert logs[0] == logs[1] and logs[0]['loss'] > 0
    losses = [run.optim_wrapper.local_losses for run in runs]
    assert losses[0] == losses[1] and len(losses[0]) > 0


def test_units_of_an_idle_module_that_the_next_one_overlaps_with_train_by_that_alone():
    run = overlapping(1, train_every=2)
    run.step()
    run.step()  # modules 0 and 2 are idle
    backbone = run.model.backbone
    overlapped = [units(backbone, (stop - 1, stop)) for stop in backbone.partition.bounds[1:-1]]
    trained = {name for name in run.gradients if name.startswith('backbone.backbone.')}
    start, stop = backbone.partition.span(1)
    assert trained == overlapped[0] | units(backbone, (start, stop)) | overlapped[2] | units(backbone, (7, 9))


def test_what_is_kept_is_that_of_longer_modules_and_less_than_by_back_propagation():
    peaks = []
    for run in (trainer(1), overlapping(1, 9), overlapping(0, 9)):
        saved = SavedTensors(run.model)
        with saved.watch():
            run.step()
        peaks.append(saved.peak)
    assert peaks[0] > peaks[1] > peaks[2]


@pytest.mark.parametrize('num_modules', [4, 7])
def test_pooled_features_of_overlapped_units_are_those_of_the_bank(num_modules):
    """At K=7 some overlapped units end a stage, of which a classifier's SLM reads the mean over positions."""
    model = make(classifier('man', num_modules, backbone_overlap=1))
    run, joined = Trainer(model), []
    for auxiliary in model.backbone.auxiliaries:
        auxiliary.heads['head'].register_forward_pre_hook(lambda _, args: joined.append(args[0][-1].dim()))
    run.step(labelled())
    assert joined == [2] * (num_modules - 1)


@pytest.mark.parametrize('overlap', [-1, 1.0, True, '1'])
def test_what_is_no_number_of_units_is_refused(overlap):
    with pytest.raises(ValueError, match=f'overlap={overlap!r} must be an integer'):
        build(retinanet(4, overlap=overlap))


def test_an_overlap_longer_than_a_module_is_refused_and_the_module_named():
    with pytest.raises(ValueError, match=r'overlap=2: module 0 \(stem\) has 1 units'):
        build(retinanet(9, overlap=2))


def test_back_propagation_has_nothing_to_overlap_and_says_so(warnings):
    run = trainer(1, model_options=dict(overlap=1))
    assert sum('overlap=1 has nothing to act on' in text for text in warnings()) == 1
    run.step()
    plain = trainer(1)
    plain.step()
    assert_equal(run.gradients, plain.gradients)


def test_the_partition_tells_what_is_read_from_the_bank():
    """Module 3 of 9, layer2.0, begins at the end of layer1, whose output it makes itself."""
    rows = [module_rows(overlapping(o, 9).model.backbone)[3] for o in (0, 1)]
    assert [row.reads for row in rows] == [('layer1',), ()]
    assert rows[0].units == rows[1].units == ('layer2.0',)


def test_processes_that_differ_in_it_or_in_the_bank_are_told_apart():
    def record(**keys):
        run = trainer(4, model_options=keys)
        return describe(run.model, run.model.backbone, run.optim_wrapper)

    records = [record(), record(overlap=1), record(bank=False), record(bank_dtype='float16')]
    assert all(records.count(one) == 1 for one in records)


def test_a_pipeline_refuses_it():
    run = overlapping(1)
    with pytest.raises(ValueError, match=r'backbone\.overlap=1 with model_wrapper_cfg'):
        refuse_dependence(run.model, run.model.backbone, run.optim_wrapper)


def test_an_input_that_the_overlapped_unit_changed_is_named():
    model = build(retinanet(2, auxiliary=PRIVATE, overlap=1))
    first = model.backbone.backbone.get_submodule('layer2.0')
    first.register_forward_pre_hook(lambda _, args: torch.relu_(args[0]))
    with pytest.raises(RuntimeError, match=r'layer2\.0.*in place'):
        Trainer(model).step()
