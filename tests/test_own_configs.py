"""Configs of other projects inherit ours."""

import pytest
from mmengine.config import Config

import man_mm  # noqa: F401  (lets MMEngine find its configs)

from .helpers.commands import ROOT

CONFIGS = (
    'man/retinanet_r34_man_k17_coco.py',
    'man/resnet32_man_k4_cifar10.py',
    'dgl/edsr_x2_dgl_k4_div2k.py',
    'demo/retinanet_r18_man_k4_shapes.py',
)


def inherit(folder, base):
    (folder / 'config.py').write_text(f'_base_ = {base!r}\n')
    return Config.fromfile(folder / 'config.py')


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_that_is_inherited_by_the_name_of_the_package_is_the_same_as_by_its_path(name, tmp_path):
    assert inherit(tmp_path, f'man_mm::{name}').to_dict() == Config.fromfile(ROOT / 'configs' / name).to_dict()


def test_a_config_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"_base_='man_mm::man/retinanet.py': man_mm has no such config"):
        inherit(tmp_path, 'man_mm::man/retinanet.py')


def without_scopes(value):
    """A config as plain data, with the bare names of types, as both styles have them."""
    if isinstance(value, dict):
        types = {'type': name_of(value['type'])} if 'type' in value else {}
        return {**{key: without_scopes(item) for key, item in value.items() if key != '_scope_'}, **types}
    return [without_scopes(item) for item in value] if isinstance(value, (list, tuple)) else value


def name_of(kind):
    return (kind if isinstance(kind, str) else kind.__name__).split('.')[-1].removesuffix('Init')


def test_the_pure_python_model_is_the_one_of_the_config():
    new = Config.fromfile(ROOT / 'man_mm/configs/retinanet_r34_man_k17.py')
    old = Config.fromfile(ROOT / 'configs' / CONFIGS[0])
    for key in ('model', 'custom_hooks', 'find_unused_parameters'):
        assert without_scopes(new[key]) == without_scopes(old[key]), key
    assert name_of(new.optim_wrapper.type) == name_of(old.optim_wrapper.type)
