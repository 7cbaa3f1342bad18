"""Nouns cut off from the graph that made them."""

import torch

from tiltlm.core import ResponseLogps, detached


def test_what_is_detached_keeps_no_graph():
    leaf = torch.ones(3, requires_grad=True)
    responses = ResponseLogps(leaf * 2, torch.tensor([0, 0, 1]), torch.tensor([2, 1]))
    found = detached(responses)
    assert responses.token_logps.grad_fn is not None
    assert found.token_logps.grad_fn is None
    assert not found.token_logps.requires_grad
    assert torch.equal(found.token_logps, responses.token_logps)
    assert found.ref_token_logps is None
