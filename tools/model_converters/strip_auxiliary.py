"""Turn a checkpoint of a locally trained model into one that the plain upstream config loads: weights and meta only."""

import argparse
import sys

import torch

from man_mm.plain_checkpoint import plain_weights
from man_mm.runs.checkpoint_file import read_checkpoint


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoint', help='checkpoint that training with a LocalBackbone wrote')
    parser.add_argument('out', help='where to write the plain checkpoint')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        checkpoint = read_checkpoint(args.checkpoint, 'cpu')
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    weights = checkpoint.get('state_dict')
    if weights is None:
        sys.exit(f'{args.checkpoint} holds no state_dict: its keys are {sorted(checkpoint)}.')
    plain = plain_weights(weights)
    torch.save({'meta': checkpoint.get('meta', {}), 'state_dict': plain}, args.out)
    print(f'{len(weights) - len(plain)} auxiliary tensors left out, {len(plain)} written to {args.out}')


if __name__ == '__main__':
    main()
