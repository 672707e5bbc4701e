"""What only a CUDA device can tell: times, waits, memory by the allocator, mixed precision, in one command.

    python benchmarks/cuda --out OUT --budget 290                    # from the root of the checkout
    python benchmarks/cuda --out OUT --stages time smoke --only R50  # some stages, some of their checks
    python benchmarks/cuda --out OUT --device cpu                    # dry run, tiny sizes

A stage is a process with a limit of its own; it writes OUT/<stage>.json after every check, so that an end at any moment
loses nothing. A check that hangs or breaks CUDA is ended and noted, and its stage goes on behind it. Seconds that a
stage leaves go to the next one. See docs/gpu.md.
"""

import os
import sys
import warnings
from pathlib import Path

warnings.simplefilter('ignore')
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
for key, value in ENVIRONMENT.items():
    os.environ.setdefault(key, value)
FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parents[1])]  # before a package `tests` of a wheel

from driver import main  # noqa: E402

if __name__ == '__main__':
    main(__doc__)
