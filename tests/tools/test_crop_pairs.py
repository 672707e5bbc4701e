"""tools/dataset_tools/crop_pairs.py: crops stay pairs, an interrupted run goes on, bad pairs are named beforehand."""

import shutil
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ..helpers.processes import ROOT, python, run

TOOL = ROOT / 'tools/dataset_tools/crop_pairs.py'
HR, LR, ANNOTATION = 'DIV2K_train_HR', 'DIV2K_train_LR_bicubic', 'meta_info_DIV2K800sub_GT.txt'
SCALES = (2, 3, 4)
CORNERS = [(x, y) for y in (0, 24) for x in (0, 24, 36)]  # 72 x 60 px in crops of 36 px: the last column is flush
# Stands in for the tool: sends itself a signal instead of giving the n-th file its name.
DYING = """
import os, runpy, signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background passes on that it is ignored
replace, left, number = Path.replace, int(sys.argv[1]), int(sys.argv[2])
def dying(self, target):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), number)
    return replace(self, target)
Path.replace = dying
tool, sys.argv = sys.argv[3], sys.argv[3:]
runpy.run_path(tool, run_name='__main__')
"""


def crop(root, *arguments, size=36, step=24):
    return python('dataset_tools/crop_pairs.py', *words(root, size, step), *arguments)


def words(root, size=36, step=24):
    return (root, '--workers', 1, '--size', size, '--step', step)


def write(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture)


def write_pairs(root, scales=SCALES, stems=('0001', '0002')):
    """Noise of 72 x 60 px, and every second, third and fourth pixel of it, named as DIV2K does."""
    rng = np.random.default_rng(0)
    for stem in stems:
        picture = rng.integers(0, 256, (60, 72, 3), np.uint8)
        write(root / HR / f'{stem}.png', picture)
        for scale in scales:
            write(root / LR / f'X{scale}/{stem}x{scale}.png', picture[::scale, ::scale])


def content(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob('*') if path.is_file()}


@pytest.fixture(scope='module')
def cropped(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'DIV2K'
    write_pairs(root)
    result = crop(root)
    assert result.returncode == 0, result.stderr
    return root


@pytest.fixture
def pairs(tmp_path):
    write_pairs(tmp_path / 'pairs', scales=(2,))
    return tmp_path / 'pairs'


def test_crops_hold_the_same_part_of_the_image_at_every_scale(cropped):
    for stem in ('0001', '0002'):
        picture = cv2.imread(str(cropped / HR / f'{stem}.png'))
        for i, (x, y) in enumerate(CORNERS, 1):
            high = cv2.imread(str(cropped / f'{HR}_sub' / f'{stem}_s{i:03d}.png'))
            assert np.array_equal(high, picture[y : y + 36, x : x + 36])
            for scale in SCALES:
                low = cv2.imread(str(cropped / LR / f'X{scale}_sub' / f'{stem}_s{i:03d}.png'))
                assert np.array_equal(low, high[::scale, ::scale])


def test_all_folders_hold_the_names_of_the_annotation_file(cropped):
    lines = (cropped / ANNOTATION).read_text().splitlines()
    names = [f'{stem}_s{i:03d}.png' for stem in ('0001', '0002') for i in range(1, len(CORNERS) + 1)]
    assert lines == [f'{name} (36,36,3)' for name in names]
    for folder in (f'{HR}_sub', *(f'{LR}/X{scale}_sub' for scale in SCALES)):
        assert sorted(path.name for path in (cropped / folder).iterdir()) == [*names, 'recipe.json']


def test_other_folders_get_an_annotation_file_of_their_own(tmp_path):
    write_pairs(tmp_path, scales=(2,))
    (tmp_path / HR).rename(tmp_path / 'high')
    (tmp_path / LR).rename(tmp_path / 'train')
    for path in (tmp_path / 'train/X2').iterdir():
        path.rename(path.with_name(path.name.replace('x2', '')))
    (tmp_path / 'high').rename(tmp_path / 'train/HR')
    options = ('--hr', 'train/HR', '--lr', 'train/X2/')
    assert crop(tmp_path, *options).returncode == 0
    assert crop(tmp_path, *options, '--ann', 'mine.txt').returncode == 0
    assert (tmp_path / 'meta_info_train_HR_sub.txt').read_text() == (tmp_path / 'mine.txt').read_text() != ''


def test_every_kind_of_png_is_cropped_as_eight_bit_colour(tmp_path):
    rng = np.random.default_rng(0)
    kinds = {'grey': (36, 36), 'opacity': (36, 36, 4), 'deep': (36, 36, 3)}
    for stem, shape in kinds.items():
        picture = rng.integers(0, 256, shape, np.uint8)
        write(tmp_path / HR / f'{stem}.png', picture.astype(np.uint16) * 257 if stem == 'deep' else picture)
        write(tmp_path / LR / f'X2/{stem}.png', picture[::2, ::2])
    assert crop(tmp_path, '--lr', f'{LR}/X2').returncode == 0
    for stem in kinds:
        got = cv2.imread(str(tmp_path / f'{HR}_sub/{stem}_s001.png'), cv2.IMREAD_UNCHANGED)
        assert got.dtype == np.uint8 and got.shape == (36, 36, 3)
        assert np.array_equal(got, cv2.imread(str(tmp_path / HR / f'{stem}.png'), cv2.IMREAD_COLOR))


@pytest.mark.parametrize('interruption', [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize('renames', [1, 9, 4 + 2 * 4 * len(CORNERS) + 1])
def test_an_interrupted_run_goes_on_to_the_same_bytes(cropped, tmp_path, interruption, renames):
    """The interruption hits the first recipe, a crop in the middle of an image, the annotation file."""
    write_pairs(tmp_path)
    whole = content(cropped)
    stopped = run(sys.executable, '-c', DYING, renames, interruption.value, TOOL, *words(tmp_path))
    assert stopped.returncode == (1 if interruption == signal.SIGINT else -signal.SIGKILL)
    assert stopped.stderr == ('Stopped: the same command goes on from here\n' if stopped.returncode == 1 else '')
    left = content(tmp_path)
    assert Path(ANNOTATION) not in left and all(whole[path] == left[path] for path in left if path.suffix != '.tmp')
    assert crop(tmp_path).returncode == 0
    assert content(tmp_path) == whole


def test_only_images_without_all_their_crops_are_cropped_again(pairs):
    options = ('--lr', f'{LR}/X2')
    crop(pairs, *options)
    complete, lacking = (pairs / f'{HR}_sub/{stem}_s001.png' for stem in ('0001', '0002'))
    before = complete.stat().st_mtime_ns, lacking.stat().st_mtime_ns
    (pairs / f'{HR}_sub/0002_s006.png').unlink()
    assert crop(pairs, *options).returncode == 0
    assert complete.stat().st_mtime_ns == before[0] and lacking.stat().st_mtime_ns > before[1]
    assert (pairs / f'{HR}_sub/0002_s006.png').is_file()


def test_crops_of_another_size_are_refused(pairs):
    options = ('--lr', f'{LR}/X2')
    crop(pairs, *options)
    before = content(pairs)
    result = crop(pairs, *options, step=12)
    assert result.returncode == 1 and result.stderr.count('\n') == 1
    assert f"{pairs / HR}_sub holds crops of {{'size': 36, 'step': 24}}, not of" in result.stderr
    assert 'delete the folder' in result.stderr and content(pairs) == before
    (pairs / f'{HR}_sub/recipe.json').unlink()
    assert 'holds crops of another tool' in crop(pairs, *options).stderr


def shrink(path, height, width):
    write(path, cv2.imread(str(path))[:height, :width])


BAD = {
    'no pngs': (lambda root: [path.unlink() for path in (root / HR).iterdir()], (), f'{HR} holds no .png file'),
    'no folder': (lambda root: shutil.rmtree(root / LR), (), 'X2 is not a folder'),
    'no scale': (lambda root: None, ('--lr', f'{LR}/X2', LR), f'{LR} must end with its scale, as in X2'),
    'no counterpart': (
        lambda root: (root / LR / 'X2/0002x2.png').unlink(),
        (),
        '0002.png has no counterpart in {low}: 0002.png or 0002x2.png',
    ),
    'no pair': (
        lambda root: shrink(root / LR / 'X2/0002x2.png', 30, 35),
        (),
        '0002.png is 72 x 60 px, {low}/0002x2.png 35 x 30 px: the former must be 2 times the latter',
    ),
    'small': (lambda root: shrink(root / HR / '0002.png', 34, 72), (), '0002.png is 72 x 34 px, smaller than a crop'),
    'broken': (lambda root: (root / LR / 'X2/0002x2.png').write_bytes(b'PNG'), (), '{low}/0002x2.png is broken'),
    'multiple': (lambda root: None, ('--size', '35'), '--size 35 and --step 24 must be multiples of 2'),
    'space': (lambda root: (root / HR / '0002.png').rename(root / HR / '0 2.png'), (), '0 2.png: the annotation file'),
}


@pytest.mark.parametrize('case', BAD)
def test_a_bad_input_is_named_before_anything_is_written(pairs, case):
    damage, options, message = BAD[case]
    damage(pairs)
    before = content(pairs)
    result = crop(pairs, '--lr', f'{LR}/X2', *options)
    assert result.returncode == 1 and result.stderr.count('\n') == 1
    assert message.format(low=pairs / LR / 'X2') in result.stderr and content(pairs) == before


def test_an_image_that_breaks_off_is_named_and_the_annotation_file_withdrawn(pairs):
    crop(pairs, '--lr', f'{LR}/X2')
    assert (pairs / ANNOTATION).exists()
    image = pairs / HR / '0002.png'
    image.write_bytes(image.read_bytes()[:-2000])
    (pairs / f'{HR}_sub/0002_s001.png').unlink()
    result = crop(pairs, '--lr', f'{LR}/X2')
    assert result.returncode == 1 and f'{image} is broken' in result.stderr.splitlines()[-1]
    assert not (pairs / ANNOTATION).exists() and not list(pairs.rglob('*.tmp'))
