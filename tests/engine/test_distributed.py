"""Gradients of a module travel in one message, and become views of it."""

import pytest
import torch
from torch import nn

from man_mm.engine import PipelineHook
from man_mm.engine.distributed import _Message

from ..helpers.training import fake_runner


def parameters():
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in ((2, 3), (4,), (1, 2, 2))]


def exchange(*gradients):
    """Messages of processes whose parameters have these gradients, after an all-reduce; and the parameters."""
    ranks = [parameters() for _ in gradients]
    for rank, own in zip(ranks, gradients, strict=True):
        for p, grad in zip(rank, own, strict=True):
            p.grad = grad
    messages = [_Message(rank, len(gradients)) for rank in ranks]
    total = sum(message.flat for message in messages)
    for message in messages:
        message.flat.copy_(total)
        message.open()
    return messages, ranks


def like(value):
    return [torch.full_like(p, value) for p in parameters()]


def test_every_process_ends_with_the_mean():
    _, ranks = exchange(like(1.0), like(4.0))
    for rank in ranks:
        for p in rank:
            assert torch.equal(p.grad, torch.full_like(p, 2.5)) and p.grad.shape == p.shape


def test_gradients_are_views_of_the_message_so_no_second_copy_stays():
    messages, ranks = exchange(like(1.0), like(4.0))
    for message, rank in zip(messages, ranks, strict=True):
        assert {p.grad.untyped_storage().data_ptr() for p in rank} == {message.flat.untyped_storage().data_ptr()}


def test_a_parameter_without_gradient_in_one_process_counts_as_zero_there():
    _, ranks = exchange(like(1.0), [None, *like(4.0)[1:]])
    for rank in ranks:
        assert torch.equal(rank[0].grad, torch.full_like(rank[0], 0.5))


def test_a_parameter_without_gradient_in_all_processes_keeps_none():
    _, ranks = exchange([None, *like(1.0)[1:]], [None, *like(4.0)[1:]])
    for rank in ranks:
        assert rank[0].grad is None and torch.equal(rank[1].grad, torch.full_like(rank[1], 2.5))


def test_the_hook_of_a_pipeline_refuses_several_processes_without_one():
    with pytest.raises(ValueError, match=r'PipelineHook, but 2 processes train by Linear: set model_wrapper_cfg=dict'):
        PipelineHook().before_train(fake_runner(model=nn.Linear(1, 1), world_size=2))
    PipelineHook().before_train(fake_runner(model=nn.Linear(1, 1), world_size=1))
