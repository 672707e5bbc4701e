"""Linear probes: they find what is linear, nothing where there is nothing, and read every unit of a classifier."""

import numpy as np
import pytest

from man_mm.analysis.linear_probes import labelled_features, probe_layers

from ..helpers import classification, detection


def test_a_probe_finds_classes_that_a_plane_divides_and_chance_elsewhere():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    noise = rng.normal(size=(400, 5))
    divided = noise + 1000 * (np.arange(5) == 2) * labels[:, None]  # far from standardised
    both = dict(divided=divided, noise=noise)
    halves = [({name: f[part] for name, f in both.items()}, labels[part]) for part in (slice(200), slice(200, 400))]
    scores = probe_layers(*halves)
    assert scores['divided'] == 100 and 35 < scores['noise'] < 65


def test_features_are_those_of_all_units_pooled_with_the_labels_in_order():
    model = classification.make(classification.classifier('man'))
    batches = [classification.batch(4, seed=i, labels=[i, 3, 5, 7]) for i in range(2)]
    features, labels = labelled_features(model, batches)
    assert labels.tolist() == [0, 3, 5, 7, 1, 3, 5, 7]
    assert [value.shape for value in features.values()] == [(8, width) for width in (4, 4, 4, 8, 8, 16, 16)]


def test_images_without_a_class_are_refused():
    detector = detection.build(detection.retinanet(None))
    with pytest.raises(ValueError, match='gt_label'):
        labelled_features(detector, [detection.batch(2)])
    with pytest.raises(ValueError, match='no batch'):
        labelled_features(detector, [])
