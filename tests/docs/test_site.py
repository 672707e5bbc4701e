"""The documentation names every switch, and its programs run. That it builds without a warning is for `make lint`."""

import ast
import re
from importlib import import_module

import pytest

from man_mm import auxiliary as rules
from man_mm import engine
from man_mm.keys import legal_keys
from man_mm.local import Auxiliary, LocalBackbone

from ..helpers.commands import ROOT, blocks

AUXILIARIES = [getattr(rules, name) for name in rules.__all__ if name != 'ClassifierAuxiliary']
SWITCHES = (ROOT / 'docs/switches.md').read_text()


def test_every_key_of_the_backbone_is_a_row_of_the_switches():
    rows = set(re.findall(r'`model\.backbone\.(\w+)', SWITCHES))
    assert legal_keys(LocalBackbone) - {'backbone', 'init_cfg'} <= rows


def test_everything_that_plugs_into_the_runner_is_named():
    assert [name for name in engine.__all__ if f'man_mm.{name}' not in SWITCHES] == []


@pytest.mark.parametrize('auxiliary', AUXILIARIES, ids=lambda cls: cls.__name__)
def test_every_option_of_a_rule_is_in_its_row(auxiliary):
    (row,) = re.findall(rf'^\| `man_mm\.{auxiliary.__name__}` \|.*$', SWITCHES, re.MULTILINE)
    options = set(re.findall(r'`(\w+)`', row.split('|')[4]))
    own = legal_keys(auxiliary) - set(auxiliary.given_keys)
    assert own - legal_keys(Auxiliary) <= options <= own


def test_pages_and_the_example_import_what_packages_export():
    programs = [
        block.text
        for block in blocks()
        if block.language == 'python' and block.page in ('docs/extend.md', 'docs/downstream.md')
    ]
    programs += [file.read_text() for file in ROOT.glob('projects/*/my_project/*.py')]
    statements = [node for text in programs for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    taken = [
        (node.module, alias.name)
        for node in statements
        for alias in node.names
        if f'{node.module}.'.startswith('man_mm.')
    ]
    assert {module for module, _ in taken} == {
        f'man_mm.{room}' for room in ('local', 'auxiliary', 'readout', 'engine', 'keys')
    }
    assert [name for module, name in taken if name not in import_module(module).__all__] == []


def test_the_program_of_the_page_on_extending_runs(capsys):
    namespace = {'__name__': 'extension'}
    for block in blocks():
        if block.page == 'docs/extend.md' and block.language == 'python':
            exec(compile('\n' * (block.line - 1) + block.text, block.page, 'exec'), namespace)
    assert "'module 0'" in capsys.readouterr().out
    stepped = namespace['optim_wrapper'].optimizer.state
    assert set(stepped) == set(namespace['model'].parameters())
