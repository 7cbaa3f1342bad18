"""The search for a model's head, and for the scale and the soft cap that it applies to its logits.

It compares with the model's own logits, because configurations name these transforms in many ways.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tiltlm.logprobs.head.states import Head, HeadRoute


def find_head(model: Any) -> Head:
    """Find the head of a causal language model by comparison with the model's own logits.

    Random hidden states are given to the model's head. They are scaled until its raw logits reach 50: on small logits a
    missing soft cap could not be noticed. The configuration's keys propose scales, as factors and as divisors. The
    proposal that gives the model's logits is used. If none does, or if the head does not read the base model's output,
    the route is `model`.
    """
    module = model.get_output_embeddings()
    width = getattr(module, "in_features", None)
    if width is None:
        return Head("model")
    parameter = next(module.parameters())
    dtype = parameter.dtype if parameter.is_floating_point() else torch.float32
    with torch.no_grad(), torch.autocast(parameter.device.type, enabled=False):
        states = torch.randn(8, width, generator=torch.Generator().manual_seed(0)).to(parameter.device, dtype)
        states *= 50 / (module(states) - module(torch.zeros_like(states))).abs().max()
        expected = _own_logits(model, module, states)
        if expected is None:
            return Head("model")
        raw = module(states).double()
        route: HeadRoute = "fused" if type(module) is nn.Linear else "module"
        errors = {h: float((h.transform(raw) - expected.double()).abs().max()) for h in _proposals(model, route)}
    best = min(errors, key=errors.__getitem__)
    return best if errors[best] <= 200 * torch.finfo(expected.dtype).eps else Head("model")


def _proposals(model: Any, route: HeadRoute) -> list[Head]:
    """Return every scale and soft cap that the configuration's known keys could mean."""
    config = model.config.get_text_config()
    scales = [1.0]
    for key in ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier"):
        number = getattr(config, key, None)
        if number:
            scales += [float(number), 1 / float(number)]
    softcap = getattr(config, "final_logit_softcapping", None)
    return [Head(route, scale, cap) for scale in dict.fromkeys(scales) for cap in dict.fromkeys((None, softcap))]


def _own_logits(model: Any, module: nn.Module, states: Float[Tensor, "n D"]) -> Float[Tensor, "n V"] | None:
    """Return the model's logits with `states` as its head's input.

    None where the head is not called once, with the output of the base model.
    """
    inputs: list[Tensor] = []

    def replace(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        inputs.append(args[0])
        return (states[None], *args[1:])

    ids = torch.arange(len(states), device=states.device)[None] % len(model.get_input_embeddings().weight)
    handle = module.register_forward_pre_hook(replace)
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    hidden = model.base_model(input_ids=ids, use_cache=False)[0]
    if len(inputs) != 1 or inputs[0].shape != hidden.shape:
        return None
    return logits[0] if torch.allclose(inputs[0], hidden, rtol=1e-3, atol=1e-4) else None
