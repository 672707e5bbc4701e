"""Says which module ran out of memory, in what, and which lever helps."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ['explain_out_of_memory']

LEVERS = {
    'forward': "more modules or partition='memory' (smaller modules), man_mm.ActivationCheckpointHook or the "
    "backbone's with_cp (recompute)",
    'local loss': "auxiliary.type='man_mm.SlimSLM', a neck and a head of fewer channels and anchors for auxiliaries, "
    'man_mm.ActivationCheckpointHook on the head, tail_chunks for super-resolution',
    'backward': "optim_wrapper.eager_step=True with slim auxiliaries (man_mm.SlimSLM) or share='stage': the gradients "
    'of modules before this one are freed',
    'step': "share='stage' or man_mm.SlimSLM (fewer weights, gradients, and less optimizer state), "
    'optim_wrapper.eager_step=True',
    'main loss': 'a last module that is smaller (a list of cuts as partition), man_mm.ActivationCheckpointHook on neck '
    'and head',
}


@contextmanager
def explain_out_of_memory(phase: str, where: str) -> Iterator[None]:
    """Add to an out-of-memory error that passes where it came from; the innermost of these blocks speaks.

    Args:
        phase: A key of `LEVERS`.
        where: E.g. `module 3 (layer1.2 .. layer2.1)`.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:  # torch >= 2.5 calls it torch.OutOfMemoryError
        if not hasattr(error, '__notes__'):
            error.add_note(
                f'man_mm: out of memory in the {phase} of {where}. What helps here: {LEVERS[phase]}. What helps '
                'everywhere: a smaller batch, or plan=dict(memory=...), with which tools/train.py looks for what fits '
                '(tools/analysis_tools/plan.py). See docs/memory.md.'
            )
        raise
