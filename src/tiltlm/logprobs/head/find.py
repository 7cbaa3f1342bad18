"""What a model does between its last hidden states and its logits: a head, then perhaps a scale and a soft cap.

Found by comparing with the model's own logits, because configurations name these transforms in many ways.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

HeadRoute = Literal["fused", "module", "model"]


@dataclass(frozen=True)
class Head:
    """How hidden states become log-probabilities: the route, and what the model does to its logits."""

    route: HeadRoute = "fused"
    """`fused`: plain linear head, own chunks. `module`: the head is called in checkpointed chunks (adapters on it).
    `model`: unknown transforms; the model's own logits at the response rows."""
    scale: float = 1.0
    """Logits are multiplied by this, bias included."""
    softcap: float | None = None
    """c: scaled logits become c · tanh(logit / c)."""

    def transform(self, logits: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        """What the model does to the output of its head."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def curve(self, normalized: Float[Tensor, "R V"], normalizers: Float[Tensor, " R"]) -> Float[Tensor, "R V"] | None:
        """Derivative of the soft cap, from its value = normalized + normalizer; None: 1 everywhere."""
        if self.softcap is None:
            return None
        return 1 - ((normalized + normalizers[:, None]) / self.softcap) ** 2


def find_head(model: Any) -> Head:
    """The head of a causal language model, found by comparison with the model's own logits.

    Random hidden states, scaled until the head's raw logits reach 50 (on small logits a missing soft cap hides), are
    put before the model's head. The configuration's keys propose scales, in either direction; the proposal that gives
    the model's logits is taken. If none does, or the head does not read the base model's output: route `model`.
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
        theirs = _own_logits(model, module, states)
        if theirs is None:
            return Head("model")
        raw = module(states).double()
        route: HeadRoute = "fused" if type(module) is nn.Linear else "module"
        errors = {h: float((h.transform(raw) - theirs.double()).abs().max()) for h in _proposals(model, route)}
    best = min(errors, key=errors.__getitem__)
    return best if errors[best] <= 200 * torch.finfo(theirs.dtype).eps else Head("model")


def _proposals(model: Any, route: HeadRoute) -> list[Head]:
    """Every scale and soft cap that the configuration's known keys could mean."""
    config = model.config.get_text_config()
    scales = [1.0]
    for key in ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier"):
        number = getattr(config, key, None)
        if number:
            scales += [float(number), 1 / float(number)]
    softcap = getattr(config, "final_logit_softcapping", None)
    return [Head(route, scale, cap) for scale in dict.fromkeys(scales) for cap in dict.fromkeys((None, softcap))]


def _own_logits(model: Any, module: nn.Module, states: Float[Tensor, "n D"]) -> Float[Tensor, "n V"] | None:
    """The model's logits if `states` came to its head; None where its head is not called with the base's output."""
    met: list[Tensor] = []

    def put(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        met.append(args[0])
        return (states[None], *args[1:])

    ids = torch.arange(len(states), device=states.device)[None] % model.get_input_embeddings().num_embeddings
    handle = module.register_forward_pre_hook(put)
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    hidden = model.base_model(input_ids=ids, use_cache=False)[0]
    same = len(met) == 1 and met[0].shape == hidden.shape and torch.allclose(met[0], hidden, rtol=1e-3, atol=1e-4)
    return logits[0] if same else None
