"""The layers behind the last unit, run part by part of the batch, make the same step in less memory."""

import pytest
import torch

from man_mm.analysis.memory import PeakMemory, training_tensors

from ..helpers.detection import build, retinanet
from ..helpers.restoration import batch, editor, make
from ..helpers.training import Trainer


def step(tail_chunks, num=5):
    """A model after a step on `num` images, and the most that was alive in it."""
    light = dict(type='pixel_shuffle', in_channels=8, out_channels=3, scale_factor=4, upsample_kernel=3)
    auxiliary = dict(units_per_stage=0, tail=dict(conv_after_body=None, upsample=light, conv_last=None))
    model = make(editor(num_modules=3, scale=4, auxiliary=auxiliary, tail_chunks=tail_chunks))
    trainer = Trainer(model, lr=0.0)
    with PeakMemory(training_tensors(model)) as meter:
        trainer.step(batch(num, scale=4))
    return trainer.gradients, meter.peak_bytes


def test_parts_that_do_not_divide_the_batch_give_the_same_gradients_in_less_memory():
    (whole, most), (parts, less) = step(1), step(3)
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6)
    assert less < 0.8 * most


def test_more_parts_than_images_are_no_error():
    (whole, _), (parts, _) = step(1, num=2), step(8, num=2)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('number', [0, -1, True, 1.5, '2', None])
def test_a_number_that_is_none_is_named(number):
    with pytest.raises(ValueError, match=f'tail_chunks={number!r} must be an integer'):
        make(editor(tail_chunks=number))


def test_a_backbone_without_a_tail_is_refused():
    with pytest.raises(ValueError, match=r'tail_chunks=2 has nothing to act on.*ResNet has the layers'):
        build(retinanet(4, tail_chunks=2))
