"""SLM, the Simple Local Module: a downsized rest of the same backbone (paper, section 3.2 and Eq. 4)."""

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn import functional as F

from ..keys import count, strict_keys, switch
from ..local import Activation, Auxiliary, Site, Task, Unit, copy_layers, layers_of, run_units
from ..registry import MODELS
from .layers import reset_weights

__all__ = ['SLM']

FOLLOW_MOMENTUM = 0.005
"""That of Momentum Auxiliary Networks for COCO, where 0.995 is the share of the own weights."""


@MODELS.register_module()
@strict_keys
class SLM(Auxiliary):
    """The first units of every stage that remains after the cut, then the backbone's own `finish`.

    The units of a stage are the first ones after the cut, with parameters of their own; their output stands for the
    stage's. Taps before the cut come from the feature bank.

    Args:
        init: `copy` starts from the weights of the mirrored units, also after a plain checkpoint is loaded;
            `random` from a fresh Kaiming initialisation.
        units_per_stage: n_s in Eq. 4. 0 leaves the units out: what follows then sees the module's output as it is,
            which a classifier that pools it and EDSR's tail can use.
        cut_stage: Whether a stage that the cut divides has units too; if not, the module's output stands for it.
        tail: The layers that `finish` applies after the units, e.g. EDSR's upsampler: `private` for copies, `shared`
            for the backbone's own, which every local loss then trains (see `shared_head_grad`), or a dict from a
            layer's name to the config of the one to use instead, None to leave it out.
        follow: `ema` lets the units follow the units that they mirror: after every optimizer step their weights become
            `(1 - follow_momentum) * own + follow_momentum * mirrored`, the formula of MMEngine's
            `ExponentialMovingAverage` (Momentum Auxiliary Networks, ECCV 2024, have such a block and train another one
            beside it). They have no gradient, optimizer state or weight decay; gradients pass through them to the
            module, and neck, head and tail train as ever.
            Running statistics are their own: they describe what comes out of the module, not what the mirrored units
            see, and a norm reads them only where `norm_eval` keeps both as they are. With `share='stage'` they follow
            what the first of the modules mirrors.
        follow_momentum: The share of the mirrored weights, in (0, 1].
        trainable: False leaves the units at the weights that they start from, without gradients of their own. Units
            that follow are not trained either way. `load_from` a checkpoint that has auxiliaries is a start from those:
            units that were trained there are no copies; strip it first.
        bank_vectors: Join the feature bank's pooled taps, (N, C) for every stage that ended in an earlier module, to
            the features that the head reads, each normalised over its channels. For classifiers, and a head of its own.
        kwargs: See `Auxiliary`.

    Raises:
        ValueError: If one of them is none of these.
    """

    hands_maps_on = True

    def __init__(
        self,
        site: Site,
        init: str = 'copy',
        units_per_stage: int = 1,
        cut_stage: bool = True,
        tail: str | dict[str, Any] = 'private',
        bank_vectors: bool = False,
        follow: str | None = None,
        follow_momentum: float = FOLLOW_MOMENTUM,
        trainable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(site, **kwargs)
        if init not in ('copy', 'random'):
            raise ValueError(f"auxiliary.init={init!r} must be 'copy' or 'random'.")
        _check_follow(follow, follow_momentum, init)
        count('auxiliary.units_per_stage', units_per_stage, least=0)
        self.init = init
        self.units = site.unrolled.first_of_remaining_stages(
            site.end, units_per_stage, switch('auxiliary.cut_stage', cut_stage)
        )
        self.finish = site.unrolled.finish
        own_tail = _own_tail(tail, site.unrolled.tail)
        self.paths = (*(path for unit in self.units for path in unit.layers), *own_tail)
        self.tensors = tuple(path for unit in self.units for path in unit.tensors)
        self.layers = copy_layers(site.net, self.paths, self.tensors)
        for path, cfg in tail.items() if isinstance(tail, dict) else ():
            self.layers.add_module(path, nn.Identity() if cfg is None else MODELS.build(cfg))
        self.shared_tail = site.unrolled.tail if tail == 'shared' else ()
        self._tail_of = (site.net if self.shared_tail else self.layers,)  # in a tuple: it does not become a submodule
        self.stood_for = _outputs_without_units(site, self.units)
        self.vectors = self._pooled_taps(site) if switch('auxiliary.bank_vectors', bank_vectors) else {}
        self.reads_pooled = bool(self.vectors)
        self._widths = {} if self.units else self._width_without_units(site, own_tail)
        self.follows = follow is not None
        self.follow_momentum = follow_momentum
        if self.follows or not switch('auxiliary.trainable', trainable):
            self._hold_units(site, f'auxiliary.follow={follow!r}' if self.follows else 'auxiliary.trainable=False')

    def _hold_units(self, site: Site, key: str) -> None:
        self.trains_units = False
        for p in self._parameters_of_units(self.layers):
            p.requires_grad_(False)
        if not self.units and site.module == 0:  # the one that would have most: said once
            print_log(f'{key} has nothing to act on: SLMs have no units.', logger='current', level=logging.WARNING)

    def _parameters_of_units(self, net: nn.Module) -> list[Tensor]:
        return [p for unit in self.units for p in unit.parameters(net)]

    def _pooled_taps(self, site: Site) -> dict[str, int]:
        """Pooled taps of the modules before this one, and their channels."""
        if self.head == 'shared':
            raise ValueError(
                "auxiliary.bank_vectors=True needs a head of its own, which reads more features than the model's: set "
                "auxiliary.head='private'."
            )
        earlier = site.unrolled.units[: site.start]
        taps = {unit.tap: site.shapes()[i][0] for i, unit in enumerate(earlier) if unit.pooled and unit.tap}
        if not taps and site.module == site.partition.num_modules - 2:  # the one that would have most: said once
            print_log(
                'auxiliary.bank_vectors=True has nothing to act on: no stage that is not an output of the backbone '
                'ends before the last auxiliary.',
                logger='current',
                level=logging.WARNING,
            )
        return taps

    def _width_without_units(self, site: Site, own_tail: tuple[str, ...]) -> dict[int, int]:
        """A head that reads the channels of the backbone's last map is to read those of the module's output instead."""
        own, last = site.shapes()[site.end - 1], site.shapes()[-1]
        if len(own) != 3 or own[0] == last[0]:
            return {}
        if own_tail or self.shared_tail:
            raise ValueError(
                f'auxiliary.units_per_stage=0: {list(own_tail or self.shared_tail)} after the last unit reads '
                f'{last[0]} channels, the output of {site.name} has {own[0]}. Set auxiliary.tail to a dict that '
                'replaces it, or leaves it out (None), or partition so that no such module is left.'
            )
        if self.head == 'shared' and self.neck is None:
            raise ValueError(
                f"auxiliary.units_per_stage=0 with auxiliary.head='shared': the model's head reads {last[0]} channels, "
                f"the output of {site.name} has {own[0]}. Set auxiliary.head='private', or partition so that no such "
                'module is left.'
            )
        return {last[0]: own[0]}

    def forward(self, x: Activation, taps: Mapping[str, Tensor]) -> Any:
        """What the wrapped backbone would return. It carries the graph wherever `x` or a tap does."""
        made, own = run_units(self.units, self.layers, x)
        stood_for = dict.fromkeys(self.stood_for, x)
        return self.finish(self._tail_of[0], made, {**taps, **stood_for, **own})

    def shared_parameters(self) -> list[nn.Parameter]:
        """See `Auxiliary.shared_parameters`: those of a shared tail."""
        return [p for path in self.shared_tail for p in self._tail_of[0].get_submodule(path).parameters()]

    def local_losses(self, x: Activation, taps: Mapping[str, Tensor], task: Task) -> dict[str, Any]:
        """See `Auxiliary.local_losses`. Features of the bank come detached."""
        features = task.neck(self(x, taps))
        if self.vectors:
            banked = (F.layer_norm(taps[name], taps[name].shape[1:]) for name in self.vectors)
            joined = torch.cat([features[-1], *banked], dim=1)
            features = (*features[:-1], joined)
        return task.loss(features)

    def head_width(self, in_channels: int) -> int:
        """See `Auxiliary.head_width`."""
        return self._widths.get(in_channels, in_channels) + sum(self.vectors.values())

    def signature(self) -> tuple[Hashable, ...]:
        """See `Auxiliary.signature`. `stood_for` is left out: an output that ends with the module is `x` either way."""
        made = tuple(unit.tap for unit in self.units)
        return (*layers_of(self), made, tuple(self.vectors.items()), tuple(self._widths.items()))

    def init_weights(self) -> None:
        """Initialise neck and heads by their own configs, and the units when `init='random'`."""
        super().init_weights()
        if self.init == 'random':
            reset_weights(self.layers)

    def mirrored_keys(self) -> dict[str, str]:
        """See `Auxiliary.mirrored_keys`."""
        if self.init == 'random':
            return {}
        mirrored = tuple(f'{path}.' for path in self.paths)
        keys = self.layers.state_dict()
        return {f'layers.{key}': key for key in keys if key.startswith(mirrored) or key in self.tensors}

    @torch.no_grad()
    def follow_weights(self, net: nn.Module) -> None:
        """See `Auxiliary.follow_weights`."""
        if self.follows and self.units:
            own, mirrored = self._parameters_of_units(self.layers), self._parameters_of_units(net)
            torch._foreach_lerp_(own, mirrored, self.follow_momentum)

    def follow_mode(self, net: nn.Module) -> None:
        """See `Auxiliary.follow_mode`."""
        for path in self.paths:
            pairs = zip(self.layers.get_submodule(path).modules(), net.get_submodule(path).modules(), strict=True)
            for own, source in pairs:
                own.training = source.training


def _check_follow(follow: Any, momentum: Any, init: str) -> None:
    """Raise ValueError if units cannot follow like that."""
    if follow not in (None, 'ema'):
        raise ValueError(f"auxiliary.follow={follow!r} must be None or 'ema'.")
    if isinstance(momentum, bool) or not isinstance(momentum, (int, float)) or not 0 < momentum <= 1:
        raise ValueError(f'auxiliary.follow_momentum={momentum!r} must be a number, more than 0 and at most 1.')
    if follow is None and momentum != FOLLOW_MOMENTUM:
        raise ValueError(f"auxiliary.follow_momentum={momentum!r} needs auxiliary.follow='ema'.")
    if follow is not None and init != 'copy':
        raise ValueError(
            f"auxiliary.follow={follow!r} needs auxiliary.init='copy', not {init!r}: an average of weights starts from "
            'them.'
        )


def _own_tail(tail: str | dict[str, Any], paths: tuple[str, ...]) -> tuple[str, ...]:
    """Layers of the backbone's tail that an SLM holds copies of.

    Raises:
        ValueError: If `tail` is none of what `SLM` knows, or names a layer that is not in the backbone's tail.
    """
    if isinstance(tail, dict):
        unknown = sorted(set(tail) - set(paths))
        if unknown:
            raise ValueError(f'auxiliary.tail names {unknown}, but the layers after the last unit are {list(paths)}.')
        if not tail or not all(cfg is None or (isinstance(cfg, dict) and 'type' in cfg) for cfg in tail.values()):
            raise ValueError(
                f'auxiliary.tail={tail!r} must map layers, some of {list(paths)}, to configs with a type, or to None.'
            )
        return tuple(path for path in paths if path not in tail)
    if tail not in ('private', 'shared'):
        raise ValueError(f"auxiliary.tail={tail!r} must be 'private', 'shared', or a dict from a layer to a config.")
    return paths if tail == 'private' else ()


def _outputs_without_units(site: Site, own: tuple[Unit, ...]) -> tuple[str, ...]:
    """Outputs of the backbone after the cut that no unit of the SLM makes: the module's output stands in for them.

    Raises:
        ValueError: If there is more than one: no neck reads one map at several scales.
    """
    made = {unit.tap for unit in own}
    later = site.unrolled.units[site.end :]
    names = tuple(unit.tap for unit in later if unit.tap and not unit.pooled and unit.tap not in made)
    if len(names) + (later[-1].tap is None and not own) > 1:
        raise ValueError(
            f'auxiliary.units_per_stage=0 leaves one map for {list(names)}: only a backbone with one output can do '
            'without units.'
        )
    return names
