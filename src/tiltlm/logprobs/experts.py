"""Counts of the tokens that the routers of a mixture of experts send to each expert, for its load-balancing loss.

transformers models return the logits of their routers on request. Here they are counted as for separate sequences,
whatever the layout of the forest. `training/balance.py` computes the loss of a whole step from these counts.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tiltlm.core.errors import ModelError
from tiltlm.core.forest import Forest
from tiltlm.logprobs.attention.layout import sent
from tiltlm.logprobs.layout_name import LayoutName


class Routing(NamedTuple):
    """Counts of L routers of E experts over the T tokens of some sequences; a prompt counts once per response."""

    loads: Float[Tensor, "L E"]
    """Number of tokens that chose each expert; a row sums to k·T. No gradient."""
    probabilities: Float[Tensor, "L E"]
    """Sum over the tokens of the router's softmax; a row sums to T. Carries gradient."""


def experts_per_token(model: Any) -> int:
    """Return k, the number of experts per token, of a transformers model with a load-balancing loss.

    Raises:
        ModelError: the model has no such loss.
    """
    chosen: int | None = getattr(model, "num_experts_per_tok", None)
    if chosen is None:
        raise ModelError(
            f"training.router_aux_loss_coef: {type(model).__name__} has no routers with a load-balancing loss in "
            "transformers; leave it at 0",
            code="not_supported",
            key="training.router_aux_loss_coef",
        )
    return chosen


def sequence_counts(forest: Forest, layout: LayoutName) -> Float[np.ndarray, " S"]:
    """Return for every token of the flattened model call how many sequences it belongs to; 0 is padding."""
    trees = list(zip(forest.prompt_lengths, forest.branch_lengths, strict=True))
    if layout == "shared":
        return np.concatenate([np.repeat([len(own), 1.0], [prompt, sum(own)]) for prompt, own in trees])
    lengths = np.asarray([prompt + branch for prompt, own in trees for branch in own])
    if layout == "packed":
        return np.ones(lengths.sum())
    return (np.arange(lengths.max()) < lengths[:, None]).ravel().astype(float)


def count(router_logits: Sequence[Tensor], counts: Float[np.ndarray, " S"], chosen: int) -> Routing:
    """Count the tokens of each expert, from the routers' logits on every token of a model call.

    The experts of a token are the `chosen` with the largest logits, as in transformers' own load-balancing loss.

    Args:
        router_logits: Logits of each router, [S E] or [B N E] with B·N = S.
        counts: The result of `sequence_counts`.
        chosen: The result of `experts_per_token`.

    Raises:
        ModelError: the routers read other tokens, or differ in their number of experts.
    """
    shapes = sorted({(logits.shape[:-1].numel(), logits.shape[-1]) for logits in router_logits})
    if len(shapes) != 1 or shapes[0][0] != len(counts):
        raise ModelError(
            f"training.router_aux_loss_coef: the model's routers returned logits of tokens × experts {shapes} for "
            f"{len(counts)} tokens; leave it at 0 for this model",
            code="wrong_shape",
            key="training.router_aux_loss_coef",
        )
    logits = torch.stack([own.flatten(0, -2) for own in router_logits])
    probabilities = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
    experts = probabilities.detach().topk(chosen, dim=-1).indices
    weights = sent(counts, logits.device).to(probabilities.dtype)
    hits = torch.zeros_like(probabilities).scatter(-1, experts, 1.0)
    return Routing(*(torch.einsum("s,lse->le", weights, each) for each in (hits, probabilities)))
