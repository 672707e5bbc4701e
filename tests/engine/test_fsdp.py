"""Why FSDP2 is not offered: MMEngine's checkpoints hold the shards of one process (docs/distributed.md)."""

import pytest
import torch
import torch.distributed as dist
from mmengine.runner.checkpoint import get_state_dict, save_checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from ..helpers.detection import batch, build, retinanet
from ..helpers.processes import call_ranks, free_port
from ..helpers.training import Trainer, assert_equal

pytestmark = pytest.mark.cpu_only('two processes need two GPUs')

PRIVATE = dict(auxiliary=dict(head='private'))
SHARDED = 'backbone.layer1.0.conv1.weight'


def shard(model):
    """Shard every part of the backbone that a unit calls, and every auxiliary."""
    mesh, net = init_device_mesh('cpu', (2,)), model.backbone.backbone
    for part in (net.conv1, net.norm1, *net.layer1, *net.layer2, *net.layer3, *net.layer4):
        fully_shard(part, mesh=mesh)
    for auxiliary in model.backbone.auxiliaries:
        fully_shard(auxiliary, mesh=mesh)
        register_fsdp_forward_method(auxiliary, 'local_losses')


def work(rank, port, folder):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    model = build(retinanet(4, **PRIVATE))
    shard(model)
    run = Trainer(model)
    run.step(batch(1, first=rank))
    gradients = {name: grad.full_tensor() for name, grad in run.gradients.items() if name.startswith('backbone.')}
    if rank == 0:
        torch.save(gradients, f'{folder}/gradients.pth')
        save_checkpoint(dict(state_dict=get_state_dict(model)), f'{folder}/checkpoint.pth')
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.long
def test_gradients_of_sharded_modules_are_exact_and_upstreams_checkpoint_lacks_the_other_shards(tmp_path):
    call_ranks(work, free_port(), str(tmp_path))
    expected = Trainer(build(retinanet(4, **PRIVATE)))
    expected.step(batch(2))
    gradients = torch.load(tmp_path / 'gradients.pth')
    own = {name: grad for name, grad in expected.gradients.items() if name.startswith('backbone.')}
    assert_equal(gradients, own, rtol=1e-4, atol=1e-6)
    stored = torch.load(tmp_path / 'checkpoint.pth', weights_only=False)['state_dict'][SHARDED]
    assert stored.to_local().shape[0] == build(retinanet(4)).state_dict()[SHARDED].shape[0] // 2
