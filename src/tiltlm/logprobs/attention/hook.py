"""Attention over a forest: a function registered with transformers, so that models that use the hook share prompts.

Every response attends to its own prompt and to itself, as if each sequence was computed separately. Several routes
compute the same result (`routes.py`). This module holds the function that models call, and refuses what it cannot
compute.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface

from tiltlm.core.errors import ModelError
from tiltlm.logprobs.attention.last_layer import announce_attention
from tiltlm.logprobs.attention.layout import Layout
from tiltlm.logprobs.attention.routes import SEGMENTS, Case, Route, route_of
from tiltlm.logprobs.attention.segments import Scores

NAME = "tilt_forest"
"""Name in the registry. transformers dispatches on parts of names: this one must not contain flash, sdpa or
flex_attention. It has no mask function, so models pass no mask of their own."""

_HARMLESS = frozenset(
    {
        "position_ids", "cache_position", "past_key_values", "cache", "position_embeddings", "use_cache",
        "output_attentions", "output_hidden_states", "output_router_logits", "return_dict", "logits_to_keep",
        "num_items_in_batch", "labels",
    }
)  # fmt: skip
"""Keywords that models pass to every attention call and that do not change its result."""


@dataclass(eq=False)
class AttentionRecord:
    """The attention calls of one forward, for the self-check and for reports.

    It is passed together with the layout, as the keyword `attention_record` of the model call.
    """

    windows: list[int | None] = field(default_factory=list)
    """The sliding window of every call, in order; None for a call without one."""
    routes: list[Route] = field(default_factory=list)
    """The routes that computed attention, each once."""

    def add(self, window: int | None, route: Route) -> None:
        """Record one call."""
        self.windows.append(window)
        if route not in self.routes:
            self.routes.append(route)


# Disabled: a layout is no tensor, so compiled layers run this function as it is and do not depend on the layout.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def forest_attention(
    module: nn.Module,
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 G T D"],
    value: Float[Tensor, "1 G T E"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Float[Tensor, " H"] | None = None,
    layout: Layout | None = None,
    attention_record: AttentionRecord | None = None,
    **extras: object,
) -> tuple[Float[Tensor, "1 T H E"], None]:
    """Compute the attention of one layer, with the signature of transformers' hook.

    Args:
        module: The attention layer that calls.
        query: Queries of the packed row. G ≤ H key and value heads, H a multiple of G.
        key: Keys, rotated already.
        value: Values; their width E may differ from D.
        attention_mask: Must be None: the layout defines the mask.
        scaling: Factor of the scores; None means 1/√D.
        dropout: Must be 0: one draw for a shared prompt differs from the draws of separate sequences.
        softcap: c: scores become c · tanh(score / c).
        sliding_window: W: a token sees the W positions up to its own.
        s_aux: Attention sinks, one logit per head, in the softmax but not in the sum.
        layout: The layout of the row, a keyword of the model call.
        attention_record: Where to record this call; None: nowhere.
        extras: Other keywords that the model passes.

    Raises:
        ModelError: there is no layout, or a keyword is not known to leave attention unchanged.
    """
    if layout is None:
        raise ModelError(
            f"{type(module).__name__} attends without a layout while packed attention is active: call the model "
            "through PolicyModule, or inside `stock_attention()`",
            code="no_layout",
        )
    _refuse_unknown(module, attention_mask, dropout, extras)
    if query.shape[0] != 1 or query.shape[2] != layout.num_tokens or key.shape[2] != layout.num_tokens:
        raise ModelError(
            f"{type(module).__name__}: queries {tuple(query.shape)} and keys {tuple(key.shape)} do not match a packed "
            f"row of {layout.num_tokens} tokens; this architecture needs layout=padded",
            code="wrong_shape",
            key="model.layout",
        )
    announce_attention(module, layout)
    window = sliding_window if sliding_window is not None and sliding_window < layout.longest else None
    query, key, value = _one_dtype(query, key, value)
    scores = Scores(scaling if scaling is not None else query.shape[-1] ** -0.5, softcap, s_aux)
    route = route_of(Case.of(query, key, value, scores)) if query.device.type == "cuda" else SEGMENTS
    if attention_record is not None:
        attention_record.add(sliding_window, route)
    return route.attend(query, key, value, layout, window, scores), None


def _refuse_unknown(
    module: nn.Module, attention_mask: Tensor | None, dropout: float, extras: Mapping[str, object]
) -> None:
    """Refuse everything that could change attention and is not computed here."""
    name = type(module).__name__
    if attention_mask is not None:
        raise ModelError(
            f"{name} passes its own attention mask, which packed attention cannot apply; use layout=padded",
            code="own_mask",
            key="model.layout",
        )
    if dropout:
        raise ModelError(
            f"{name} uses attention dropout {dropout}; packed attention needs dropout 0",
            code="attention_dropout",
        )
    if extras.get("is_causal", getattr(module, "is_causal", True)) is False:
        raise ModelError(
            f"{name} is not causal; packed attention is only for causal language models", code="not_causal"
        )
    for keyword, given in extras.items():
        if keyword not in _HARMLESS and keyword != "is_causal" and given is not None and given is not False:
            raise ModelError(
                f"{name} passes `{keyword}` to its attention; packed attention does not know it, and it may change "
                "the result; use layout=padded",
                code="unknown_keyword",
                key="model.layout",
            )


def _one_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast to the dtype of autocast where it is on: norms would leave queries and keys wider than values."""
    device = tensors[0].device.type
    if torch.is_autocast_enabled(device):
        return tuple(t.to(torch.get_autocast_dtype(device)) for t in tensors)
    return tensors


AttentionInterface.register(NAME, forest_attention)
