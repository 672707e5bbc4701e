"""Write one HTML page on a set of runs: accuracy, memory and time, how configs differ, curves, costs, pictures.

The page needs nothing but itself: styles and pictures are inside, there is no script. Runs whose configs differ in the
seed alone are one method.
"""

import argparse
import base64
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from _three_numbers import MISSING, first_metric, opening, spread
from jinja2 import Environment, FileSystemLoader
from matplotlib.figure import Figure
from plot_training import draw as draw_training
from plot_training import series
from style import look, save, short_names

from man_mm.analysis.runs import Run, group_runs, read_run

TEMPLATE = 'report.html.j2'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dirs', type=Path, nargs='+', metavar='WORK_DIR', help='work folders of runs')
    parser.add_argument('--out', type=Path, required=True, help='page to write, e.g. report.html')
    parser.add_argument('--title', default='Runs')
    parser.add_argument('--names', nargs='+', help='a name for each method, in the order of the first runs of each')
    parser.add_argument('--cost', type=Path, help='JSON of measure.py: memory and time of a step')
    parser.add_argument('--pictures', type=Path, nargs='+', default=[], help='PNG files to show, e.g. of cka.py')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        methods = group_runs([read_run(folder) for folder in args.work_dirs])
        names = args.names or short_names([runs[0].folder for runs in methods])
        if len(names) != len(methods):
            raise ValueError(f'--names has {len(names)} names for {len(methods)} methods.')
        page = render(dict(zip(names, methods, strict=True)), args)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page, encoding='utf-8')
    print(f'{args.out}: {len(args.work_dirs)} runs of {len(methods)} methods, {len(page) / 2**20:.1f} MiB')


def render(methods: dict[str, list[Run]], args: argparse.Namespace) -> str:
    """The page."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    first = [runs[0] for runs in methods.values()]
    costs = json.loads(args.cost.read_text())['rows'] if args.cost else []
    return environment.get_template(TEMPLATE).render(
        title=args.title,
        names=list(methods),
        opening=opening(methods, costs),
        results=result_table(methods),
        differences=difference_table(first),
        figures=[
            ('Training', encode(draw_curves(methods))),
            ('Modules', encode(draw_training([run.train for run in first], list(methods)))),
        ],
        costs=cost_table(costs),
        pictures=[(path.stem.replace('_', ' '), embed(path)) for path in args.pictures],
        configs=[(name, runs[0].cfg.pretty_text) for name, runs in methods.items()],
        folders=[(name, ', '.join(run.folder for run in runs)) for name, runs in methods.items()],
    )


def result_table(methods: dict[str, list[Run]]) -> list[list[str]]:
    """A heading, and a row per method: scores at the end and loss, with their spread."""
    keys = list(dict.fromkeys(key for runs in methods.values() for run in runs for key in run.scores))
    table = [['method', 'runs', *keys, 'main loss']]
    for name, runs in methods.items():
        cells = [spread([run.scores.get(key) for run in runs]) for key in keys]
        cells.append(spread([run.train[-1]['loss'] for run in runs]))
        table.append([name, str(len(runs)), *cells])
    return table


def difference_table(runs: Sequence[Run]) -> list[list[str]]:
    """A row for each key in which the methods' configs differ."""
    settings = [run.settings for run in runs]
    keys = list(dict.fromkeys(key for one in settings for key in one))
    rows = [[key, *(shorten(one[key]) if key in one else MISSING for one in settings)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def shorten(value: Any, most: int = 60) -> str:
    text = str(value)
    return text if len(text) <= most else f'{text[: most - 3]}...'


def cost_table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Peak memory and time of a step, as ratios to the first row too; empty without rows."""
    if not rows:
        return []
    table = [['config', 'peak (MiB)', '', 'step (s)', '']]
    for row in rows:
        cells = [Path(row['config']).stem]
        for key, form in (('peak_mib', '.0f'), ('step_s', '.3f')):
            known = row.get(key) is not None and rows[0].get(key)
            cells += [f'{row[key]:{form}}', f'{row[key] / rows[0][key]:.2f} x'] if known else [MISSING, MISSING]
        table.append(cells)
    return table


def draw_curves(methods: dict[str, list[Run]]) -> Figure:
    """Main losses of all runs, and the first metric of their validations."""
    metric = first_metric(methods)
    figure, axes = plt.subplots(1, 1 + bool(metric), figsize=(10, 3.6), squeeze=False, layout='constrained')
    for name, runs in methods.items():
        style = look(name)
        for run in runs:
            label = name if run is runs[0] else None
            axes[0, 0].plot(*series(run.train, 'loss', 1), color=style['color'], label=label)
            if metric and any(metric in row for row in run.val):
                axes[0, 1].plot(*series(run.val, metric, 1), **style)
    axes[0, 0].set(xlabel='iteration', ylabel='main loss')
    if metric:
        axes[0, 1].set(xlabel='epoch or iteration of validation', ylabel=metric)
        axes[0, 1].xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc='outside lower center', ncols=min(6, len(methods)))
    return figure


def encode(figure: Figure) -> str:
    """A picture as a data URI."""
    stream = io.BytesIO()
    save(figure, stream)
    return as_uri(stream.getvalue())


def embed(path: Path) -> str:
    """A PNG file as a data URI."""
    content = path.read_bytes()
    if not content.startswith(b'\x89PNG'):
        raise ValueError(f'--pictures {path}: is no PNG file.')
    return as_uri(content)


def as_uri(png: bytes) -> str:
    return f'data:image/png;base64,{base64.b64encode(png).decode()}'


if __name__ == '__main__':
    main()
