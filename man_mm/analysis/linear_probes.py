"""Linear probes: what a linear classifier can read from the frozen features of a layer."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .features import layer_features, pool

__all__ = ['labelled_features', 'probe_layers']


def labelled_features(
    model: Any, batches: Iterable[Any], layers: Sequence[str] | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Pooled features of a classifier's layers, and the classes of the images.

    Args:
        model: A model of MMPretrain.
        batches: As a data loader collates them.
        layers: See `layer_features`.

    Returns:
        Features (N, C) by layer, and labels (N,).

    Raises:
        ValueError: If the images have no single class each; detection data has none.
    """
    parts: list[dict[str, np.ndarray]] = []
    labels: list[int] = []
    for batch in batches:
        samples = batch.get('data_samples') or []
        if not samples or any('gt_label' not in sample for sample in samples):
            raise ValueError('linear probes need images of one class each: data samples with gt_label.')
        labels += [int(sample.gt_label) for sample in samples]
        parts.append({name: value.numpy() for name, value in layer_features(model, batch, _pooled, layers).items()})
    if not parts:
        raise ValueError('there is no batch to probe on: the data set has fewer images than a batch.')
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, np.array(labels)


def _pooled(feature: torch.Tensor) -> torch.Tensor:
    return pool(feature).double().cpu()


def probe_layers(
    train: tuple[Mapping[str, np.ndarray], np.ndarray],
    test: tuple[Mapping[str, np.ndarray], np.ndarray],
    strength: float = 1.0,
    max_iter: int = 300,
) -> dict[str, float]:
    """Accuracy in percent, on `test`, of a logistic regression on the standardised features `train` of every layer.

    Args:
        train: As `labelled_features` returns them.
        test: The same of other images.
        strength: Inverse weight of the L2 penalty, `C` of scikit-learn's `LogisticRegression`.
        max_iter: Steps of L-BFGS at most.
    """
    scores = {}
    for name, features in train[0].items():
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=max_iter))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', ConvergenceWarning)  # the last digits do not matter
            classifier.fit(features, train[1])
        scores[name] = 100 * float(classifier.score(test[0][name], test[1]))
    return scores
