"""`local_learning` in a config file stands for the four plain keys, and keeps what the base has."""

import copy
import pickle
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.config.utils import ConfigParsingError

from man_mm.config import local_learning

from .helpers.detection import retinanet
from .helpers.runs import make_coco, run_config, runner, write_config
from .helpers.training import assert_equal

ROOT = Path(__file__).parents[1]
CALL = """
from man_mm.config import local_learning
model, optim_wrapper, custom_hooks, find_unused_parameters = local_learning(
    _base_, num_modules={modules}, {options}auxiliary=dict({auxiliary}))
"""
KEYS = """
model = dict({name}=dict(
    _delete_=True, type='man_mm.LocalBackbone', backbone={{{{_base_.model.{name}}}}}, num_modules={modules},
    {options}auxiliary=dict({plain})))
optim_wrapper = dict(type='man_mm.LocalOptimWrapper')
custom_hooks = [dict(type='man_mm.FeatureBankHook')]
find_unused_parameters = True
"""
HOSTS = {
    'detector': dict(
        base='mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
        auxiliary="type='man_mm.SLM', neck=_base_.model.neck",
        plain="type='man_mm.SLM', neck={{_base_.model.neck}}",
    ),
    'classifier': dict(
        base='mmpretrain::resnet/resnet50_8xb32_in1k.py',
        auxiliary="type='man_mm.SLM', head='private'",
        options='probe_size=(224, 224), ',
    ),
    'super-resolution': dict(base=str(ROOT / 'configs/bp/edsr_x2_bp_div2k.py'), auxiliary="type='man_mm.SLM'"),
}
BASE = dict(
    model=retinanet(None),
    custom_hooks=[dict(type='EMAHook')],
    optim_wrapper=dict(
        type='AmpOptimWrapper',
        dtype='bfloat16',
        accumulative_counts=2,
        clip_grad=dict(max_norm=35),
        paramwise_cfg=dict(bias_lr_mult=2.0),
        optimizer=dict(type='SGD', lr=0.01),
    ),
)
SLM = "type='man_mm.SLM', neck=_base_.model.neck"


@pytest.fixture
def short(tmp_path):
    """Write a base and a config of the short form over it; returns the latter's path."""

    def write(base=BASE, auxiliary=SLM, options='', rest=''):
        write_config(base, tmp_path / 'base.py')
        text = CALL.format(modules=4, options=options, auxiliary=auxiliary)
        (tmp_path / 'short.py').write_text(f"_base_ = './base.py'\n{text}{rest}")
        return tmp_path / 'short.py'

    return write


@cache
def whole(host, form):
    """A config over a host library's own, in either form."""
    spec = {'modules': 4, 'options': '', 'plain': HOSTS[host]['auxiliary'], **HOSTS[host]}
    name = 'generator' if host == 'super-resolution' else 'backbone'
    text = f'_base_ = {spec["base"]!r}\n' + dict(short=CALL, plain=KEYS)[form].format(name=name, **spec)
    return Config.fromstring(text, '.py')


@pytest.mark.parametrize('host', HOSTS)
def test_it_stands_for_the_four_plain_keys(host):
    assert whole(host, 'short').to_dict() == whole(host, 'plain').to_dict()


def test_what_the_base_has_stays(short):
    cfg, base = Config.fromfile(short()), Config(BASE)
    assert cfg.custom_hooks == [dict(type='EMAHook'), dict(type='man_mm.FeatureBankHook')]
    assert cfg.optim_wrapper == {**base.optim_wrapper, 'type': 'man_mm.LocalAmpOptimWrapper'}
    without = dict(backbone=None)
    assert {**cfg.model, **without} == {**base.model, **without}
    assert cfg.model.backbone.backbone == base.model.backbone


def test_command_line_reaches_modules_policy_and_switches(short):
    cfg = Config.fromfile(short(options="partition='uniform', "))
    changes = {'num_modules': 2, 'partition': 'memory', 'bank': False, 'auxiliary.head': 'private'}
    cfg.merge_from_dict({f'model.backbone.{key}': value for key, value in changes.items()})
    backbone = cfg.model.backbone
    assert (backbone.num_modules, backbone.partition, backbone.bank) == (2, 'memory', False)
    assert backbone.auxiliary.head == 'private' and backbone.auxiliary.type == 'man_mm.SLM'


def test_necks_of_model_and_auxiliary_are_objects_of_their_own(short):
    cfg = Config.fromfile(short())
    cfg.model.neck.num_outs = 1
    assert cfg.model.backbone.auxiliary.neck.num_outs == BASE['model']['neck']['num_outs'] != 1


def test_the_file_may_change_what_comes_back(short):
    rest = "optim_wrapper.update(eager_step=True)\ncustom_hooks[-1].update(log='total')\n"
    cfg = Config.fromfile(short(rest=rest))
    assert cfg.optim_wrapper.eager_step and cfg.optim_wrapper.accumulative_counts == 2
    assert cfg.custom_hooks[-1] == dict(type='man_mm.FeatureBankHook', log='total')


@pytest.mark.parametrize('host', HOSTS)
def test_it_can_be_dumped_copied_and_pickled(host, tmp_path):
    cfg = whole(host, 'short')
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()
    for again in (copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg))):
        assert again.to_dict() == cfg.to_dict()


@pytest.mark.parametrize('base', ['short.py', 'man_mm::man/resnet32_man_k16_cifar10.py'])
def test_other_configs_inherit_it_and_ones_that_inherit_it(base, short, tmp_path):
    given = Config.fromfile(short()) if base == 'short.py' else Config.fromfile(ROOT / 'configs' / base[8:])
    (tmp_path / 'child.py').write_text(f'_base_ = {base!r}\nmodel = dict(backbone=dict(num_modules=2))\n')
    (tmp_path / 'grandchild.py').write_text("_base_ = 'child.py'\nmodel = dict(backbone=dict(bank=False))\n")
    cfg = Config.fromfile(tmp_path / 'grandchild.py')
    assert (cfg.model.backbone.pop('num_modules'), cfg.model.backbone.pop('bank')) == (2, False)
    given.model.backbone.pop('num_modules')
    assert cfg.to_dict() == given.to_dict()


def test_a_run_is_resumed_from_the_config_that_it_dumped(short, tmp_path):
    base = run_config(make_coco(tmp_path / 'coco'), tmp_path / 'unbroken', model=retinanet(None))
    base.update(custom_hooks=[dict(type='man_mm.EpochSeedHook')])
    base['optim_wrapper'].update(type='OptimWrapper')
    runner(Config.fromfile(short(base))).train()
    (dumped,) = (tmp_path / 'unbroken').glob('*.py')
    cfg = Config.fromfile(dumped)
    cfg.merge_from_dict(dict(resume=True, load_from=str(tmp_path / 'unbroken/epoch_1.pth'), work_dir=str(tmp_path)))
    runner(cfg).train()
    weights = [torch.load(folder / 'epoch_2.pth')['state_dict'] for folder in (tmp_path / 'unbroken', tmp_path)]
    assert any('auxiliaries' in key for key in weights[0])
    assert_equal(*weights)


ERRORS = {
    'no model': (dict(train_cfg=None), "the base, with keys ['train_cfg'], has neither model.backbone nor"),
    'no backbone': (dict(model=dict(type='RetinaNet')), 'has neither model.backbone nor model.generator'),
    'local already': (dict(model=retinanet(4)), "model.backbone.type='man_mm.LocalBackbone'"),
    'other wrapper': (dict(BASE, optim_wrapper=dict(type='ApexOptimWrapper')), "optim_wrapper.type='ApexOptimWrapper'"),
}


@pytest.mark.parametrize('case', ERRORS)
def test_a_base_that_does_not_fit_is_named(case):
    base, message = ERRORS[case]
    given = copy.deepcopy(base)
    with pytest.raises(ValueError) as error:
        local_learning(Config(base), num_modules=4, auxiliary=dict(type='man_mm.SLM'))
    assert message in str(error.value)
    assert base == given


def test_an_import_before_the_base_is_refused_by_the_config_reader(tmp_path):
    write_config(BASE, tmp_path / 'base.py')
    text = CALL.format(modules=4, options='', auxiliary=SLM)
    (tmp_path / 'wrong.py').write_text(f"{text.splitlines()[1]}\n_base_ = './base.py'\n")
    with pytest.raises(ConfigParsingError, match='must match the current configuration file type'):
        Config.fromfile(tmp_path / 'wrong.py')
