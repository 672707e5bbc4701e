"""A last batch of one image is refused before the first one trains, where an auxiliary cannot train on it."""

import pytest
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from torch.utils.data import DataLoader

from ..helpers.classification import classifier, make
from ..helpers.training import Trainer


def starts(rule, loader, max_iters=100, num_batches=None, **auxiliary):
    run = Trainer(make(classifier(rule, **auxiliary)))
    run.train_dataloader, run.max_iters = loader, max_iters
    run.cfg = Config(dict(train_dataloader=dict(num_batch_per_epoch=num_batches)))
    run.hook.before_train(run)
    return run


@pytest.mark.parametrize(('rule', 'options'), [('dgl', {}), ('auglocal', dict(depth=1)), ('contrast', {})])
def test_a_last_batch_of_one_image_is_refused_before_training(rule, options):
    with pytest.raises(ValueError, match=r'train_dataloader.batch_size=4: the last of 2 batches .* has 1 image'):
        starts(rule, DataLoader(range(5), batch_size=4), **options)


LOADERS = {
    'no rest': (DataLoader(range(8), batch_size=4), {}),
    'a rest of two': (DataLoader(range(6), batch_size=4), {}),
    'dropped': (DataLoader(range(5), batch_size=4, drop_last=True), {}),
    'endless': (DataLoader(range(5), batch_size=4, sampler=InfiniteSampler(range(5))), {}),
    'never reached': (DataLoader(range(5), batch_size=4), dict(max_iters=1)),
    'cut short': (DataLoader(range(5), batch_size=4), dict(num_batches=1)),
}


@pytest.mark.parametrize('name', LOADERS)
def test_other_batches_are_not(name):
    loader, options = LOADERS[name]
    assert starts('dgl', loader, **options).hook._backbone is not None


def test_nor_is_one_image_where_nothing_is_taken_over_the_batch():
    starts('man', DataLoader(range(5), batch_size=4))
