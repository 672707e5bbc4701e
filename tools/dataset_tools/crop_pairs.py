"""Crop the image pairs of a super-resolution data set, DIV2K by default, into overlapping pairs of sub-images.

Names, order and positions of the crops are those of upstream MMagic's tool for DIV2K. The scale of a low-resolution
folder is read from the end of its name, as in X4. Images are read as upstream's loader reads them, as BGR colour of
8 bit (cv2.IMREAD_COLOR): grey is repeated, opacity dropped, 16 bit are cut to 8.

A run that was stopped goes on when it is started again: an image whose crops are all there is skipped, so delete the
crops of an image that you have replaced. The annotation file is written last, its presence means that all is there.
"""

import argparse
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import cv2
from PIL import Image
from rich.progress import track

HR = 'DIV2K_train_HR'
LR = [Path(f'DIV2K_train_LR_bicubic/X{scale}') for scale in (2, 3, 4)]
HR_ANNOTATION = 'meta_info_DIV2K800sub_GT.txt'  # what upstream's configs expect of the default HR folder
RECIPE = 'recipe.json'


class Folder(NamedTuple):
    """Images by name of the high-resolution one, without suffix; they are `scale` times smaller than that."""

    path: Path
    target: Path
    scale: int
    images: dict[str, Path]


class Job(NamedTuple):
    """An image of `extent` px (width, height) to cut into squares of `side` px: files to write with their x, y."""

    image: Path
    extent: tuple[int, int]
    side: int
    crops: dict[Path, tuple[int, int]]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('root', type=Path, help='folder of the data set, e.g. data/DIV2K')
    parser.add_argument('--hr', type=Path, default=HR, help='high-resolution folder in the root, default: %(default)s')
    parser.add_argument('--lr', nargs='+', type=Path, default=LR, help='low-resolution ones, default: X2 to X4')
    parser.add_argument('--size', type=int, default=480, help='px, side of a high-resolution crop')
    parser.add_argument('--step', type=int, default=240, help='px from one high-resolution crop to the next')
    parser.add_argument(
        '--ann', help=f'annotation file, default: {HR_ANNOTATION} for DIV2K, else meta_info_<hr>_sub.txt'
    )
    parser.add_argument('--workers', type=int, default=min(8, os.cpu_count() or 1), help='threads')
    args = parser.parse_args()
    if min(args.size, args.step, args.workers) < 1:
        parser.error('--size, --step and --workers must be at least 1')
    name = args.hr.as_posix().replace('/', '_')
    args.ann = args.ann or (HR_ANNOTATION if name == HR else f'meta_info_{name}_sub.txt')
    if Path(args.ann).name != args.ann:
        parser.error(f'--ann must be the name of a file in the root, without folder, not {args.ann}')
    return args


def find_high(path: Path) -> Folder:
    """The high-resolution folder with all its PNGs."""
    images = {file.stem: file for file in sorted(path.glob('*.png')) if not file.name.startswith('.')}
    if not images:
        sys.exit(f'{path} {"holds no .png file" if path.is_dir() else "is not a folder"}')
    for stem, file in images.items():
        if re.search(r'\s', stem):
            sys.exit(f'{file}: the annotation file cannot hold a name with white space, rename the image')
    return Folder(path, path.with_name(f'{path.name}_sub'), 1, images)


def find_low(path: Path, high: Folder, size: int, step: int) -> Folder:
    """A low-resolution folder; its images are called as the high-resolution ones or, all of them, as DIV2K's."""
    match = re.search(r'X([1-9]\d*)$', path.name)
    if match is None or not path.is_dir():
        sys.exit(f'{path} {"is not a folder" if match else "must end with its scale, as in X2"}')
    scale = int(match[1])
    if size % scale or step % scale:
        sys.exit(f'--size {size} and --step {step} must be multiples of {scale}, the scale of {path}')
    present = {file.name for file in path.iterdir()}
    styles = [{stem: path / f'{stem}{suffix}.png' for stem in high.images} for suffix in ('', f'x{scale}')]
    images = max(styles, key=lambda style: sum(file.name in present for file in style.values()))
    for stem, file in images.items():
        if file.name not in present:
            names = ' or '.join(style[stem].name for style in styles)
            sys.exit(f'{high.images[stem]} has no counterpart in {path}: {names} (one style for the whole folder)')
    return Folder(path, path.with_name(f'{path.name}_sub'), scale, images)


def extent_of(image: Path) -> tuple[int, int]:
    """Width and height in px, from the header alone."""
    try:
        with Image.open(image) as header:
            return header.size
    except OSError as error:
        sys.exit(f'{image} is broken: {error}')


def starts(length: int, size: int, step: int) -> list[int]:
    """Where crops begin along a side: every `step` px, and a last one flush with the border if anything is left."""
    regular = list(range(0, length - size + 1, step))
    return regular if regular[-1] + size == length else [*regular, length - size]


def plan(folders: list[Folder], size: int, step: int) -> list[Job]:
    """What to crop, after a look at the size of every image; the first folder is the high-resolution one."""
    jobs = []
    for stem, high in folders[0].images.items():
        width, height = extent_of(high)
        if min(width, height) < size:
            sys.exit(f'{high} is {width} x {height} px, smaller than a crop of --size {size}')
        corners = [(x, y) for y in starts(height, size, step) for x in starts(width, size, step)]
        for folder in folders:
            image, scale, extent = folder.images[stem], folder.scale, extent_of(folder.images[stem])
            if (extent[0] * scale, extent[1] * scale) != (width, height):
                sizes = f'{high} is {width} x {height} px, {image} {extent[0]} x {extent[1]} px'
                sys.exit(f'{sizes}: the former must be {scale} times the latter')
            scaled = [(x // scale, y // scale) for x, y in corners]
            crops = {folder.target / f'{stem}_s{i:03d}.png': corner for i, corner in enumerate(scaled, 1)}
            jobs.append(Job(image, extent, size // scale, crops))
    return jobs


def check_target(target: Path, recipe: dict) -> None:
    """Refuse a folder with crops that were not made by `recipe`."""
    try:
        found = json.loads((target / RECIPE).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        found = None
    if found != recipe and any(target.glob('*.png')):
        sys.exit(f'{target} holds crops of {found or "another tool"}, not of {recipe}: delete the folder')


def write(path: Path, content: bytes) -> None:
    """Write a file that never carries its name half-written."""
    temporary = path.with_name(f'.{path.name}.tmp')
    temporary.write_bytes(content)
    temporary.replace(path)


def crop(job: Job) -> None:
    """Write all crops of an image."""
    picture = cv2.imread(str(job.image), cv2.IMREAD_COLOR)
    if picture is None or picture.shape[1::-1] != job.extent:
        found = 'nothing' if picture is None else f'{picture.shape[1::-1]} px'
        sys.exit(f'{job.image} is broken: its header says {job.extent} px, OpenCV reads {found}')
    for path, (x, y) in job.crops.items():
        square = picture[y : y + job.side, x : x + job.side]
        write(path, cv2.imencode('.png', square, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes())


def crop_all(jobs: list[Job], title: str, workers: int) -> None:
    with ThreadPoolExecutor(workers) as pool:  # threads, as OpenCV works without Python's lock
        futures = [pool.submit(crop, job) for job in jobs]
        try:
            for future in track(as_completed(futures), title, len(jobs)):
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def make(folders: list[Folder], jobs: list[Job], recipe: dict, annotation: Path, workers: int) -> None:
    """Make the crops that are missing, then write the annotation file. Images begun are finished in any case."""
    present: set[Path] = set()
    for folder in folders:
        folder.target.mkdir(exist_ok=True)
        write(folder.target / RECIPE, json.dumps(recipe).encode())
        present.update(folder.target.iterdir())
    missing = [job for job in jobs if not job.crops.keys() <= present]
    if missing:
        annotation.unlink(missing_ok=True)
        crop_all(missing, f'{len(missing)} of {len(jobs)} images', workers)
    names = [path.name for job in jobs for path in job.crops if path.parent == folders[0].target]
    write(annotation, ''.join(f'{name} ({recipe["size"]},{recipe["size"]},3)\n' for name in names).encode())
    print(f'{annotation}: {len(names)} crops in each of {", ".join(str(folder.target) for folder in folders)}')


def main() -> None:
    args = parse_args()
    high = find_high(args.root / args.hr)
    low = [find_low(args.root / path, high, args.size, args.step) for path in dict.fromkeys(args.lr)]
    jobs, recipe = plan([high, *low], args.size, args.step), dict(size=args.size, step=args.step)
    for folder in (high, *low):
        check_target(folder.target, recipe)
    try:
        make([high, *low], jobs, recipe, args.root / args.ann, args.workers)
    except OSError as error:
        sys.exit(f'The crops could not be written: {error}')
    except KeyboardInterrupt:
        sys.exit('Stopped: the same command goes on from here')


if __name__ == '__main__':
    main()
