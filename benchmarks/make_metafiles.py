"""Write `configs/*/metafile.yml` and `model-index.yml` from the names of config files, `configs/published.yml`,
and the papers of CITATION.cff.

What MMEngine's `package::` configs and OpenMMLab's installer look for: run it after a config came, went or was renamed.
"""

import argparse
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
NOTE = """\
# Written by benchmarks/make_metafiles.py, from the names of the configs, configs/published.yml and CITATION.cff.
# "The paper" is what it reports, not a result of these configs.
"""


def metafiles(root: Path = ROOT) -> dict[Path, str]:
    """Texts of all metafiles below `root`, and of the index, by path.

    Raises:
        ValueError: If configs/published.yml names a config that is not there, or CITATION.cff no paper for a folder.
    """
    published = yaml.safe_load((root / 'configs/published.yml').read_text())
    configs = {path.stem: path for path in sorted(root.glob('configs/[!_]*/*.py')) if path.parent.name != 'demo'}
    folders = sorted({path.parent for path in configs.values()})
    unknown = sorted(set(published['The paper']) - set(configs))
    if unknown:
        raise ValueError(f'configs/published.yml has numbers of {unknown}, which are no configs.')
    papers = _papers(yaml.safe_load((root / 'CITATION.cff').read_text()))
    without = [folder.name for folder in folders if folder.name not in papers]
    if without:
        raise ValueError(
            f'CITATION.cff has the papers of {sorted(papers)}, but none for the folders of configs {without}: a '
            'reference whose notes are the name of the rule.'
        )
    texts = {
        folder / 'metafile.yml': _dump(_metafile(folder, papers[folder.name], published, root)) for folder in folders
    }
    index = {'Import': [str(path.relative_to(root)) for path in texts]}
    return {**texts, root / 'model-index.yml': _dump(index)}


def _papers(citation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What rules are called and where they were published, by the name of their folder."""
    cited = {'MAN': citation['preferred-citation'], **{work['notes']: work for work in citation['references']}}
    papers = {name: {'Paper': {'Title': work['title'], 'URL': work['url']}} for name, work in cited.items()}
    return {name.lower(): {'Name': name, **papers.get(name, {})} for name in ('BP', *papers)}


def _metafile(folder: Path, collection: dict[str, Any], published: dict[str, Any], root: Path) -> dict[str, Any]:
    models = []
    for path in sorted(folder.glob('*.py')):
        model = {'Name': path.stem, 'In Collection': collection['Name'], 'Config': str(path.relative_to(root))}
        if path.stem in published['The paper']:
            model['Metadata'] = _metadata(dict(published['The paper'][path.stem]), published['Classes'])
        models.append(model)
    readme = {'README': str((folder / 'README.md').relative_to(root))}
    return {'Collections': [{**collection, **readme}], 'Models': models}


def _metadata(reported: dict[str, Any], classes: list[str]) -> dict[str, Any]:
    by_class = reported.pop('AP50 by class', None)
    metadata = {'Ours': 'not run', 'The paper': reported}
    if by_class is not None:
        metadata['The paper, AP50 by class'] = dict(zip(classes, by_class, strict=True))
    return metadata


def _dump(content: dict[str, Any]) -> str:
    return NOTE + yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)


if __name__ == '__main__':
    argparse.ArgumentParser(description=__doc__).parse_args()
    for path, text in metafiles().items():
        path.write_text(text)
