"""Draw super-resolved images beside each other: a crop of bicubic up-scaling, of each image and of the ground truth.

Below each stands its absolute error, the mean over the channels, on one scale of colours. The PSNR is that of the whole
image: RGB, 8 bit, without a border of `scale` px. Bicubic is that of the literature (PIL's, as MATLAB's imresize), not
OpenCV's.
"""

import argparse
import sys
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from style import save

CROP = 160  # px, side of the crop that is chosen
PANEL = 2.6  # inches, the longer side of a crop
BICUBIC, TRUTH = 'bicubic', 'ground truth'


def parse_crop(text: str) -> tuple[int, int, int, int]:
    """Four integers with commas between them: x, y, width, height."""
    try:
        x, y, width, height = (int(part) for part in text.split(','))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text} is not x,y,w,h: four integers with commas between') from None
    return x, y, width, height


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path, help='picture to draw, a .png file')
    parser.add_argument('--gt', type=Path, required=True, help='high-resolution image')
    parser.add_argument('--lr', type=Path, required=True, help='low-resolution image')
    parser.add_argument('--scale', type=int, required=True, help='how many times larger the former is')
    parser.add_argument('--images', nargs='+', required=True, metavar='NAME=FILE', help='super-resolved images')
    parser.add_argument('--crop', type=parse_crop, metavar='X,Y,W,H', help=f'default: the worst {CROP} x {CROP} px')
    args = parser.parse_args()
    if args.scale < 1 or args.out.suffix != '.png':
        parser.error(f'--scale must be at least 1 and OUT end with .png, not {args.scale} and {args.out}')
    return args


def read_image(path: Path) -> np.ndarray:
    """An image as RGB, (height, width, 3) of bytes."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    if picture is None:
        sys.exit(f'{path} {"is not a readable image" if path.is_file() else "does not exist"}')
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def size_of(picture: np.ndarray) -> str:
    return f'{picture.shape[1]} x {picture.shape[0]} px'


def read_images(named: list[str], truth_path: Path, truth: np.ndarray) -> dict[str, np.ndarray]:
    """The images of NAME=FILE by their names, all of the ground truth's size."""
    images: dict[str, np.ndarray] = {}
    for text in named:
        name, separator, file = text.partition('=')
        if not (name and separator and file):
            sys.exit(f'--images {text}: must be NAME=FILE, e.g. MAN=man.png')
        if name in (*images, BICUBIC, TRUTH):
            sys.exit(f'--images {text}: the name {name!r} is taken, each must be used once')
        images[name] = read_image(Path(file))
        if images[name].shape != truth.shape:
            sys.exit(f'{file} is {size_of(images[name])}, but {truth_path} is {size_of(truth)}: they must be equal')
    return images


def upscale(args: argparse.Namespace, low: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The low-resolution image at the size of the ground truth, by bicubic interpolation."""
    height, width = (args.scale * side for side in low.shape[:2])
    if truth.shape[:2] != (height, width):
        sizes = f'{args.gt} is {size_of(truth)}, but {args.lr} is {size_of(low)}'
        sys.exit(f'{sizes}: with --scale {args.scale} the former must be {width} x {height} px')
    if min(low.shape[:2]) < 3:
        sys.exit(f'{args.lr} is {size_of(low)}: without the border nothing is left, at least 3 x 3 px are needed')
    return np.asarray(Image.fromarray(low).resize((width, height), Image.Resampling.BICUBIC))


def psnr(picture: np.ndarray, truth: np.ndarray, border: int) -> float:
    """Peak signal to noise ratio in dB of bytes, without `border` px at each side."""
    error = (picture.astype(np.float64) - truth)[border:-border, border:-border]
    mse = np.square(error).mean()
    return float(10 * np.log10(255**2 / mse)) if mse else float('inf')


def absolute_error(picture: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(height, width), the mean over the channels."""
    return np.abs(picture.astype(np.float64) - truth).mean(2)


def worst_crop(error: np.ndarray, size: int) -> tuple[int, int, int, int]:
    """x, y, width and height of the square (or what of it fits into the image) with the largest sum of errors."""
    height, width = (min(size, side) for side in error.shape)
    table = cv2.integral(error)
    sums = table[height:, width:] - table[:-height, width:] - table[height:, :-width] + table[:-height, :-width]
    y, x = np.unravel_index(sums.argmax(), sums.shape)
    return int(x), int(y), width, height


def draw(out: Path, shown: dict[str, np.ndarray], errors: dict[str, np.ndarray], titles: dict[str, str]) -> None:
    """A column per image: the crop, and below it its error; a bar of colours takes the place below the last."""
    shape = np.array(next(iter(shown.values())).shape[:2])
    height, width = np.maximum(PANEL * shape / shape.max(), (1.0, 2.0))  # room for the bar, for a title
    size = (width * len(shown), 2 * height + 0.45)
    figure, axes = plt.subplots(2, len(shown), figsize=size, layout='constrained')
    top = max(1.0, float(np.percentile(list(errors.values()), 99.8)))  # a few pixels must not darken all others
    for axis in axes.flat:
        axis.axis('off')
    for (name, picture), above, below in zip(shown.items(), *axes, strict=True):
        above.imshow(picture, interpolation='nearest')
        above.set_title(titles[name], fontsize=10)
        if name in errors:
            drawn = below.imshow(errors[name], vmin=0, vmax=top, cmap='inferno', interpolation='nearest')
    place = axes[1, -1].inset_axes((0.05, 0.85, 0.9, 0.1))
    figure.colorbar(drawn, cax=place, extend='max', orientation='horizontal', label='absolute error (of 255)')
    save(figure, out)


def main() -> None:
    args = parse_args()
    truth, low = read_image(args.gt), read_image(args.lr)
    images = {BICUBIC: upscale(args, low, truth), **read_images(args.images, args.gt, truth)}
    errors = {name: absolute_error(picture, truth) for name, picture in images.items()}
    x, y, width, height = args.crop or worst_crop(sum(errors.values()), CROP)
    if min(x, y) < 0 or min(width, height) < 1 or x + width > truth.shape[1] or y + height > truth.shape[0]:
        sys.exit(f'--crop {x},{y},{width},{height} does not lie in {args.gt}, which is {size_of(truth)}')
    values = {name: psnr(picture, truth, args.scale) for name, picture in images.items()}
    titles = {TRUTH: TRUTH, **{name: f'{name}, {value:.2f} dB' for name, value in values.items()}}
    inside = slice(y, y + height), slice(x, x + width)
    shown = {name: picture[inside] for name, picture in {**images, TRUTH: truth}.items()}
    try:
        draw(args.out, shown, {name: error[inside] for name, error in errors.items()}, titles)
    except OSError as error:
        sys.exit(f'The picture could not be written: {error}')
    print(f'{args.out}: crop {x},{y},{width},{height}; PSNR: {"; ".join(list(titles.values())[1:])}')


if __name__ == '__main__':
    main()
