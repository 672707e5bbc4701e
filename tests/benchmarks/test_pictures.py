"""The pictures of trained models and runs: CKA, probes, curves, detections, the report.

They run in this process, on a classifier with four images a file, and on one tiny run of a detector.
"""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pytest
import torch
from mmengine.config import Config

from man_mm.analysis.runs import Run
from man_mm.analysis.trained import load_trained

from ..datasets.test_classification import pictures, write_cifar10
from ..helpers import runs

CONFIG = Path(__file__).parents[2] / 'configs/bp/resnet32_bp_cifar10.py'


@pytest.fixture(scope='module')
def options(tmp_path_factory):
    root = tmp_path_factory.mktemp('cifar10')
    write_cifar10(root, pictures(4, 32), [0, 1, 2, 3])
    settings = {'data_root': f'{root}/', 'check_md5': False}
    loaders = ('train_dataloader', 'test_dataloader')
    data = [f'{loader}.dataset.{key}={value}' for loader in loaders for key, value in settings.items()]
    return [*data, 'model.backbone.depth=8']


def is_drawn(path):
    """Whether it is a picture with something on it, in colours too."""
    pixels = matplotlib.image.imread(path)[..., :3]
    return pixels.std() > 0.02 and (pixels.max(2) - pixels.min(2)).max() > 0.3


def test_cka_compares_the_reference_with_all_others_and_is_drawn(run, options, tmp_path, capsys):
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.depth = 8
    weights = load_trained(cfg, 'none').state_dict()
    torch.save(dict(state_dict=weights), tmp_path / 'same.pth')
    weights['backbone.layer3.0.conv1.weight'] = torch.ones_like(weights['backbone.layer3.0.conv1.weight'])
    torch.save(dict(state_dict=weights), tmp_path / 'other.pth')
    models = (CONFIG, 'none', CONFIG, 'same.pth', CONFIG, 'other.pth')
    switches = ('--images', 400, '--batch', 4, '--json', 'cka.json')
    run('benchmarks/pictures/cka.py', *models, '--names', 'BP', 'BP', 'DGL', *switches, '--cfg-options', *options)
    report = json.loads((tmp_path / 'cka.json').read_text())
    assert [(pair['first'], pair['second']) for pair in report['pairs']] == [(0, 1), (0, 2), (1, 2)]
    assert report['layers'] == ['stem', 'layer1.0', 'layer2.0', 'layer3.0']
    assert report['images'] < 400  # those that were there
    same, other, again = ([row[i] for i, row in enumerate(pair['cka'])] for pair in report['pairs'])
    assert same == [1] * 4 and other == again and other[:3] == [1] * 3 and other[3] < 1
    assert report['models'][2] == dict(name='DGL', config=CONFIG.name, checkpoint='other.pth')
    assert 'BP - DGL' in capsys.readouterr().out
    run('benchmarks/pictures/plot_layers.py', 'cka.json', 'cka.png')
    assert is_drawn(tmp_path / 'cka.png')


def test_models_without_a_checkpoint_or_that_do_not_fit_are_refused(run, options, tmp_path):
    with pytest.raises(SystemExit, match='2 pairs or more'):
        run('benchmarks/pictures/cka.py', CONFIG, 'none', CONFIG)
    torch.save(dict(state_dict=dict(other=torch.zeros(1))), tmp_path / 'other.pth')
    with pytest.raises(SystemExit, match='other'):
        run('benchmarks/pictures/cka.py', CONFIG, 'none', CONFIG, 'other.pth', '--cfg-options', *options)
    with pytest.raises(SystemExit, match='fewer images'):
        run('benchmarks/pictures/cka.py', CONFIG, 'none', CONFIG, 'none', '--images', 3, '--cfg-options', *options)


def test_probes_of_every_unit_are_written_and_drawn(run, options, tmp_path):
    switches = ('--images', 400, '--batch', 4, '--json', 'probe.json', '--out', 'probe.png')
    run(
        'benchmarks/pictures/linear_probes.py',
        CONFIG,
        'none',
        CONFIG,
        'none',
        '--names',
        'BP',
        'MAN',
        *switches,
        '--cfg-options',
        *options,
    )
    report = json.loads((tmp_path / 'probe.json').read_text())
    assert [model['name'] for model in report['models']] == ['BP', 'MAN']
    assert (report['images_train'], report['images_test']) == (20, 4)  # those that were there
    assert all(list(model['accuracy']) == report['layers'] for model in report['models'])
    assert all(0 <= score <= 100 for model in report['models'] for score in model['accuracy'].values())
    assert is_drawn(tmp_path / 'probe.png')


@pytest.fixture(scope='module')
def work_dirs(tmp_path_factory):
    """A run, and the same as if it were of another seed, and of another K."""
    root = tmp_path_factory.mktemp('runs')
    cfg = runs.run_config(
        runs.make_coco(root / 'coco'), root / 'man', wrapper=dict(clip_grad=dict(max_norm=1e9, per_module=True))
    )
    loader = cfg['train_dataloader']
    steps = loader['dataset']['pipeline']
    packs = dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
    testing = [steps[0], dict(type='Resize', scale=(64, 64)), steps[1], packs]
    cfg['test_dataloader'] = dict(loader, dataset=dict(loader['dataset'], pipeline=testing))
    runner = runs.runner({key: value for key, value in cfg.items() if key != 'test_dataloader'})
    runner.train()
    Config(cfg).dump(root / 'man.py')
    for name, old, new in (('seed1', 'seed=0', 'seed=1'), ('k2', 'num_modules=4', 'num_modules=2')):
        shutil.copytree(root / 'man', root / name)
        (config,) = (root / name).glob('*/vis_data/config.py')
        changed = config.read_text().replace(old, new)
        assert changed != config.read_text()
        config.write_text(changed)
        tested = root / name / '99991231_235959/vis_data/config.py'  # a test of its checkpoint, after it
        tested.parent.mkdir(parents=True)
        tested.write_text(f"{changed}\nload_from = '{name}.pth'\n")
    (scalars,) = (root / 'seed1').glob('*/vis_data/scalars.json')
    scalars.write_text(re.sub(r'"loss": [\d.]+', '"loss": 7.0', scalars.read_text()))
    return root


def test_local_losses_and_gradient_norms_of_a_run_are_drawn(run, work_dirs, tmp_path):
    run('benchmarks/pictures/plot_training.py', work_dirs / 'man', work_dirs / 'k2', 'training.png', '--smooth', 2)
    assert is_drawn(tmp_path / 'training.png')
    with pytest.raises(SystemExit, match='no run has logged'):
        run('benchmarks/pictures/plot_training.py', work_dirs / 'coco', 'training.png')


def test_norms_of_the_neck_and_of_the_head_have_lines_of_their_own(load):
    draw = load('benchmarks/pictures/plot_training.py')['draw']
    norms = {'local_00/grad_norm': 3.0, 'grad_norm': 5.0, 'grad_norm/bbox_head': 4.0, 'grad_norm/neck': 3.0}
    rows = [{'step': step, 'loss': 1.0, 'local_00/total': 2.0, **norms} for step in (1, 2, 3)]
    figure = draw([rows, [{'step': 1, 'loss': 1.0}]], ['MAN', 'BP'], smooth=9)  # more than there are rows
    labels = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert labels == ['module 0', 'bbox_head', 'neck']
    assert [line.get_ydata().tolist() for line in figure.axes[1].lines[:3]] == [[3.0], [4.0], [3.0]]


def test_detections_are_drawn_beside_the_truth(run, work_dirs, tmp_path):
    config, checkpoint = work_dirs / 'man.py', work_dirs / 'man/epoch_2.pth'
    run(
        'benchmarks/pictures/compare_detections.py',
        config,
        checkpoint,
        '--out',
        'found.png',
        '--images',
        1,
        '--score',
        0,
    )
    assert is_drawn(tmp_path / 'found.png')
    with pytest.raises(SystemExit, match='--images'):
        run('benchmarks/pictures/compare_detections.py', config, checkpoint, '--out', 'found.png', '--images', 99)


class Page(HTMLParser):
    """Reads a page, and sees to it that every tag is closed and nothing is loaded from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.words = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag not in ('script', 'link', 'iframe') and 'href' not in attrs
        if tag == 'img':
            assert attrs['src'].startswith('data:image/png;base64,') and attrs['alt']
            self.images.append(attrs['src'])
        elif tag != 'meta':
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += [data.strip()] if data.strip() else []


def test_the_report_is_one_page_that_tells_results_and_what_differs(run, work_dirs, tmp_path):
    folders = [work_dirs / name for name in ('man', 'seed1', 'k2')]
    picture = tmp_path / 'one_picture.png'
    matplotlib.image.imsave(picture, torch.rand(8, 8, 3).numpy())
    names = ('--names', 'K=4', 'K<2>')
    run(
        'benchmarks/pictures/report.py',
        *folders,
        '--out',
        'page.html',
        '--title',
        'A & B',
        *names,
        '--pictures',
        picture,
    )
    page = Page((tmp_path / 'page.html').read_text())
    assert len(page.images) == 3 and {'A & B', 'K<2>', 'one picture'} <= set(page.words)
    assert page.words.index('MiB at the peak') < page.words.index('Results')
    place = page.words.index('local.num_modules')
    assert page.words[place + 1 : place + 3] == ['4', '2']
    assert 'work_dir' not in page.words and 'randomness.seed' not in page.words
    assert any('\N{PLUS-MINUS SIGN}' in word for word in page.words)  # the two seeds of K=4
    with pytest.raises(SystemExit, match='3 names for 2 methods'):
        run('benchmarks/pictures/report.py', *folders, '--out', 'page.html', '--names', 'a', 'b', 'c')


def a_run(num_modules, ap, seconds, seed=0, **logged):
    cfg = dict(model=dict(backbone=dict(type='ResNet', depth=18)), randomness=dict(seed=seed))
    if num_modules > 1:
        cfg['model']['backbone'] = dict(
            type='man_mm.LocalBackbone', backbone=cfg['model']['backbone'], num_modules=num_modules
        )
    train = [dict(step=step, loss=1.0, time=seconds, **logged) for step in (1, 2, 3)]
    return Run('run', Config(cfg), train, [{'step': 1, 'coco/bbox_mAP': ap}])


@pytest.fixture
def opening(load):
    return load('benchmarks/pictures/_three_numbers.py')['opening']


def test_a_report_opens_with_accuracy_memory_and_time_beside_those_of_back_propagation(opening):
    bp, man = a_run(1, 0.30, 0.5, memory=1000), a_run(4, 0.27, 0.75, memory=400)
    man.train[1]['memory'] = 410  # MMEngine starts each line's peak anew
    first = opening({'MAN': [man, a_run(4, 0.29, 0.75, seed=1, memory=410)], 'BP': [bp]}, [])
    assert first.heading == ['coco/bbox_mAP', 'MiB at the peak', 'seconds an iteration']
    assert [(number.text, number.beside) for number in first.rows['MAN']] == [
        ('0.28 \N{PLUS-MINUS SIGN} 0.014', '0.02 below BP'),
        ('410 \N{PLUS-MINUS SIGN} 0', '0.41 x BP'),
        ('0.75 \N{PLUS-MINUS SIGN} 0', '1.50 x BP'),
    ]
    assert [number.beside for number in first.rows['BP']] == [''] * 3
    alone = opening({'MAN': [man]}, [])
    assert [number.beside for number in alone.rows['MAN']] == [''] * 3
    assert any('back-propagation' in note for note in alone.notes)


def test_the_peak_of_a_process_is_no_ratio_and_a_measured_step_goes_before_it(opening, tmp_path):
    methods = {'BP': [a_run(1, 0.3, 0.5, peak_rss_mib=1200)], 'MAN': [a_run(4, 0.3, 1.0, peak_rss_mib=1300)]}
    first = opening(methods, [])
    assert [(row[1].text, row[1].beside) for row in first.rows.values()] == [('1200', ''), ('1300', '')]
    assert first.rows['MAN'][0].beside == 'as BP' and 'libraries' in first.notes[0]
    rows = []
    for name, (run,) in methods.items():
        run.cfg.dump(tmp_path / f'{name}.py')
        rows.append(dict(config=str(tmp_path / f'{name}.py'), peak_mib=100 * len(name)))
    first = opening(methods, rows)
    assert [(row[1].text, row[1].beside) for row in first.rows.values()] == [('200', ''), ('300', '1.50 x BP')]
    first = opening(methods, [*rows, rows[0]])  # of two rows for one method none is taken
    assert first.rows['BP'][1].text == '1200'


def test_a_run_without_scores_or_memory_says_so(opening):
    first = opening({'BP': [Run('run', Config(), [dict(step=1, loss=1.0)], [])]}, [])
    assert first.heading[0] == 'no score yet'
    assert [number.text for number in first.rows['BP']] == ['-'] * 3 and 'not logged' in first.notes[0]
