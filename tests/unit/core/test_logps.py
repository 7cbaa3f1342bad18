"""Sums, means and log-ratios of token log-probabilities."""

from dataclasses import replace

import torch

from support.errors import raises
from tiltlm.core import ConfigError, ResponseLogps, segment_sum


def logps(values: list[list[float]], dtype: torch.dtype = torch.float32) -> ResponseLogps:
    return ResponseLogps(
        token_logps=torch.tensor([v for vs in values for v in vs], dtype=dtype),
        response_index=torch.tensor([n for n, vs in enumerate(values) for _ in vs]),
        num_tokens=torch.tensor([len(vs) for vs in values]),
    )


def test_sums_means_and_ratios():
    responses = logps([[-1.0, -2.0], [-3.0]]).with_reference(torch.tensor([-1.5, -2.5, -1.0]))
    assert responses.seq_logps.tolist() == [-3.0, -3.0]
    assert responses.mean_logps.tolist() == [-1.5, -3.0]
    assert responses.log_ratios.tolist() == [1.0, -2.0]


def test_sums_alone_can_be_the_reference():
    assert logps([[-1.0], [-2.0]]).with_reference_sums(torch.tensor([-1.5, 0.0])).log_ratios.tolist() == [0.5, -2.0]


def test_no_reference_is_said():
    with raises(ConfigError, "needs_reference", key="reference.name"):
        _ = logps([[-1.0]]).log_ratios


def test_an_extra_that_was_not_asked_for_is_said():
    responses = logps([[-1.0]])
    with raises(ConfigError, "undeclared_extra", key="extras", mentions=["extras = frozenset({'ref_kls'})"]):
        responses.extra("ref_kls")
    known = replace(responses, extras={"ref_kls": torch.tensor([0.5])}).with_reference(torch.tensor([-1.0]))
    assert known.extra("ref_kls").tolist() == [0.5]


def test_long_sums_keep_what_float32_would_lose():
    """4,096 tokens: the float64 sum of the float32 values, not a float32 accumulation."""
    values = (-torch.rand(4096, generator=torch.Generator().manual_seed(0)) * 3).tolist()
    responses = logps([values])
    exact = sum(responses.token_logps.double().tolist())
    assert abs(float(responses.seq_logps[0]) - exact) < 1e-9
    assert responses.seq_logps.dtype == torch.float64


def test_gradient_reaches_the_policy_and_not_the_reference():
    policy = torch.tensor([-1.0, -2.0], requires_grad=True)
    reference = torch.tensor([-1.0, -1.0], requires_grad=True)
    responses = ResponseLogps(policy, torch.tensor([0, 0]), torch.tensor([2])).with_reference(reference)
    responses.log_ratios.sum().backward()
    assert policy.grad.tolist() == [1.0, 1.0]
    assert reference.grad is None


def test_segment_sum_of_an_empty_segment_is_zero():
    assert segment_sum(torch.tensor([1.0, 2.0]), torch.tensor([0, 2]), 3).tolist() == [1.0, 0.0, 2.0]
