"""benchmarks/pictures/compare_sr.py: PSNR by hand, the crop with the largest error, bad inputs named."""

import importlib.util
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

TOOL = Path(__file__).parents[2] / 'benchmarks/pictures/compare_sr.py'


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('compare_sr', TOOL)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOOL.parent)  # as python does for a script
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def compare(tool, tmp_path, monkeypatch):
    """Run the tool on files of `tmp_path`: gt.png of 200 x 180 px, lr.png of half that, sr.png, and bad ones.

    sr.png is 2 off everywhere, and has a black disc in the last corner.
    """
    rng = np.random.default_rng(0)
    truth = rng.integers(90, 110, (180, 200, 3), np.uint8)
    pictures = dict(gt=truth, lr=truth[::2, ::2], sr=truth + 2, small=truth[:-2], tiny=truth[:4, :4], dot=truth[:2, :2])
    cv2.circle(pictures['sr'], (190, 170), 8, (0, 0, 0), -1)
    for name, picture in pictures.items():
        cv2.imwrite(str(tmp_path / f'{name}.png'), picture)
    (tmp_path / 'broken.png').write_bytes(b'PNG')
    monkeypatch.chdir(tmp_path)

    def run(*images, out='out.png', gt='gt.png', lr='lr.png', scale=2, options=()):
        arguments = [out, '--gt', gt, '--lr', lr, '--scale', str(scale), '--images', *images, *options]
        monkeypatch.setattr(sys, 'argv', ['compare_sr.py', *arguments])
        tool.main()

    return run


def test_psnr_is_that_of_the_bytes_inside_the_border(tool):
    truth = np.full((8, 9, 3), 250, np.uint8)
    picture = truth.copy()
    picture[:2] = picture[:, -2:] = 0  # only in the border
    assert tool.psnr(picture, truth, 2) == math.inf
    picture[3, 4] = (255, 250, 247)  # squares 25 + 0 + 9 over 4 x 5 pixels of 3 channels
    assert tool.psnr(picture, truth, 2) == pytest.approx(20 * math.log10(255 / math.sqrt(34 / 60)), abs=1e-9)


def test_the_chosen_crop_has_the_largest_sum_of_errors(tool):
    error = np.random.default_rng(0).random((23, 31))
    sums = {(x, y): error[y : y + 7, x : x + 7].sum() for y in range(23 - 6) for x in range(31 - 6)}
    assert tool.worst_crop(error, 7) == (*max(sums, key=sums.get), 7, 7)
    error[-1, -1] = 100  # in the last corner
    assert tool.worst_crop(error, 7) == (31 - 7, 23 - 7, 7, 7)
    assert tool.worst_crop(error, 25)[1:] == (0, 25, 23)  # as much as fits


def test_bicubic_keeps_a_flat_image_and_the_colours_their_order(tool, tmp_path):
    blue = np.zeros((4, 4, 3), np.uint8)
    blue[..., 0] = 200  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / 'blue.png'), blue)
    low = tool.read_image(tmp_path / 'blue.png')
    assert low[0, 0].tolist() == [0, 0, 200]
    high = tool.upscale(SimpleNamespace(scale=3), low, truth=np.zeros((12, 12, 3)))
    assert high.shape == (12, 12, 3) and (high == [0, 0, 200]).all()


def test_a_picture_is_drawn_and_its_numbers_are_printed(compare, tmp_path, capsys):
    compare('MAN=sr.png', 'same=gt.png', out='new/out.png')
    rows, columns = cv2.imread(str(tmp_path / 'new/out.png')).shape[:2]
    assert columns > rows > 300  # four images, two of them high
    printed = capsys.readouterr().out
    x, y, width, height = (int(part) for part in printed.split('crop ')[1].split(';')[0].split(','))
    assert width == height == 160 and x + width > 198 and y + height > 178  # the disc
    assert 'same, inf dB' in printed and 'MAN, ' in printed and 'bicubic, ' in printed
    compare('MAN=sr.png', options=('--crop', '0,0,50,20'))
    assert 'crop 0,0,50,20;' in capsys.readouterr().out


BAD = {
    'other size': (dict(images=['MAN=small.png']), 'small.png is 200 x 178 px, but gt.png is 200 x 180 px'),
    'other scale': (dict(scale=3), 'lr.png is 100 x 90 px: with --scale 3 the former must be 300 x 270 px'),
    'nothing left': (dict(gt='tiny.png', lr='dot.png'), 'dot.png is 2 x 2 px: without the border nothing is left'),
    'missing': (dict(images=['MAN=none.png']), 'none.png does not exist'),
    'broken': (dict(images=['MAN=broken.png']), 'broken.png is not a readable image'),
    'outside': (dict(options=['--crop', '150,0,51,10']), '--crop 150,0,51,10 does not lie in gt.png'),
    'empty crop': (dict(options=['--crop', '0,0,0,10']), '--crop 0,0,0,10 does not lie in gt.png'),
    'twice': (dict(images=['A=sr.png', 'A=gt.png']), "--images A=gt.png: the name 'A' is taken"),
    'reserved': (dict(images=['bicubic=sr.png']), "the name 'bicubic' is taken"),
    'no name': (dict(images=['sr.png']), '--images sr.png: must be NAME=FILE'),
}


@pytest.mark.parametrize('case', BAD)
def test_a_bad_input_is_named_and_nothing_drawn(compare, tmp_path, case):
    changes, message = BAD[case]
    options = dict(changes)
    with pytest.raises(SystemExit, match=re.escape(message)):
        compare(*options.pop('images', ['MAN=sr.png']), **options)
    assert not (tmp_path / 'out.png').exists()


def test_a_crop_that_is_no_crop_is_refused(compare, capsys):
    with pytest.raises(SystemExit):
        compare('MAN=sr.png', options=('--crop', '1,2,3'))
    assert '1,2,3 is not x,y,w,h' in capsys.readouterr().err
