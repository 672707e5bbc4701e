"""Draw what a plan looked at: the memory of every setting that it estimated, the budget, and the operations of each.

Settings with the fewest operations are at the top; the first one that ends before the line of the budget is chosen.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
from style import INK, PALETTE, save

from man_mm.analysis.planner import Setting


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('plan', type=Path, help='JSON of plan.py')
    parser.add_argument('picture', type=Path, help='file to draw to, e.g. plan.png')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    plan = json.loads(args.plan.read_text())
    rows, bp = sorted(plan['rows'], key=lambda row: row['gflops']), plan['rows'][0]
    budget = plan['budget_bytes'] / 2**30
    figure, axis = plt.subplots(figsize=(9, 1.4 + 0.36 * len(rows)), layout='constrained')
    for place, row in enumerate(rows):
        colour = PALETTE['green' if row['chosen'] else 'sky' if row['fits'] else 'grey']
        peak = row['peak_mib'] / 2**10
        axis.barh(place, peak, 0.66, color=colour)
        said = f' {peak:.1f} GiB, {row["gflops"] / bp["gflops"]:.2f} x operations'
        axis.text(max(peak, budget), place, f'{said}: chosen' if row['chosen'] else said, va='center')
    axis.axvline(budget, color=INK, linewidth=1.2)
    axis.set_title(f'budget {budget:.3g} GiB, batch {plan["batch"]}, {plan["size"][0]} x {plan["size"][1]} px')
    axis.set_yticks(range(len(rows)), [setting(row) for row in rows])
    axis.invert_yaxis()
    axis.set_xlim(0, 1.6 * bp['peak_mib'] / 2**10)
    axis.set_xlabel('peak of a step (GiB)')
    axis.grid(False, axis='y')
    save(figure, args.picture)


def setting(row: dict) -> str:
    return str(Setting(**{name: row[name] for name in ('num_modules', 'partition', 'eager', 'blocks', 'heads')}))


if __name__ == '__main__':
    main()
