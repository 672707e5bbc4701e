"""One process over NCCL: synchronised batch norm and both ways of averaging give what a single process gives."""

import functools

import pytest
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel

from man_mm.engine import LocalDistributedDataParallel

from ..helpers.detection import build, retinanet
from ..helpers.training import Trainer

WRAPPERS = {
    'plain': lambda model: model,
    'at the end': functools.partial(MMDistributedDataParallel, find_unused_parameters=True, device_ids=[0]),
    'by module': functools.partial(LocalDistributedDataParallel, device_ids=[0]),
}


@pytest.fixture
def group(tmp_path):
    dist.init_process_group('nccl', init_method=f'file://{tmp_path}/group', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def losses(wrapper, norm, **options):
    backbone = dict(norm_cfg=dict(type=norm), norm_eval=False)
    run = Trainer(WRAPPERS[wrapper](build(retinanet(4, backbone, dict(head='private')))), **options)
    return [float(run.step()['loss'].detach()) for _ in range(3)]


@pytest.mark.parametrize('norm', ['BN', 'SyncBN'])
@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_one_process_of_a_group_is_a_single_process(group, wrapper, norm):
    assert losses(wrapper, norm) == pytest.approx(losses('plain', 'BN'), rel=1e-4)


def test_eager_steps_with_synchronised_batch_norm(group):
    assert losses('by module', 'SyncBN', eager_step=True) == pytest.approx(losses('plain', 'BN'), rel=1e-4)
