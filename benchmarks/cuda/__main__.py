"""What only a CUDA device can tell: times, waits, memory by the allocator, mixed precision, in one command.

    python benchmarks/cuda --out OUT --budget 290                    # from the root of the checkout
    python benchmarks/cuda --out OUT --stages time smoke --only R50  # some stages, some of their checks
    python benchmarks/cuda --out OUT --device cpu                    # dry run, tiny sizes

A stage is a process with a limit of its own; it writes OUT/<stage>.json after every check, so that an end at any moment
loses nothing. A check that hangs or breaks CUDA is ended and noted, and its stage goes on behind it. Seconds that a
stage leaves go to the next one. See docs/gpu.md.
"""

import argparse
import os
import sys
import warnings
from pathlib import Path

STAGES = dict(time=95, smoke=40, resnet=50, memory=30, train=35, pytest=15)
"""Limits in seconds, in the order of what is asked first; with 25 s of imports they add up to 290."""
ENVIRONMENT = dict(
    PYTORCH_NVML_BASED_CUDA_CHECK='1',  # torch.cuda.is_available() must not start CUDA here: forks could not use it
    USE_JAX='0',  # else MMagic's imports (diffusers, transformers) start JAX where it is installed
    USE_FLAX='0',
    USE_TF='0',
    XLA_PYTHON_CLIENT_PREALLOCATE='false',
    HF_HUB_OFFLINE='1',
    NO_ALBUMENTATIONS_UPDATE='1',
    MPLBACKEND='Agg',
    PYTHONWARNINGS='ignore',
    OMP_NUM_THREADS=str(min(8, os.cpu_count() or 1)),
    CUBLAS_WORKSPACE_CONFIG=':4096:8',  # a run that is resumed is compared to the bit
)
"""Before torch is imported."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda')
    parser.add_argument('--out', type=Path, required=True, help='folder of the results')
    parser.add_argument('--budget', type=float, default=290, help='seconds for all')
    parser.add_argument('--stages', nargs='+', choices=list(STAGES), default=list(STAGES))
    parser.add_argument('--only', default='', help='regular expression: the checks to run, by name')
    parser.add_argument('--scale', type=float, default=1, help='factor on all limits')
    parser.add_argument('--spawn', action='store_true', help='start stages afresh instead of forking them')
    parser.add_argument('--run', choices=list(STAGES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out = args.out.resolve()
    return args


if __name__ == '__main__':
    args = parse_args()
    warnings.simplefilter('ignore')
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    folder = Path(__file__).resolve().parent
    sys.path[:0] = [str(folder), str(folder.parents[1])]  # before a package `tests` of a wheel
    from driver import main

    main(args, STAGES)
