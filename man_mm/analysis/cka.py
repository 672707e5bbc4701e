"""Centred kernel alignment (CKA) of layers: how alike two networks see the images, up to rotation and scale.

Linear CKA of minibatches with the unbiased estimate of HSIC: Nguyen, Raghu and Kornblith, "Do Wide and Deep Networks
Learn the Same Things?", ICLR 2021, Eq. 2 and 3; the index is Kornblith et al., ICML 2019. A layer enters by the Gram
matrix (N, N) of its features alone, so whole maps are compared, however large, with no position left out.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .features import layer_features, pool

__all__ = ['LEAST_IMAGES', 'MinibatchCKA', 'centred_gram', 'compare_layers']

LEAST_IMAGES = 4
"""Of a minibatch; the unbiased estimate divides by N - 3."""


def centred_gram(features: Tensor) -> Tensor:
    """The Gram matrix of features, centred such that the products of two of them estimate HSIC without bias.

    For centred U and V, `(U * V).sum() / (N * (N - 3))` is HSIC_1 of Nguyen et al., Eq. 3 (by the U-centring of Szekely
    and Rizzo, 2014).

    Args:
        features: (N, ...); everything after the first dimension is flattened.

    Returns:
        (N, N), in double precision, with zeros on the diagonal; every row sums to 0.

    Raises:
        ValueError: If there are fewer than 4 images.
    """
    num = len(features)
    if num < LEAST_IMAGES:
        raise ValueError(f'a minibatch of {num} images is too small for CKA: it needs {LEAST_IMAGES} or more.')
    flat = features.flatten(1).double()
    flat = flat - flat.mean(0)  # changes nothing but rounding errors
    gram = (flat @ flat.T).fill_diagonal_(0)
    rows = gram.sum(1) / (num - 2)
    centred = gram - rows[:, None] - rows[None, :] + rows.sum() / (num - 1)
    return centred.fill_diagonal_(0)


class MinibatchCKA:
    """CKA between all layers of one network and all of another, accumulated over minibatches of equal size.

    The three HSIC terms are averaged over the minibatches first; CKA is made of the averages.
    """

    def __init__(self) -> None:
        self._terms: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, first: Tensor, second: Tensor) -> None:
        """Add a minibatch: `centred_gram` of the layers of both networks, (A, N, N) and (B, N, N)."""
        pairs = first.shape[1] * (first.shape[1] - 3)
        one, other = first.flatten(1), second.flatten(1)
        self._terms.append((one @ other.T / pairs, one.square().sum(1) / pairs, other.square().sum(1) / pairs))

    def value(self) -> Tensor:
        """CKA (A, B); about 0 for unrelated layers (it may be below), 1 for layers equal up to rotation and scale.

        NaN where a layer gives the same for all images.

        Raises:
            ValueError: If there was no minibatch.
        """
        if not self._terms:
            raise ValueError('there is no minibatch to compare layers on: the data set has fewer images than one.')
        cross, first, second = (torch.stack(term).mean(0) for term in zip(*self._terms, strict=True))
        return cross / (first[:, None] * second[None, :]).sqrt()


def compare_layers(
    models: Sequence[Any],
    pairs: Sequence[tuple[int, int]],
    batches: Iterable[Any],
    layers: Sequence[str] | None = None,
    pooled: bool = False,
) -> list[Tensor]:
    """CKA between all layers of the two models of each pair, on the same images.

    Args:
        models: Of MMEngine, each with its own data preprocessor.
        pairs: Indices into `models`.
        batches: Minibatches of equal size, as a data loader collates them.
        layers: See `layer_features`; by default the ends of the units of the backbones.
        pooled: Compare means over positions instead of whole maps.

    Returns:
        A matrix (layers of the first, layers of the second) for each pair.

    Raises:
        ValueError: If a layer is unknown, there is no batch, or one of fewer than 4 images.
    """

    def reduce(feature: Tensor) -> Tensor:
        return centred_gram(pool(feature) if pooled else feature)

    meters = [MinibatchCKA() for _ in pairs]
    for batch in batches:
        grams = [torch.stack([*layer_features(model, batch, reduce, layers).values()]) for model in models]
        for meter, (first, second) in zip(meters, pairs, strict=True):
            meter.add(grams[first], grams[second])
    return [meter.value() for meter in meters]
