"""Draw what cka.py or linear_probes.py wrote: a curve over the layers for each method, and for CKA a heat map as well.

Seeds of one method are one curve, their mean, in a band from the least to the most.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from style import INK, look, save

SLANTED = dict(rotation=50, ha='right', rotation_mode='anchor', fontsize=8)
"""Names of layers below an axis."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('file', type=Path, help='JSON of cka.py or linear_probes.py')
    parser.add_argument('picture', type=Path, help='file to draw to, e.g. layers.png')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    draw(json.loads(args.file.read_text()), args.picture)


def draw(report: dict, picture: Path) -> None:
    """Draw a report of either tool."""
    if report['kind'] == 'cka':
        draw_cka(report, picture)
    else:
        draw_probes(report, picture)


def draw_cka(report: dict, picture: Path) -> None:
    """The curves of equal layers above, below a heat map of all layers for each method."""
    matrices = by_method(report)
    reference = report['models'][0]['name']
    width = max(8.0, 2.9 * len(matrices) + 1.0)
    figure = plt.figure(figsize=(width, 7.6), layout='constrained')
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    axis = upper.subplots()
    for name, stack in matrices.items():
        curves = np.array([np.diagonal(matrix) for matrix in stack])
        own = ' (other seeds)' if name == reference else ''
        draw_curve(axis, name, curves, f'{name}{own}, {count(len(stack), "pair")}', dashed=name == reference)
    layer_axis(axis, report['layers'])
    lowest = min(np.diagonal(matrix).min() for stack in matrices.values() for matrix in stack)
    axis.set_ylim(np.floor(10 * lowest - 0.2) / 10, 1.02)
    axis.set_ylabel(f'CKA with {reference}, same layer')
    axis.legend(loc='lower center', bbox_to_anchor=(0.5, 1.0), ncols=min(4, len(matrices)))
    draw_heat_maps(lower, matrices, report['layers'], reference)
    figure.suptitle(f'{report["images"]} images in minibatches of {report["batch"]}, {report["features"]}')
    save(figure, picture)


def draw_heat_maps(figure: plt.Figure, matrices: dict[str, list], layers: list[str], reference: str) -> None:
    axes = figure.subplots(1, len(matrices), squeeze=False, sharey=True)[0]
    step = max(1, len(layers) // 5)
    places = range(0, len(layers), step)
    for axis, (name, stack) in zip(axes, matrices.items(), strict=True):
        image = axis.imshow(np.mean(stack, 0), vmin=0, vmax=1, cmap='cividis', origin='lower')
        axis.set_title(name)
        axis.set_xticks(places, [layers[i] for i in places], **SLANTED)
        axis.set_yticks(places, [layers[i] for i in places], fontsize=8)
        axis.grid(False)
    axes[0].set_ylabel(f'layers of {reference}')
    figure.colorbar(image, ax=list(axes), label='CKA', shrink=0.85)


def draw_probes(report: dict, picture: Path) -> None:
    figure, axis = plt.subplots(figsize=(8, 4.6), layout='constrained')
    names = list(dict.fromkeys(model['name'] for model in report['models']))
    for name in names:
        curves = [list(model['accuracy'].values()) for model in report['models'] if model['name'] == name]
        draw_curve(axis, name, np.array(curves), f'{name}, {count(len(curves), "seed")}')
    layer_axis(axis, report['layers'])
    axis.set_ylabel('accuracy of a linear probe (%)')
    axis.legend(loc='lower center', bbox_to_anchor=(0.5, 1.0), ncols=min(4, len(names)))
    save(figure, picture)


def by_method(report: dict) -> dict[str, list]:
    """Matrices of all pairs by the second model's name: the reference's own first."""
    names = [model['name'] for model in report['models']]
    found: dict[str, list] = {}
    for pair in report['pairs']:
        found.setdefault(names[pair['second']], []).append(np.array(pair['cka']))
    return found


def draw_curve(axis: Axes, name: str, curves: np.ndarray, label: str, dashed: bool = False) -> None:
    """The mean of curves (number, layers) in the band that they fill."""
    style = look(name)
    x = np.arange(curves.shape[1])
    axis.plot(x, curves.mean(0), markersize=5, label=label, linestyle='--' if dashed else '-', **style)
    if len(curves) > 1:
        axis.fill_between(x, curves.min(0), curves.max(0), color=style['color'], alpha=0.16, linewidth=0)


def layer_axis(axis: Axes, layers: list[str]) -> None:
    """A tick per layer, and a line where a stage begins."""
    axis.set_xticks(range(len(layers)), layers, **SLANTED)
    stages = [layer.rsplit('.', 1)[0] for layer in layers]
    borders = [i - 0.5 for i in range(1, len(layers)) if stages[i] != stages[i - 1]]
    if len(borders) < len(layers) - 1:
        axis.vlines(borders, 0, 1, INK, alpha=0.2, linewidth=1, transform=axis.get_xaxis_transform())
    axis.set_xlim(-0.5, len(layers) - 0.5)


def count(num: int, word: str) -> str:
    return f'{num} {word}' if num == 1 else f'{num} {word}s'


if __name__ == '__main__':
    main()
