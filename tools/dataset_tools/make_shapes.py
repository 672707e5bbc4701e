"""Draw a small detection data set in COCO's format: textured discs, squares and triangles on textured ground.

The same arguments give the same bytes. A complete data set with the same recipe is left alone, anything else that this
tool has drawn before is replaced, and a half-written one never carries the name of the folder asked for.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from colorsys import hsv_to_rgb
from pathlib import Path

import cv2
import numpy as np

CLASSES = ('disc', 'square', 'triangle')
SIZE = 192  # px, height and width of every image
OBJECT_SIZES = (20, 112)  # px, drawn log-uniformly: as many small objects as large ones
MAX_OBJECTS = 6
MAX_COVER = 0.25  # of an object's area that later ones may hide
SUPERSAMPLING = 4  # edges are drawn finer and averaged down
STAMP = 'recipe.json'
RECIPE_VERSION = 3


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', default='data/shapes', help='folder of the data set')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--num-train', type=int, default=200, help='training images')
    parser.add_argument('--num-val', type=int, default=50, help='validation images')
    args = parser.parse_args()
    if args.seed < 0 or args.num_train < 1 or args.num_val < 1:
        parser.error('--seed must not be negative, --num-train and --num-val must be at least 1')
    return args


def ground_colour(rng: np.random.Generator) -> np.ndarray:
    """A dull colour of any hue, (3,) in 0..1."""
    return np.array(hsv_to_rgb(rng.random(), rng.uniform(0.0, 0.3), rng.uniform(0.25, 0.75)))


def object_colour(rng: np.random.Generator, category: int) -> np.ndarray:
    """A vivid colour, (3,) in 0..1: mostly in its class's third of the hues, but every second object may stray."""
    stray = 0.5 if rng.random() < 0.5 else 0.0
    hue = (category + rng.uniform(-0.5 - stray, 0.5 + stray)) / len(CLASSES)
    return np.array(hsv_to_rgb(hue % 1, rng.uniform(0.5, 1.0), rng.uniform(0.5, 1.0)))


def texture(rng: np.random.Generator, first: np.ndarray) -> np.ndarray:
    """A pattern (SIZE, SIZE, 3) in 0..1: `first` and a colour near it, mixed by stripes, checks, blobs or a ramp."""
    y, x = np.mgrid[:SIZE, :SIZE]
    angle, period, phase = rng.uniform(0, np.pi), rng.uniform(6, 24), rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    kind = rng.integers(4)
    if kind == 0:
        mix = 0.5 + 0.5 * np.sin(2 * np.pi * along / period + phase)
    elif kind == 1:
        mix = (np.sin(2 * np.pi * along / period + phase) * np.sin(2 * np.pi * across / period) > 0).astype(float)
    elif kind == 2:
        coarse = rng.random((SIZE // 8, SIZE // 8))
        mix = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    else:
        mix = (along - along.min()) / (along.max() - along.min())
    second = (first + rng.uniform(-0.3, 0.3, 3)).clip(0, 1)
    return first + mix[..., None] * (second - first)


def shape_mask(rng: np.random.Generator, kind: str) -> np.ndarray:
    """How much of every pixel a random object of `kind` covers: (SIZE, SIZE) in 0..1. It lies inside the image."""
    radius = np.exp(rng.uniform(*np.log(OBJECT_SIZES))) / 2
    centre = rng.uniform(radius + 1, SIZE - radius - 1, 2)
    angle = rng.uniform(0, 2 * np.pi)
    canvas = np.zeros((SIZE * SUPERSAMPLING,) * 2, np.uint8)
    if kind == 'disc':
        cv2.circle(canvas, np.rint(centre * SUPERSAMPLING).astype(int).tolist(), round(radius * SUPERSAMPLING), 255, -1)
    else:
        corners = angle + 2 * np.pi * np.arange(4 if kind == 'square' else 3) / (4 if kind == 'square' else 3)
        points = centre + radius * np.stack([np.cos(corners), np.sin(corners)], 1)
        cv2.fillPoly(canvas, [np.rint(points * SUPERSAMPLING).astype(np.int32)], 255)
    return cv2.resize(canvas, (SIZE, SIZE), interpolation=cv2.INTER_AREA) / 255


def colours_differ(pattern: np.ndarray, picture: np.ndarray, mask: np.ndarray) -> bool:
    """Whether an object painted with `pattern` would stand out: mean colours at least 0.25 apart."""
    inside = mask > 0.5
    return bool(np.linalg.norm(pattern[inside].mean(0) - picture[inside].mean(0)) > 0.25)


def draw_image(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """One image (SIZE, SIZE, 3) of bytes, and its objects: index of the class, mask (SIZE, SIZE) of booleans."""
    picture = texture(rng, ground_colour(rng))
    objects: list[tuple[int, np.ndarray]] = []
    num_objects = rng.integers(2, MAX_OBJECTS + 1)
    for _ in range(10 * num_objects):
        if len(objects) == num_objects:
            break
        category = int(rng.integers(len(CLASSES)))
        cover, pattern = shape_mask(rng, CLASSES[category]), texture(rng, object_colour(rng, category))
        mask = cover > 0.5
        union = np.any([mask, *(other for _, other in objects)], axis=0)
        hides = any((mask & other).sum() > MAX_COVER * min(mask.sum(), other.sum()) for _, other in objects)
        if hides or union.mean() > 0.6 or not colours_differ(pattern, picture, cover):
            continue
        shade = rng.uniform(0.8, 1.2)
        picture += cover[..., None] * ((pattern * shade).clip(0, 1) - picture)
        objects.append((category, mask))
    picture = picture * rng.uniform(0.7, 1.1) + rng.normal(0, rng.uniform(0.01, 0.04), picture.shape)
    return np.rint(picture.clip(0, 1) * 255).astype(np.uint8), objects


def coco_box(mask: np.ndarray) -> list[int]:
    """COCO's [x, y, width, height] in px around a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(v) for v in (columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1)]


def coco_polygons(mask: np.ndarray) -> list[list[int]]:
    """COCO's outlines [x, y, x, y, ...] in px of a mask."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [outline.flatten().tolist() for outline in outlines if len(outline) > 2]


def write_split(root: Path, split: str, num_images: int, seed: int) -> None:
    """Draw the images of a split and write them with their annotations below `root`."""
    (root / split).mkdir()
    images, annotations = [], []
    for i in range(num_images):
        rng = np.random.default_rng([seed, ('train', 'val').index(split), i])
        picture, objects = draw_image(rng)
        name = f'{i:05d}.png'
        if not cv2.imwrite(str(root / split / name), picture):
            raise OSError(f'cannot write {root / split / name}')
        images.append(dict(id=i + 1, file_name=name, width=SIZE, height=SIZE))
        for category, mask in objects:
            box = dict(bbox=coco_box(mask), segmentation=coco_polygons(mask), area=int(mask.sum()), iscrowd=0)
            annotations.append(dict(id=len(annotations) + 1, image_id=i + 1, category_id=category + 1, **box))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / 'annotations' / f'{split}.json').write_text(json.dumps(content), encoding='utf-8')


def digest(root: Path) -> str:
    """SHA-256 over names and bytes of all files of the data set except the stamp."""
    state = hashlib.sha256()
    for path in sorted(p for p in root.rglob('*') if p.is_file() and p.name != STAMP):
        state.update(path.relative_to(root).as_posix().encode() + b'\0' + path.read_bytes())
    return state.hexdigest()


def is_complete(root: Path, recipe: dict) -> bool:
    """Whether `root` holds all of what `recipe` asks for, unchanged."""
    try:
        stamp = json.loads((root / STAMP).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return False
    return stamp == dict(recipe, sha256=digest(root))


def make(out: Path, recipe: dict) -> None:
    """Draw the data set beside `out`, then give it its name.

    Raises:
        FileExistsError: If `out` is something else than a data set that this tool has drawn.
    """
    if out.exists() and not (out / STAMP).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f'{out} exists and was not made by this tool: move it away or choose another --out')
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{out.name}-', dir=out.parent) as parent:
        root = Path(parent) / 'new'
        (root / 'annotations').mkdir(parents=True)
        write_split(root, 'train', recipe['num_train'], recipe['seed'])
        write_split(root, 'val', recipe['num_val'], recipe['seed'])
        (root / STAMP).write_text(json.dumps(dict(recipe, sha256=digest(root))), encoding='utf-8')
        if out.exists():
            shutil.move(out, Path(parent) / 'old')
        root.rename(out)


def main() -> None:
    args = parse_args()
    recipe = dict(version=RECIPE_VERSION, seed=args.seed, num_train=args.num_train, num_val=args.num_val)
    out = Path(args.out)
    if is_complete(out, recipe):
        print(f'{out} is complete: {args.num_train} training and {args.num_val} validation images')
        return
    try:
        make(out, recipe)
    except OSError as error:
        sys.exit(f'The data set could not be made: {error}')
    print(f'{out}: {args.num_train} training and {args.num_val} validation images of {SIZE} x {SIZE} px drawn')


if __name__ == '__main__':
    main()
