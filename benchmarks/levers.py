"""What each lever does to the memory of a training step, alone and together, by the estimate: RetinaNet on COCO images.

Rows vary MAN as in the paper one by one; the last ones are its peers. FLOPs, with what is recomputed, stand for time.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from protocol import ROOT
from rich.console import Console
from rich.table import Table

from man_mm.analysis.measure import estimate_configs
from man_mm.analysis.memory import KINDS

MODULES = {'r34': 17, 'r50': 17, 'r101': 34, 'r152': 51}
NET = 'model.backbone'
HEAD = ('bbox_head.forward_single', 'bbox_head.loss_by_feat_single')


def levers(cfg: Config) -> dict[str, dict[str, Any]]:
    """Changes of the config of MAN as in the paper, by the name of the lever."""
    light = {**cfg.model.bbox_head.to_dict(), 'feat_channels': 64, 'stacked_convs': 1}
    narrow = {**light, 'in_channels': 64}
    few = {**narrow, 'anchor_generator': {**light['anchor_generator'], 'scales_per_octave': 1}}
    neck = f'{NET}.auxiliary.neck.out_channels'
    head = f'{NET}.auxiliary.head'
    slim = dict(type='man_mm.SlimSLM', neck={**cfg.model.neck.to_dict(), 'out_channels': 64}, _delete_=True)
    return {
        'as in the paper': {},
        'eager_step': {'optim_wrapper.eager_step': True},
        "share='stage'": {f'{NET}.share': 'stage'},
        "share='stage', eager_step": {f'{NET}.share': 'stage', 'optim_wrapper.eager_step': True},
        'with_cp': {f'{NET}.backbone.with_cp': True},
        'head level by level': {'custom_hooks': recomputed(cfg, HEAD)},
        'cut_stage=False': {f'{NET}.auxiliary.cut_stage': False},
        'light heads (64 channels, 1 convolution)': {head: dict(bbox_head=light)},
        'light heads, necks of 64 channels': {head: dict(bbox_head=narrow), neck: 64},
        'the same, a third of the anchors': {head: dict(bbox_head=few), neck: 64},
        'SlimSLM, light heads and necks': {f'{NET}.auxiliary': {**slim, 'head': dict(bbox_head=narrow)}},
        'the same, a third of the anchors; eager_step': {
            f'{NET}.auxiliary': {**slim, 'head': dict(bbox_head=few)},
            'optim_wrapper.eager_step': True,
        },
    }


def recomputed(cfg: Config, functions: tuple[str, ...]) -> list[dict[str, Any]]:
    hook = dict(type='man_mm.ActivationCheckpointHook', functions=list(functions))
    return [*(h.to_dict() for h in cfg.custom_hooks), hook]


def peers(depth: str) -> list[str]:
    """Config files below `configs/`."""
    k = MODULES[depth]
    names = [f'bp/retinanet_{depth}_{rule}_coco.py' for rule in ('bp', 'bp-ckpt', 'bp-ckptall')]
    names += [
        f'man/retinanet_{depth}_{rule}_coco.py'
        for rule in ('manlean_k4', f'manlean_k{k}', f'manlean-ckpt_k{k}', 'manlean-copy_k4', f'manlean-copy_k{k}')
    ]
    rest = ('bp/*_bp-amp_*', 'bp/*_bp-ckptall-amp_*', f'dgl/*_dgl_k{k}_*', f'man/*_man-ckpt_k{k}_*')
    rest += ('man/*_man-amp_*', 'man/*_manlean-amp_*')
    for pattern in rest:
        names += [
            str(path.relative_to(ROOT / 'configs')) for path in ROOT.glob(f'configs/{pattern}') if depth in path.stem
        ]
    return [name for name in dict.fromkeys(names) if name.endswith('_coco.py')]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--depth', choices=list(MODULES), default='r50')
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--size', type=int, default=512, help='height and width of images in px')
    parser.add_argument('--device', default='cuda', help='whose operators to follow: cpu or cuda')
    parser.add_argument('--levers', action='store_true', help='the levers one by one, too')
    parser.add_argument('--modules', type=int, nargs='*', default=[], help='lean at other K, cut by memory')
    parser.add_argument('--json', type=Path, help='file to write the rows to')
    args = parser.parse_args()
    MMLogger.get_instance('levers', logger_name='levers', log_level='ERROR')  # else every weight is a line
    paper = ROOT / f'configs/man/retinanet_{args.depth}_man_k{MODULES[args.depth]}_coco.py'
    whole = {name: Config.fromfile(ROOT / 'configs' / name) for name in peers(args.depth)}
    changes = levers(Config.fromfile(paper))
    for name, changed in (changes if args.levers else {'as in the paper': {}}).items():
        cfg = Config.fromfile(paper)
        cfg.merge_from_dict(changed)
        whole[name] = cfg
    for k in args.modules:
        cfg = Config.fromfile(ROOT / f'configs/man/retinanet_{args.depth}_manlean_k{MODULES[args.depth]}_coco.py')
        cfg.model.backbone.update(num_modules=k, partition='memory', probe_size=(args.size, args.size))
        whole[f"lean, K={k}, partition='memory'"] = cfg
    for cfg in whole.values():
        cfg.train_dataloader.batch_size = args.batch
    rows = estimate_configs(list(whole.items()), args.device, (args.size, args.size))
    table = Table('setting', 'peak MiB', 'ratio', *KINDS, 'GFLOP', 'ratio')
    first = rows[0]
    for row in rows:
        ratios = [f'{row[key] / first[key]:.2f}' for key in ('peak_mib', 'gflops')]
        parts = (f'{row[f"{kind}_mib"]:.0f}' for kind in KINDS)
        table.add_row(row['config'], f'{row["peak_mib"]:.0f}', ratios[0], *parts, f'{row["gflops"]:.0f}', ratios[1])
    Console(width=None if sys.stdout.isatty() else 170).print(table)
    if args.json:
        for row in rows:
            del row['timeline_mib'], row['modules']
        report = dict(device=f'{args.device} (estimate)', torch=torch.__version__, rows=rows)
        args.json.write_text(json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
    main()
