"""Which upstream configs train by local learning: one or two of every algorithm folder, a process each, resumable.

    python benchmarks/coverage [--only TEXT] [--lean] [--out docs/data/coverage.json]
    python benchmarks/coverage --lookup
    python benchmarks/coverage --table > docs/coverage.md

Needs no data and no downloads: batches are noise. About ten CPU-seconds a config.
"""

import argparse
import ast
import importlib
import json
import multiprocessing
import os
import resource
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CPU_SECONDS = 300


def entries() -> list[dict[str, Any]]:
    """What configs.txt lists."""
    found = []
    for line in (HERE / 'configs.txt').read_text().splitlines():
        if not line.startswith('#'):
            name, *options = line.split()
            lib, _, path = name.partition('::')
            found.append(dict(lib=lib, path=path, **{k: _value(v) for k, _, v in (o.partition('=') for o in options)}))
    return found


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except ValueError:
        return text


def work(entry: dict[str, Any], num_modules: int, lean: bool, result: Any) -> None:
    """In a process of its own: a trial whose words go nowhere."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    from trial import trial

    try:
        found = trial(entry, num_modules, lean)
    except BaseException as error:
        found = dict(outcome='upstream fails', why=f'{type(error).__name__}: {str(error)[:200]}')
    result.send(found)


def tried(entry: dict[str, Any], num_modules: int, lean: bool) -> dict[str, Any]:
    """What a trial found, or how its process died."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context('fork').Process(target=work, args=(entry, num_modules, lean, sender))
    process.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError:
        found = None
    process.join()
    if found is None:
        code = process.exitcode or 0
        limit = code in (-signal.SIGXCPU, -signal.SIGKILL)
        found = dict(
            outcome='not finished' if limit else 'crash', why=f'{CPU_SECONDS} CPU-seconds' if limit else f'exit {code}'
        )
    return found


def table(results: dict[str, dict[str, Any]], looked_up: dict[str, dict[str, int]]) -> str:
    """The page of the documents."""
    outcomes = ['works', 'refused', 'crash', 'wrong', 'upstream fails', 'not trained', 'not finished']
    tried = f'Tried so far: {len(results)} of the {len(entries())} that are listed.'
    lines = [
        '# Coverage',
        '',
        (HERE / 'page.md').read_text().strip(),
        tried,
        '',
        f'| | tried | {" | ".join(outcomes)} |',
    ]
    lines += [f'|---|---|{"---|" * len(outcomes)}']
    for lib in ('mmdet', 'mmpretrain', 'mmagic'):
        counts = Counter(r['outcome'] for name, r in results.items() if name.startswith(f'{lib}::'))
        lines.append(f'| {lib} | {counts.total()} | {" | ".join(str(counts[o]) for o in outcomes)} |')
    kinds = ['served', 'refused', 'unknown']
    lines += ['', (HERE / 'lookup.md').read_text().strip(), '', f'| | {" | ".join(kinds)} |', f'|---|{"---|" * 3}']
    lines += [
        f'| {group} | {" | ".join(str(found.get(kind, 0)) for kind in kinds)} |' for group, found in looked_up.items()
    ]
    lines += ['', '| config | backbone | host | outcome | why |', '|---|---|---|---|---|']
    for name, r in results.items():
        why = (r['why'] or f'K={r["num_modules"]} of {r["units"]} units').replace('|', '/')
        lines.append(f'| {name} | {r.get("backbone", "")} | {r.get("host", "")} | {r["outcome"]} | {why[:200]} |')
    return '\n'.join(lines) + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', default='', help='configs whose names contain one of these, separated by commas')
    parser.add_argument('--num-modules', type=int, default=4)
    parser.add_argument('--lean', action='store_true')
    parser.add_argument('--redo', action='store_true', help='also what has a result')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/data/coverage.json')
    parser.add_argument('--lookup', action='store_true', help='count all upstream configs by what the results tell')
    parser.add_argument('--table', action='store_true', help='print the page of the results')
    args = parser.parse_args()
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    if args.table:
        print(table(results['configs'], results.get('lookup', {})), end='')
        return
    sys.path.insert(0, str(HERE))
    if args.lookup:
        from lookup import lookup

        write(args.out, {**results, 'lookup': lookup(results['configs'])})
        return
    torch.set_num_threads(1)
    for module in ('mmdet.models', 'mmdet.engine', 'mmpretrain.models', 'mmpretrain.engine', 'mmagic.models', 'trial'):
        importlib.import_module(module)  # once, before forking

    found = results.get('configs', {})
    todo = [e for e in entries() if any(part in f'{e["lib"]}::{e["path"]}' for part in args.only.split(','))]
    for i, entry in enumerate(todo):
        name = f'{entry["lib"]}::{entry["path"]}'
        if name in found and not args.redo:
            continue
        found[name] = tried(entry, args.num_modules, args.lean)
        print(f'{i + 1}/{len(todo)} {found[name]["outcome"]:14s} {name}  {found[name]["why"][:160]}', flush=True)
        order = {f'{e["lib"]}::{e["path"]}': None for e in entries()}
        ordered = {key: found[key] for key in order if key in found}
        protocol = dict(torch=torch.__version__, num_modules=args.num_modules, lean=args.lean, device='cpu')
        write(args.out, {**results, 'protocol': protocol, 'configs': ordered})


def write(path: Path, results: dict[str, Any]) -> None:
    """Write the results, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix('.part').write_text(json.dumps(results, indent=1) + '\n')
    path.with_suffix('.part').replace(path)


if __name__ == '__main__':
    main()
