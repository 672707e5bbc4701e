"""benchmarks/pictures/plot_memory.py: courses, peaks by kind, and what it refuses."""

import importlib
import json

import cv2
import numpy as np
import pytest

from man_mm.analysis.measure import POINTS
from man_mm.analysis.memory import KINDS

from ..helpers.detection import tiny_retinanet
from ..helpers.steps import step_config

PLOT = 'benchmarks/pictures/plot_memory.py'


def peaks(*names, modules=(1, 3, 5)):
    """Rows as measure.py writes them."""
    rows = []
    for i, (name, num_modules) in enumerate(zip(names, modules, strict=False)):
        parts = {f'{kind}_mib': 10.0 * (j + i + 1) for j, kind in enumerate(KINDS)}
        course = np.abs(np.sin(np.linspace(0, np.pi * num_modules, POINTS))) * sum(parts.values())
        borders = [dict(module=str(m), begins=m * POINTS // num_modules) for m in range(num_modules)]
        rows.append(
            dict(config=f'configs/{name}.py', batch=8, size=[64, 96], peak_mib=sum(parts.values()), **parts)
            | dict(modules=borders, timeline_mib=course.tolist())
        )
    return dict(device='cpu (estimate)', torch='2', rows=rows)


@pytest.fixture
def figure(monkeypatch):
    """The figure that was saved last."""
    saved = []
    figure_class = importlib.import_module('matplotlib.figure').Figure
    plain = figure_class.savefig
    monkeypatch.setattr(
        figure_class, 'savefig', lambda self, *args, **kw: (saved.append(self), plain(self, *args, **kw))
    )
    return lambda: saved[-1]


def test_a_picture_is_drawn_of_what_was_measured(run, tmp_path):
    for name, num_modules in (('bp', None), ('man', 3)):
        step_config(tiny_retinanet(num_modules)).dump(tmp_path / f'{name}.py')
    run('tools/analysis_tools/measure.py', 'bp.py', 'man.py', '--estimate', '--size', 64, '--json', 'out/rows.json')
    run(PLOT, 'out/rows.json', 'new/memory.png')
    height, width = cv2.imread(str(tmp_path / 'new/memory.png')).shape[:2]
    assert width > height > 400


def test_the_picture_shows_courses_borders_and_the_peaks_by_kind(run, tmp_path, figure):
    report = peaks('retinanet_r50_bp_coco', 'retinanet_r50_man_k3_coco', 'retinanet_r50_manlean_k5_coco')
    (tmp_path / 'rows.json').write_text(json.dumps(report))
    run(PLOT, 'rows.json', 'memory.png')
    course, peak = figure().axes
    names = ['bp', 'man k3', 'manlean k5']
    assert [text.get_text() for text in course.get_legend().get_texts()] == names
    drawn = {tuple(line.get_ydata()) for line in course.lines}
    assert drawn == {tuple(row['timeline_mib']) for row in report['rows']}
    ticks = next(lines for lines in course.collections if hasattr(lines, 'get_segments') and lines.get_segments())
    assert [segment[0][0] for segment in ticks.get_segments()] == [0.2, 0.4, 0.6, 0.8]
    assert 'modules of manlean k5' in course.get_xlabel()
    assert [label.get_text() for label in peak.get_yticklabels()] == names
    for bars, kind in zip(peak.containers, KINDS, strict=True):
        assert bars.get_label() == kind
        assert [bar.get_width() for bar in bars] == [row[f'{kind}_mib'] for row in report['rows']]
    ends = [bar.get_x() + bar.get_width() for bar in peak.containers[-1]]
    assert ends == pytest.approx([row['peak_mib'] for row in report['rows']])
    assert [text.get_text().strip() for text in peak.texts] == ['210', '270  (1.29 x)', '330  (1.57 x)']
    assert figure().get_suptitle() == 'One training step, 8 images of 96 x 64 px, cpu (estimate)'


def test_kinds_that_no_peak_has_are_left_out(run, tmp_path, figure):
    report = peaks('bp')
    for kind in ('auxiliary', 'bank'):
        report['rows'][0][f'{kind}_mib'] = 0.0
    report['rows'][0]['size'] = None
    (tmp_path / 'rows.json').write_text(json.dumps(report))
    run(PLOT, 'rows.json', 'memory.png')
    course, peak = figure().axes
    assert [bars.get_label() for bars in peak.containers] == ['weights', 'gradients', 'optimizer', 'activations']
    assert 'modules' not in course.get_xlabel() and '8 training images' in figure().get_suptitle()


def test_every_kind_has_a_colour(load):
    assert tuple(load('benchmarks/pictures/plot_memory.py')['KINDS']) == KINDS


@pytest.mark.parametrize(
    ('stems', 'expected'),
    [
        (['a_bp_x', 'a_man_k4_x'], ['bp', 'man k4']),
        (['a_bp_x'], ['a_bp_x']),
        (['a_x', 'a_man_x'], ['a_x', 'a_man_x']),
        (['a_bp_x', 'a_bp_x'], ['a_bp_x', 'a_bp_x']),
        (['yolov1_bp', 'fcos_man'], ['yolov1 bp', 'fcos man']),
    ],
)
def test_names_leave_out_what_all_share(load, stems, expected):
    assert load('benchmarks/pictures/style.py')['short_names'](stems) == expected


@pytest.mark.parametrize('report', [dict(rows=[]), {}, dict(rows=[dict(config='a.py', peak_mib=1.0)])], ids=str)
def test_a_file_without_a_course_is_refused(run, tmp_path, report):
    (tmp_path / 'rows.json').write_text(json.dumps(report))
    with pytest.raises(SystemExit, match=r'rows\.json holds no course of a step: write it with measure\.py --json'):
        run(PLOT, 'rows.json', 'memory.png')
    assert not (tmp_path / 'memory.png').exists()
