"""Write the config file that --local-learning K of train.py stands for: a short one that inherits the plain config."""

import argparse
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from keyword import iskeyword
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config.utils import ConfigParsingError

from man_mm.localizing import Keys, choose_keys
from man_mm.runs.compat import read_config

WIDTH = 100
FILE = """{said}
_base_ = {base!r}
from man_mm.config import local_learning

{light}model, optim_wrapper, custom_hooks, find_unused_parameters = local_learning(
    _base_,
    num_modules={num_modules},
{backbone})
{rest}"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config', help='plain config: a path, or the name of an installed one, e.g. mmdet::retinanet/...'
    )
    parser.add_argument('--num-modules', type=int, default=4, metavar='K', help='default: 4')
    parser.add_argument('--lean', action='store_true', help='take the form that saves most memory')
    parser.add_argument('--out', type=Path, required=True, help='file to write')
    args = parser.parse_args()
    if args.out.suffix != '.py' or args.out.exists():
        parser.error(f'--out {args.out}: must end in .py, and must not exist')
    return args


def config_file(cfg: Config, keys: Keys, base: str) -> str:
    """Text of a config file that inherits `base`, of which `cfg` is read, and stands for `keys` on it."""
    model, auxiliary = cfg.model.to_dict(), keys.form.auxiliary
    head = auxiliary['head'].get('bbox_head') if isinstance(auxiliary.get('head'), dict) else None
    parts = {'neck': ('neck', auxiliary.get('neck')), 'head': ('bbox_head', head)}
    light = {own: (name, part) for own, (name, part) in parts.items() if part and part != model.get(name)}
    names = [(model.get('neck'), '_base_.model.neck'), *((part, own) for own, (_, part) in light.items())]
    changes = [
        line
        for own, (name, part) in light.items()
        for line in (f'{own} = _base_.model.{name}.to_dict()', *updates(own, model[name], part))
    ]
    rest = [f'optim_wrapper.update({keywords(keys.optim_wrapper, names)})'] if keys.optim_wrapper else []
    rest += [f'custom_hooks.append({expression(hook, names)})' for hook in keys.hooks]
    rest += [f'{key} = {expression(value, names)}' for key, value in keys.top.items()]
    rest += [f'del {", ".join(light)}  # else they are keys of the config'] if light else []
    backbone = {**keys.form.backbone, 'auxiliary': auxiliary}
    return FILE.format(
        said=textwrap.fill(str(keys), WIDTH, initial_indent='# ', subsequent_indent='# '),
        base=base,
        light=''.join(f'{line}\n' for line in changes),
        num_modules=keys.num_modules,
        backbone=''.join(f'    {key}={expression(value, names, 4)},\n' for key, value in backbone.items()),
        rest=''.join(f'{line}\n' for line in rest),
    )


def updates(place: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Statements that make `after` of the dict `before` at `place`."""
    changed = {key: value for key, value in after.items() if before.get(key) != value}
    inner = [key for key, value in changed.items() if isinstance(value, dict) and isinstance(before.get(key), dict)]
    own = {key: value for key, value in changed.items() if key not in inner}
    if own:
        yield f'{place}.update({keywords(own, []) if all_words(own) else expression(own, [])})'
    for key in inner:
        yield from updates(f'{place}[{key!r}]', before[key], after[key])


def expression(value: Any, names: list[tuple[Any, str]], indent: int = 0) -> str:
    """Python for a value of a config; parts that have names are called by them."""
    known = next((name for part, name in names if part is not None and part == value), None)
    if known is not None:
        return known
    if not isinstance(value, dict):
        return repr(value)
    if not all_words(value):
        return '{' + ', '.join(f'{key!r}: {expression(item, names)}' for key, item in value.items()) + '}'
    line = f'dict({keywords(value, names)})'
    if len(line) + indent <= WIDTH:
        return line
    lines = [f'{" " * (indent + 4)}{key}={expression(item, names, indent + 4)},\n' for key, item in value.items()]
    return f'dict(\n{"".join(lines)}{" " * indent})'


def all_words(keys: Iterable[Any]) -> bool:
    """Whether a call takes them as names of its arguments."""
    return all(isinstance(key, str) and key.isidentifier() and not iskeyword(key) for key in keys)


def keywords(values: Mapping[str, Any], names: list[tuple[Any, str]]) -> str:
    return ', '.join(f'{key}={expression(value, names)}' for key, value in values.items())


def main() -> None:
    args = parse_args()
    cfg = read_config(args.config)
    try:
        keys = choose_keys(cfg, args.num_modules, args.lean)
    except ValueError as error:
        sys.exit(str(error))
    base = args.config if '::' in args.config else Path(os.path.relpath(args.config, args.out.parent)).as_posix()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(config_file(cfg, keys, base), encoding='utf-8')
    try:
        written = read_config(str(args.out))
    except (ConfigParsingError, RuntimeError) as error:  # it is in the pure Python style
        args.out.unlink()
        sys.exit(f'{args.config} cannot be inherited by a file in the text style: {error} See docs/downstream.md.')
    assert written.to_dict() == keys.on(cfg).to_dict()
    print(f'{args.out}: {keys}')


if __name__ == '__main__':
    main()
