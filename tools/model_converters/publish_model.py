"""Make a checkpoint ready to be published: upstream's command line. The result loads into the plain upstream config.

Left out are auxiliaries and what only training needs, optimizer states above all; the name gains the file's hash.
"""

import argparse
import hashlib
import sys
from pathlib import Path

import torch

from man_mm.plain_checkpoint import plain_checkpoint
from man_mm.runs.checkpoint_file import read_checkpoint

HASH_DIGITS = 8


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('in_file', help='checkpoint to publish')
    parser.add_argument('out_file', help='where to write it; x.pth becomes x-HASH.pth')
    parser.add_argument(
        '--save-keys',
        nargs='+',
        default=['meta', 'state_dict'],
        help='entries of the checkpoint to keep; others that training does not write are an error',
    )
    return parser.parse_args()


def save_with_hash(checkpoint: dict[str, object], out: Path) -> Path:
    """Write `checkpoint` to a file of `out`'s name and the first digits of its own SHA-256."""
    unnamed = out.with_suffix('.unpublished')
    torch.save(checkpoint, unnamed)
    digest = hashlib.sha256(unnamed.read_bytes()).hexdigest()[:HASH_DIGITS]
    return unnamed.replace(out.with_name(f'{out.name.removesuffix(".pth")}-{digest}.pth'))


def main() -> None:
    args = parse_args()
    try:
        checkpoint = read_checkpoint(args.in_file, 'cpu')
        plain = plain_checkpoint(checkpoint, args.save_keys)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    for key in sorted(set(checkpoint) - set(plain)):
        print(f'{key}: left out, only training needs it')
    if 'state_dict' in plain:
        auxiliary = len(checkpoint['state_dict']) - len(plain['state_dict'])
        averaged = ', the averaged weights of the EMA' if 'ema_state_dict' in checkpoint else ''
        print(f'state_dict: {len(plain["state_dict"])} tensors{averaged}; {auxiliary} of auxiliaries left out')
    print(f'published as {save_with_hash(plain, Path(args.out_file))}')


if __name__ == '__main__':
    main()
