"""Dataclasses without the graph that made them."""

import torch

from tiltlm.core import ResponseLogps, detached, to_device


def test_what_is_detached_keeps_no_graph():
    leaf = torch.ones(3, requires_grad=True)
    kls = {"ref_kls": leaf * 3}
    responses = ResponseLogps(leaf * 2, torch.tensor([0, 0, 1]), torch.tensor([2, 1]), extras=kls)
    found = detached(responses)
    assert responses.token_logps.grad_fn is not None
    assert found.token_logps.grad_fn is None
    assert not found.token_logps.requires_grad
    assert torch.equal(found.token_logps, responses.token_logps)
    assert found.ref_token_logps is None
    assert responses.extra("ref_kls").requires_grad
    assert not found.extra("ref_kls").requires_grad


def test_all_tensors_move():
    index = torch.tensor([0, 0])
    responses = ResponseLogps(torch.ones(2), index, torch.tensor([2]), extras={"entropies": torch.ones(2)})
    found = to_device(responses, "meta")
    assert {found.token_logps.device.type, found.extra("entropies").device.type} == {"meta"}
