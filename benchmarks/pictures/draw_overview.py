"""Draw a training step of MAN: modules, cuts, SLMs, readouts, the feature bank, and how far gradients reach.

The backbone is ResNet-18 with K = 3, cut by the `uniform` policy.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

MODULE, AUXILIARY, READOUT, BANK = '#cfe0ec', '#e4e4e4', '#f3dfbd', '#cfe8db'
FORWARD, GRADIENT, STORED = '#333333', '#c8553d', '#3f8f6b'
MODULES = (
    ('module 0', ('stem', 'layer1.0', 'layer1.1')),
    ('module 1', ('layer2.0', 'layer2.1', 'layer3.0')),
    ('module 2, the last', ('layer3.1', 'layer4.0', 'layer4.1')),
)
SLMS = (('layer2.0', 'layer3.0', 'layer4.0'), ('layer3.1', 'layer4.0'))
"""Units that the auxiliary of each module mirrors: the first one behind the cut of every stage that remains."""
PITCH, WIDTH, UNIT = 4.7, 3.6, 1.08
ROWS = dict(bank=0.0, module=1.9, slm=4.0, readout=5.9)
"""Lower edge of each row."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('picture', type=Path, help='file to draw to, e.g. overview.png')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    figure, axis = plt.subplots(figsize=(12, 6), layout='constrained')
    axis.set_xlim(-1.1, 14.6)
    axis.set_ylim(-1.0, 6.8)
    axis.axis('off')
    box(axis, 0, ROWS['bank'], 2 * PITCH + WIDTH, 0.75, BANK, 'feature bank: taps, detached; one iteration', bold=True)
    for index, (name, units) in enumerate(MODULES):
        draw_module(axis, index, name, units)
    for index, units in enumerate(SLMS):
        draw_auxiliary(axis, index, units)
    draw_main_loss(axis)
    arrow(axis, (-0.9, ROWS['module'] + 0.5), (-0.1, ROWS['module'] + 0.5), FORWARD)
    axis.text(-0.95, ROWS['module'] + 0.72, 'images', fontsize=9)
    draw_legend(axis)
    figure.savefig(args.picture, dpi=130)


def draw_module(axis: Axes, index: int, name: str, units: tuple[str, ...]) -> None:
    """A module, its taps on their way to the bank, and the cut behind it."""
    left, bottom = index * PITCH, ROWS['module']
    box(axis, left, bottom - 0.15, WIDTH, 1.35, 'white', edge='#7ba3bf')
    axis.text(left + 0.1, bottom + 0.87, name, fontsize=9, weight='bold')
    draw_units(axis, left, bottom, units, MODULE)
    last = index == len(MODULES) - 1
    x = left + 3 * UNIT - 0.45 if index == 0 else left + 2 * UNIT - 0.45  # where layer1 and layer2 end
    if not last:
        arrow(axis, (x, bottom - 0.02), (x, ROWS['bank'] + 0.8), STORED)
        axis.text(x + 0.12, bottom - 0.62, f'put: layer{index + 1}', fontsize=8, color=STORED)
        cut = left + (WIDTH + PITCH) / 2
        axis.plot([cut, cut], [bottom - 0.6, bottom + 1.6], color='black', linestyle=(0, (2, 2)), linewidth=1.2)
        axis.text(cut + 0.12, bottom + 1.68, 'cut: x.detach()', fontsize=9, ha='right')
        arrow(axis, (left + WIDTH + 0.08, bottom + 0.4), (left + PITCH - 0.08, bottom + 0.4), FORWARD)


def draw_auxiliary(axis: Axes, index: int, units: tuple[str, ...]) -> None:
    """The SLM and the readout of a module, what they read, and how far their gradients reach."""
    left, bottom = index * PITCH, ROWS['slm']
    box(axis, left, bottom - 0.15, WIDTH, 1.35, 'white', edge='#9a9a9a')
    axis.text(left + 0.1, bottom + 0.87, f'SLM of module {index}: copies', fontsize=9, weight='bold')
    draw_units(axis, left, bottom, units, AUXILIARY)
    box(axis, left, ROWS['readout'], WIDTH, 0.75, READOUT, f'readout: neck, head, local loss {index}')
    x = left + WIDTH / 2
    arrow(axis, (x - 0.25, ROWS['module'] + 1.25), (x - 0.25, bottom - 0.2), FORWARD)
    arrow(axis, (x - 0.25, bottom + 1.25), (x - 0.25, ROWS['readout'] - 0.05), FORWARD)
    arrow(axis, (x + 0.25, ROWS['readout'] - 0.05), (x + 0.25, bottom + 1.25), GRADIENT)
    arrow(axis, (x + 0.25, bottom - 0.2), (x + 0.25, ROWS['module'] + 1.25), GRADIENT)
    if index > 0:
        arrow(axis, (left - 0.2, ROWS['bank'] + 0.8), (left - 0.05, bottom + 0.1), STORED, bend=-0.12)
        axis.text(left - 0.25, bottom + 0.6, 'get:\nlayer1', fontsize=8, color=STORED, ha='right', va='center')


def draw_main_loss(axis: Axes) -> None:
    """The last module is trained by the model's own loss."""
    left = (len(MODULES) - 1) * PITCH
    box(axis, left, ROWS['readout'], WIDTH, 0.75, READOUT, "the model's own neck, head, main loss")
    x = left + WIDTH / 2
    arrow(axis, (x - 0.25, ROWS['module'] + 1.25), (x - 0.25, ROWS['readout'] - 0.05), FORWARD)
    arrow(axis, (x + 0.25, ROWS['readout'] - 0.05), (x + 0.25, ROWS['module'] + 1.25), GRADIENT)
    right = left + WIDTH
    arrow(axis, (right - 0.2, ROWS['bank'] + 0.8), (right - 0.2, ROWS['readout'] - 0.05), STORED, bend=0.22)
    axis.text(right + 0.42, ROWS['slm'] + 0.4, 'finish:\nlayer1, layer2\nfrom the bank', fontsize=8, color=STORED)


def draw_legend(axis: Axes) -> None:
    legend = {FORWARD: 'forward', GRADIENT: 'gradients: end at the cut', STORED: 'feature bank: carries no graph'}
    for place, (colour, text) in enumerate(legend.items()):
        x = 0.1 + 3.6 * place
        arrow(axis, (x, -0.65), (x + 0.7, -0.65), colour)
        axis.text(x + 0.85, -0.65, text, fontsize=9, va='center')


def draw_units(axis: Axes, left: float, bottom: float, units: tuple[str, ...], colour: str) -> None:
    for place, unit in enumerate(units):
        box(axis, left + 0.12 + place * (UNIT + 0.06), bottom, UNIT, 0.75, colour, unit)


def box(
    axis: Axes, x: float, y: float, width: float, height: float, colour: str, text: str = '', edge: str = '#555555',
    bold: bool = False,
) -> None:  # fmt: skip
    shape = 'round,pad=0,rounding_size=0.08'
    axis.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, facecolor=colour, edgecolor=edge))
    weight = 'bold' if bold else 'normal'
    axis.text(x + width / 2, y + height / 2, text, fontsize=9, ha='center', va='center', weight=weight)


def arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, bend: float = 0.0) -> None:
    style = dict(arrowstyle='-|>', color=colour, linewidth=1.6, connectionstyle=f'arc3,rad={bend}')
    axis.annotate('', end, start, arrowprops=style)


if __name__ == '__main__':
    main()
