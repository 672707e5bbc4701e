"""What the repository shows: links that lead somewhere, citation, model index, pre-commit hooks, licence."""

import re
from functools import cache
from pathlib import Path

import modelindex
import pytest
import yaml

from man_mm import __version__

from ..helpers.commands import PAGES, ROOT

REQUIRED = {'cff-version', 'message', 'title', 'authors'}
"""Keys that the Citation File Format, 1.2.0, asks for; of a reference it asks for the other three."""
TYPES = {'article', 'conference-paper', 'generic'}


def read(name):
    return yaml.safe_load((ROOT / name).read_text())


def anchors(page):
    """Names under which GitHub knows the headings of a page."""
    titles = re.findall(r'^#+ (.*)$', page.read_text(), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page):
    for target, anchor in re.findall(r'\]\(([^)#:]*)(?:#([^)]*))?\)', page.read_text()):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f'{target}#{anchor}'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_and_test_that_a_page_names_exists(page):
    spans = re.findall(r'`([^`\n]+)`', page.read_text())
    files = [
        span
        for span in spans
        if re.fullmatch(r'(benchmarks|configs|docs|man_mm|requirements|tests|tools)/[\w/.-]+', span)
    ]
    assert [file for file in files if not (ROOT / file).exists()] == []
    tests = {name for span in spans for name in re.findall(r'::(test_\w+)', span)}
    assert tests - set(all_tests()) == set()


@cache
def all_tests():
    return re.findall(r'^def (test_\w+)', '\n'.join(file.read_text() for file in ROOT.glob('tests/**/*.py')), re.M)


def test_the_citation_names_the_paper_and_every_rule():
    citation = read('CITATION.cff')
    assert set(citation) >= REQUIRED and citation['cff-version'] == '1.2.0' and citation['version'] == __version__
    cited = [citation['preferred-citation'], *citation['references']]
    for work in cited:
        assert work['type'] in TYPES and work['title'] and work['url'].startswith('https://')
        assert all(author.get('family-names') and author.get('given-names') for author in work['authors'])
    papers = {collection['Paper']['Title'] for path in imported() for collection in collections(path)}
    assert papers == {work['title'] for work in cited}  # none of a rule that has no configs


def imported():
    return read('model-index.yml')['Import']


def collections(path):
    return [collection for collection in read(path)['Collections'] if 'Paper' in collection]


def test_the_model_index_lists_every_config(monkeypatch):
    monkeypatch.chdir(ROOT)
    index = modelindex.load('model-index.yml')
    listed = [model.data['Config'] for model in index.models]
    assert sorted(listed) == sorted(str(p) for p in Path('configs').glob('[!_]*/*.py') if p.parent.name != 'demo')


def test_every_pre_commit_hook_runs_a_tool_of_the_set_up():
    (repository,) = read('.pre-commit-config.yaml')['repos']
    tests = (ROOT / 'requirements/tests.txt').read_text().split()
    assert repository['repo'] == 'local'
    for hook in repository['hooks']:
        program = hook['entry'].split()[0]
        assert hook['language'] == 'system' and program.startswith('.venv/bin/') and Path(program).name in tests


def test_the_licence_is_the_one_that_the_package_names():
    text = (ROOT / 'LICENSE').read_text()
    assert 'Apache License' in text and 'Version 2.0, January 2004' in text
    tomllib = pytest.importorskip('tomllib', reason='Python < 3.11 reads no TOML')
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    assert project['license'] == {'text': 'Apache-2.0'}
