"""Heads of several tasks: a copy makes its losses by its own parts, and each part reads what its auxiliary makes."""

import pytest
from mmpretrain.structures import DataSample, MultiTaskDataSample

from ..helpers.classification import batch, classifier, make
from ..helpers.training import Trainer

pytestmark = pytest.mark.usefixtures('device')

TASKS = dict(colour=dict(type='LinearClsHead', num_classes=3), shape=dict(type='LinearClsHead', num_classes=2))
HEAD = dict(type='MultiTaskHead', in_channels=16, task_heads=TASKS)
PLAIN = dict(type='ClsDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3)


def trained(rule, **options):
    """A step on images of which one has no label of the second task."""
    run = Trainer(make(classifier(rule, model=dict(head=HEAD, data_preprocessor=PLAIN), **options)))
    data = batch()
    data['data_samples'] = [MultiTaskDataSample() for _ in data['inputs']]
    for i, sample in enumerate(data['data_samples']):
        for task in list(TASKS)[: 1 if i == 0 else 2]:
            sample.set_field(DataSample().set_gt_label(i % 2), task)
    run.step(data)
    return run


@pytest.mark.parametrize(
    ('rule', 'options'),
    [('man', {}), ('man', dict(bank_vectors=False)), ('dgl', {}), ('infopro', {}), ('auglocal', {})],
    ids=['man', 'man without vectors', 'dgl', 'infopro', 'auglocal'],
)
def test_every_task_of_every_copy_gets_its_gradient(rule, options):
    run = trained(rule, **options)
    assert run.gradients.keys() == {name for name, p in run.host.named_parameters() if p.requires_grad}
    heads = [auxiliary.heads['head'].task_heads for auxiliary in run.host.backbone.auxiliaries]
    assert len(heads) == 3 and all(
        own[task].loss is not run.host.head.task_heads[task].loss for own in heads for task in TASKS
    )


@pytest.mark.parametrize('rule', ['predsim', 'contrast'])
def test_a_rule_that_asks_for_the_class_of_an_image_is_refused(rule):
    with pytest.raises(ValueError, match='ImageClassifier has no class of an image to give'):
        trained(rule)
