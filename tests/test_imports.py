"""Imports run one way, and the package itself needs torch and mmengine only."""

import ast
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'man_mm'
FILES = sorted(PACKAGE.rglob('*.py'))
HOSTS = {'mmcv', *(file.stem for file in (PACKAGE / 'readout').glob('mm*.py'))}


def imported(file):
    """Dotted names of all modules and names that a file imports, at any depth, as absolute ones."""
    package = ('man_mm', *file.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = '.'.join((*base, *([node.module] if node.module else [])))
            yield from (f'{stem}.{alias.name}' for alias in node.names)


def files_of(*parts):
    found = [file for file in FILES if file.relative_to(PACKAGE).parts[0] in parts]
    assert found
    return found


@pytest.mark.parametrize(
    'file',
    files_of(
        'local',
        'engine',
        'runs',
        'auxiliary',
        'readout',
        'registry.py',
        'keys.py',
        'versions.py',
        'config.py',
        '__init__.py',
    ),
    ids=str,
)
def test_the_mechanism_imports_no_host_library(file):
    assert not [name for name in imported(file) if name.split('.')[0] in HOSTS]


def module_of(file):
    """Its dotted name; a package's is that of its `__init__.py`."""
    return '.'.join(('man_mm', *file.relative_to(PACKAGE).with_suffix('').parts)).removesuffix('.__init__')


def arrows():
    """The modules of the package, and those that each imports, at any depth."""
    modules = {module_of(file): file for file in FILES}
    found = {}
    for module, file in modules.items():
        longest = (name if name in modules else name.rpartition('.')[0] for name in imported(file))
        found[module] = {name for name in longest if name in modules} - {module}
    return found


def room_of(module):
    return f'{module}.'.split('.')[1] or 'man_mm'


def test_no_file_of_the_package_imports_itself_by_way_of_others():
    graph = arrows()
    assert sum(map(len, graph.values())) > len(graph)
    TopologicalSorter(graph).prepare()  # names the circle if there is one


def test_rooms_import_what_the_documentation_says_and_nothing_above_them():
    table = (PACKAGE.parent / 'docs/code.md').read_text().partition('| room | imports |')[2].partition('\n\n')[0]
    rows = re.findall(r'^\| `(\w+)` \|(.*)\|$', table, re.MULTILINE)
    written = {room: set(re.findall(r'`(\w+)`', imports)) for room, imports in rows}
    found = {room_of(module): set() for module in arrows()}
    for module, others in arrows().items():
        found[room_of(module)] |= {room_of(other) for other in others} - {room_of(module)}
    assert written == found
    rooms = [room for room, _ in rows]
    assert all(rooms.index(other) > rooms.index(room) for room in rooms for other in written[room])


@pytest.mark.parametrize('file', files_of('local'), ids=lambda file: file.name)
def test_local_imports_nothing_that_builds_on_it(file):
    upper = tuple(f'man_mm.{part}' for part in ('auxiliary', 'readout', 'engine', 'runs', 'analysis', 'datasets'))
    assert not [name for name in imported(file) if name.startswith(upper)]


def test_what_hardens_any_run_knows_nothing_of_local_learning():
    names = {name for file in files_of('runs') for name in imported(file) if name.startswith('man_mm.')}
    assert names and all(
        name.startswith(('man_mm.registry.', 'man_mm.keys.', 'man_mm.versions.', 'man_mm.runs.')) for name in names
    )


def test_keys_registries_and_versions_know_no_other_part():
    names = [name for file in files_of('keys.py', 'registry.py', 'versions.py') for name in imported(file)]
    assert names and not [name for name in names if name.startswith('man_mm')]


@pytest.mark.parametrize(
    ('part', 'others'),
    [
        ('auxiliary', ('readout', 'engine', 'analysis')),
        ('readout', ('auxiliary', 'engine')),
        ('engine', ('auxiliary', 'analysis', 'runs')),
    ],
)
def test_parts_above_local_know_no_more_than_they_need(part, others):
    names = {name for file in files_of(part) for name in imported(file)}
    assert any(name.startswith('man_mm.') for name in names)
    assert not [name for name in names if name.startswith(tuple(f'man_mm.{other}' for other in others))]


def is_backward_of_a_tensor(node):
    """`step.backward` hands losses on: it is the optim wrapper's `local_backward`."""
    return isinstance(node, ast.Attribute) and node.attr == 'backward' and getattr(node.value, 'id', None) != 'step'


def test_backward_is_called_in_the_optim_wrapper_only():
    calls = {
        str(file.relative_to(PACKAGE))
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if is_backward_of_a_tensor(node)
    }
    assert calls == {'engine/optim_wrapper.py'}


FRESH = """
import sys
import man_mm, man_mm.local, man_mm.auxiliary, man_mm.readout, man_mm.engine, man_mm.models, man_mm.datasets
print(*sorted({name.split('.')[0] for name in sys.modules}))
from mmcv.ops.roi_align import RoIAlignFunction
print(hasattr(RoIAlignFunction.forward, '__wrapped__'))
"""


@pytest.fixture(scope='module')
def fresh():
    """What a new interpreter loads with the package, and whether mmcv, imported after it, is patched."""
    env = {**os.environ, 'PYTHONPATH': str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, '-c', FRESH], env=env, capture_output=True, text=True, check=True)
    loaded, is_patched = done.stdout.splitlines()
    return set(loaded.split()), is_patched


def test_importing_the_package_loads_no_host_library(fresh):
    loaded, _ = fresh
    assert 'man_mm' in loaded and 'torch' in loaded
    assert not loaded & HOSTS


def test_mmcv_imported_after_man_mm_is_patched_too(fresh):
    loaded, is_patched = fresh
    assert 'mmcv' not in loaded and is_patched == 'True'


def test_the_text_of_the_package_is_ascii():
    assert all(file.read_text().isascii() for file in FILES)
