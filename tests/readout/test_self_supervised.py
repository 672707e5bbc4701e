"""Self-supervised models train every module by their own loss on views, or on masked patches, of the images."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmpretrain.structures import DataSample

from man_mm import localize
from man_mm.analysis.audit import audit_step
from man_mm.analysis.batches import synthetic_batch
from man_mm.analysis.step import TrainStep
from man_mm.plain_checkpoint import plain_weights

from ..helpers.steps import SGD

SIZE = 32
NET = dict(type='man_mm.CIFARResNet', depth=14, base_channels=4, norm_eval=True)
PROJECTOR = dict(type='NonLinearNeck', in_channels=16, hid_channels=8, out_channels=4, with_avg_pool=True)
PREDICTOR = dict(type='NonLinearNeck', in_channels=4, hid_channels=8, out_channels=4, with_avg_pool=False)
LATENT = dict(type='LatentPredictHead', loss=dict(type='CosineSimilarityLoss'), predictor=PREDICTOR)
CORRELATION = dict(type='LatentCrossCorrelationHead', in_channels=4, loss=dict(type='CrossCorrelationLoss'))
TINY_VIT = dict(num_layers=4, num_heads=2, embed_dims=16, feedforward_channels=32)
DECODER = dict(
    type='MAEPretrainDecoder', patch_size=8, num_patches=16, embed_dim=16, decoder_embed_dim=16, decoder_depth=1
)
PIXELS = dict(
    type='MAEPretrainHead', norm_pix=True, patch_size=8, loss=dict(type='PixelReconstructionLoss', criterion='L2')
)
MODELS = {
    'SimCLR': dict(
        neck=PROJECTOR, head=dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss'), temperature=0.1)
    ),
    'SimSiam': dict(neck=PROJECTOR, head=LATENT),
    'BarlowTwins': dict(neck=PROJECTOR, head=CORRELATION),
    'BYOL': dict(neck=PROJECTOR, head=LATENT),
    'MoCoV3': dict(
        neck=PROJECTOR,
        head=dict(type='MoCoV3Head', predictor=PREDICTOR, loss=dict(type='CrossEntropyLoss'), temperature=1.0),
    ),
    'MAE': dict(
        backbone=dict(type='MAEViT', arch=TINY_VIT, img_size=SIZE, patch_size=8),
        neck={**DECODER, 'decoder_num_heads': 2},
        head=PIXELS,
    ),
}
MOMENTUM = {'BYOL': 'target_net', 'MoCoV3': 'momentum_encoder'}


def plain_config(name):
    model = dict(type=name, data_preprocessor=dict(type='SelfSupDataPreprocessor'), backbone=NET)
    optim_wrapper = dict(type='OptimWrapper', optimizer=SGD)
    return Config(
        copy.deepcopy(dict(default_scope='mmpretrain', model={**model, **MODELS[name]}, optim_wrapper=optim_wrapper))
    )


def batch(name, num=3):
    generator = torch.Generator().manual_seed(0)
    views = [torch.randint(0, 256, (num, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8) for _ in range(2)]
    return dict(inputs=views[0] if name == 'MAE' else views, data_samples=[DataSample() for _ in range(num)])


def main_loss(step, data):
    """The main loss of a training step; what is drawn at random is drawn alike."""
    torch.manual_seed(1)
    losses = step.model(**step.model.data_preprocessor(copy.deepcopy(data), True), mode='loss')
    step.optim_wrapper.zero_grad()
    return step.model.parse_losses(losses)[0]


@pytest.fixture(autouse=True)
def length():
    """What a runner tells, by which momentum grows."""
    hub = MessageHub.get_current_instance()
    for key, value in dict(iter=0, max_iters=10).items():
        hub.update_info(key, value)
    yield
    for key in ('iter', 'max_iters'):
        hub.pop_info(key)


def pair(name, **settings):
    """The step of the plain config, and that of the localized one, from the same weights."""
    plain = TrainStep(plain_config(name))
    local = TrainStep(localize(plain_config(name), 3, **settings))
    local.model.load_state_dict(plain.model.state_dict(), strict=False)
    return plain, local


@pytest.mark.parametrize('name', MODELS)
def test_the_main_loss_is_upstreams_and_every_module_is_trained_by_its_own_loss_alone(name):
    plain, local = pair(name)
    assert torch.equal(main_loss(local, batch(name)), main_loss(plain, batch(name)))
    rows = audit_step(local, batch(name))
    assert not [row for row in rows if row.foreign or row.untrained]
    assert sum('auxiliary' in row.part for row in rows) == 2


@pytest.mark.parametrize('name', MODELS)
def test_the_plain_model_takes_the_weights(name):
    plain, local = pair(name)
    local(batch(name))
    weights = plain_weights(local.model.state_dict())
    assert weights.keys() == plain.model.state_dict().keys()
    plain.model.load_state_dict(weights)


@pytest.mark.parametrize('name', MOMENTUM)
def test_a_momentum_copy_moves_and_runs_once_a_batch(name):
    plain, local = pair(name)
    copies = [getattr(step.model, MOMENTUM[name]) for step in (plain, local)]
    runs = []
    copies[1].module[0].conv1.register_forward_hook(lambda *_: runs.append(1))
    before = [p.clone() for p in copies[1].parameters()]
    for _ in range(2):  # the first update copies the weights, the second one averages
        main_loss(plain, batch(name))
        main_loss(local, batch(name))
        for step in (plain, local):
            with torch.no_grad():
                step.model.backbone.conv1.weight.add_(1)
    assert len(runs) == 2 * 2 and copies[0].steps == copies[1].steps == 2
    theirs, own = (dict(part.module[0].named_parameters()) for part in copies)
    names = {name: name.replace('backbone.', '') for name in own if 'auxiliaries' not in name}
    assert {*names.values()} == theirs.keys()
    assert all(torch.equal(own[name], theirs[plain_name]) for name, plain_name in names.items())
    assert not all(map(torch.equal, before, copies[1].parameters()))


def test_two_views_go_through_the_backbone_at_once():
    _, local = pair('SimSiam')
    shapes = []
    local.model.backbone.conv1.register_forward_hook(lambda _, args, __: shapes.append(tuple(args[0].shape)))
    local(batch('SimSiam'))
    assert shapes[0] == (6, 3, SIZE, SIZE)


def test_what_is_no_pair_of_views_is_refused_and_a_third_one_is_passed_over():
    _, local = pair('SimSiam')
    views = batch('SimSiam')
    with pytest.raises(ValueError, match='SimSiam learns from two views of every image, but the batch has 1'):
        local({**views, 'inputs': views['inputs'][:1]})
    two = main_loss(local, views)
    assert torch.equal(main_loss(local, {**views, 'inputs': [*views['inputs'], views['inputs'][0][:1]]}), two)


def test_copies_of_auxiliaries_in_a_momentum_copy_are_not_averaged():
    _, local = pair('BYOL')
    averaged = local.model.target_net.avg_parameters
    assert averaged and not [name for name in averaged if 'auxiliaries' in name]


def test_a_batch_without_data_is_refused_for_views_and_made_for_patches():
    with pytest.raises(ValueError, match=r"model.type='BYOL' learns from views of an image"):
        synthetic_batch(plain_config('BYOL'), 2, (SIZE, SIZE))
    assert synthetic_batch(plain_config('MAE'), 2, (SIZE, SIZE))['inputs'][0].shape[-1] == SIZE


def test_rules_for_classes_are_refused():
    with pytest.raises(ValueError, match=r'^DGL is for classification, but BarlowTwins is self-supervised'):
        localize(plain_config('BarlowTwins'), 3, auxiliary=dict(type='man_mm.DGL'))


def test_lean_serves_them():
    _, local = pair('BarlowTwins', lean=True)
    assert not [row for row in audit_step(local, batch('BarlowTwins')) if row.foreign or row.untrained]
