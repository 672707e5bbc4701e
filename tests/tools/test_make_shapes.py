"""tools/dataset_tools/make_shapes.py: the same arguments give the same bytes, and nothing half-written counts."""

import json

import pytest

from ..helpers.processes import python


def make(out, seed=0):
    options = ('--out', out, '--seed', seed, '--num-train', 3, '--num-val', 2)
    return python('dataset_tools/make_shapes.py', *options)


def content(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob('*') if path.is_file()}


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'shapes'
    assert make(root).returncode == 0
    return root


def test_same_arguments_give_the_same_bytes(shapes, tmp_path):
    make(tmp_path / 'again')
    make(tmp_path / 'other', seed=1)
    assert content(shapes) == content(tmp_path / 'again') != content(tmp_path / 'other')


def test_boxes_lie_inside_the_images(shapes):
    for split, num_images in (('train', 3), ('val', 2)):
        coco = json.loads((shapes / 'annotations' / f'{split}.json').read_text())
        assert len(coco['images']) == len(list((shapes / split).iterdir())) == num_images
        sizes = {image['id']: (image['width'], image['height']) for image in coco['images']}
        for annotation in coco['annotations']:
            x, y, width, height = annotation['bbox']
            assert min(x, y) >= 0 and 0 < annotation['area'] <= width * height
            assert x + width <= sizes[annotation['image_id']][0] and y + height <= sizes[annotation['image_id']][1]


def test_outlines_fill_the_boxes(shapes):
    coco = json.loads((shapes / 'annotations/train.json').read_text())
    for annotation in coco['annotations']:
        x, y, width, height = annotation['bbox']
        points = [
            point for outline in annotation['segmentation'] for point in zip(outline[::2], outline[1::2], strict=True)
        ]
        xs, ys = zip(*points, strict=True)
        assert (min(xs), min(ys), max(xs), max(ys)) == (x, y, x + width - 1, y + height - 1)


def test_only_a_damaged_data_set_is_drawn_again(shapes, tmp_path):
    make(tmp_path / 'shapes')
    image = tmp_path / 'shapes/train/00001.png'
    before = image.stat().st_mtime_ns
    make(tmp_path / 'shapes')
    assert image.stat().st_mtime_ns == before
    image.write_bytes(b'')
    make(tmp_path / 'shapes')
    assert content(tmp_path / 'shapes') == content(shapes)
    assert [path.name for path in tmp_path.iterdir()] == ['shapes']  # no temporary folder left


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / 'mine.txt').write_text('keep')
    result = make(tmp_path)
    assert result.returncode == 1 and 'was not made by this tool' in result.stderr
    assert (tmp_path / 'mine.txt').read_text() == 'keep'
