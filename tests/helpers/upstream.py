"""Upstream's own configs, narrowed, of libraries beyond `make setup`; and what holds when they train by modules."""

import copy

import torch

import man_mm
from man_mm.analysis.step import TrainStep
from man_mm.plain_checkpoint import plain_weights
from man_mm.runs.compat import read_config

from .device import DEVICE
from .training import local_parameters, named, reached


def narrowed(name, **changes):
    """The installed config `name`, with `changes` of dotted keys of its model; on a CPU there is no SyncBN."""
    cfg = read_config(name)
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    _use_plain_norms(cfg.model)
    return cfg


def _use_plain_norms(node):
    if isinstance(node, dict) and node.get('type') == 'SyncBN':
        node['type'] = 'BN'
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        _use_plain_norms(child)


class Observed(TrainStep):
    """A step of a whole config: `gradients` has names of parameters, `seen` those that a loss of a module reaches.

    The main loss is that of the last module.
    """

    def __init__(self, cfg):
        super().__init__(cfg, str(DEVICE))
        self.seen, self.gradients = [], set()
        wrapper = self.optim_wrapper
        for method in ('local_backward', 'backward'):
            if hasattr(wrapper, method):
                setattr(wrapper, method, self._watched(getattr(wrapper, method)))
        self.optimizer.register_step_pre_hook(self._note_gradients)

    def _watched(self, backward):
        def watched(losses, *module):
            total = self.model.parse_losses(losses)[0] if module else losses
            self.seen.append(reached(total, self.model))
            backward(losses, *module)

        return watched

    def _note_gradients(self, *_):
        self.gradients |= {name for name, p in self.model.named_parameters() if p.grad is not None}


def check_localized(cfg, batch, lean, num_modules=4):
    """Let `man_mm.localize` train `cfg` for a step on `batch`: coverage, isolation, transparency, and the way back."""
    plain, local = Observed(cfg), Observed(man_mm.localize(cfg, num_modules, lean))
    for step in (plain, local):
        step(copy.deepcopy(batch))
    check_gradients(plain, local)
    check_isolation(local, num_modules)
    plain.model.load_state_dict(plain_weights(local.model.state_dict()), strict=True)
    expected, got = (_outputs(step.model, batch) for step in (plain, local))
    assert len(expected) == len(got) > 0
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(got, expected, strict=True))


def check_gradients(plain, local):
    """Every weight that trains gets a gradient: all that the plain model trains, and all of the auxiliaries."""
    trained = {name for name, p in local.model.named_parameters() if p.requires_grad}
    assert local.gradients == trained
    assert {name for name in plain_names(trained) if 'auxiliaries.' not in name} == plain.gradients


def check_isolation(local, num_modules):
    """The loss of a module reaches its own parameters, its auxiliary's, and of other parts those that all share.

    Layers behind the last unit, e.g. the norms of a Swin's outputs, are the main loss's.
    """
    assert len(local.seen) == num_modules
    shared = {name for name, _ in local.model.named_parameters() if not name.startswith('backbone.')}
    tail = named(local.model, *(f'backbone.backbone.{path}.' for path in local.model.backbone.unrolled.tail))
    for module, seen in enumerate(local.seen):
        own = local_parameters(local.model, module) | (tail if module == num_modules - 1 else set())
        assert seen - shared == own, f'module {module}'


def plain_names(names):
    """Names of parameters of the model with a `LocalBackbone` as the plain model has them."""
    return {name.replace('backbone.backbone.', 'backbone.', 1) for name in names}


def _outputs(model, batch):
    """What the whole model makes of a batch in evaluation."""
    model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(copy.deepcopy(batch), False)
        return torch.utils._pytree.tree_leaves(model(**data, mode='tensor'))
