"""Metafiles and model index are what their command writes."""

import runpy
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
metafiles = runpy.run_path(str(ROOT / 'benchmarks/make_metafiles.py'))['metafiles']


def test_the_metafiles_are_those_that_the_command_writes():
    texts = metafiles()
    assert set(texts) == {ROOT / 'model-index.yml', *ROOT.glob('configs/*/metafile.yml')}
    for path, text in texts.items():
        assert path.read_text() == text, f'{path} is not up to date: run python benchmarks/make_metafiles.py'


def test_numbers_of_a_config_that_is_gone_and_folders_without_a_paper_are_refused(tmp_path):
    (tmp_path / 'configs/man').mkdir(parents=True)
    shutil.copy(ROOT / 'configs/published.yml', tmp_path / 'configs')
    shutil.copy(ROOT / 'CITATION.cff', tmp_path)
    with pytest.raises(ValueError, match=r"has numbers of \['retinanet_r101_bp_coco', .*\], which are no configs"):
        metafiles(tmp_path)
    (tmp_path / 'configs/published.yml').write_text('The paper: {}\n')
    (tmp_path / 'configs/other').mkdir()
    (tmp_path / 'configs/other/x_other_k4_y.py').touch()
    with pytest.raises(ValueError, match=r"the papers of \['auglocal', .*\], but none for .* \['other'\]"):
        metafiles(tmp_path)
