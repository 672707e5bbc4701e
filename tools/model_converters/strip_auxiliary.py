"""Turn a checkpoint of a locally trained model into one that the plain upstream config loads: weights and meta only."""

import argparse
import sys

import torch

import man_mm  # noqa: F401  (lets torch.load read MMEngine's checkpoints)
from man_mm.analysis.structure import is_auxiliary_key


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoint', help='checkpoint that training with a LocalBackbone wrote')
    parser.add_argument('out', help='where to write the plain checkpoint')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    checkpoint = torch.load(args.checkpoint, map_location='cpu')
    weights = checkpoint.get('state_dict')
    if weights is None:
        sys.exit(f'{args.checkpoint} holds no state_dict: its keys are {sorted(checkpoint)}.')
    plain = {key: value for key, value in weights.items() if not is_auxiliary_key(key)}
    torch.save({'meta': checkpoint.get('meta', {}), 'state_dict': plain}, args.out)
    print(f'{len(weights) - len(plain)} auxiliary tensors left out, {len(plain)} written to {args.out}')


if __name__ == '__main__':
    main()
