"""Supervised local learning with a feature bank (MAN) for OpenMMLab models.

Importing this package needs torch and mmengine only; OpenMMLab's task libraries are reached through their registries.
It patches other packages in five places, so that runs work on the stacks that people have:

- `torch.load` (torch >= 2.6), at once: it accepts what MMEngine itself writes to checkpoints, which `--resume` reads.
- `Config._get_cfg_path` of MMEngine, at once: `_base_ = 'man_mm::...'` finds our configs; other bases are as before.
- MMEngine's loader of local checkpoints, at once: damaged and hostile files are refused by name, before they act.
- numpy >= 2, when MMagic is imported: `np.bool8`, which MMagic 1.2.0 reads. MMagic is to be imported after man_mm.
- `mmcv.ops`, when they are imported: kernels that have no bfloat16 compute it in float32.

`man_mm.runs.patches.undo_patches` takes all of them back. `man_mm.readout`, imported with the first model of ours,
patches MMEngine's constructor of optimizers: those that know layers by their names see the model without our wrapper.
"""

from typing import Any

from .runs.patches import apply_patches

__version__ = '0.1.0'
__all__ = ['__version__', 'localize']

apply_patches()


def __getattr__(name: str) -> Any:
    """`localize`, imported when it is asked for: it brings all of the package."""
    if name == 'localize':
        from .localizing import localize

        return localize
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
