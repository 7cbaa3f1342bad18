"""Attention in one variable-length call of torch's flash kernel, with gathered keys: the fast route of CUDA.

Each prompt and each response is a sequence. The keys of a response are its prompt's and its own, copied one after the
other, and its causal triangle is aligned at the bottom right. Positions of a response continue from its prompt, so the
kernel's window over gathered keys is a window over positions.
"""

import inspect
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import varlen

from tiltlm.logprobs.attention.layout import Layout
from tiltlm.logprobs.attention.segments import Scores


def attend_varlen(
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 G T D"],
    value: Float[Tensor, "1 G T D"],
    layout: Layout,
    window: int | None,
    scores: Scores,
) -> Float[Tensor, "1 T H D"]:
    """Compute attention with one flash call over all segments; without soft cap and sinks."""
    gathered = layout.gathered(query.device)
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    # A version without the keyword accepts fewer key heads than query heads as they are.
    grouped: dict[str, Any] = {"enable_gqa": query.shape[1] != key.shape[1]} if "enable_gqa" in _parameters() else {}
    out = varlen.varlen_attn(
        q.contiguous(),
        k.index_select(0, gathered.keys),
        v.index_select(0, gathered.keys),
        gathered.query_bounds,
        gathered.key_bounds,
        gathered.max_queries,
        gathered.max_keys,
        scale=scores.scale,
        window_size=(window - 1 if window is not None else -1, 0),
        **grouped,
    )
    assert isinstance(out, Tensor)
    return out.unsqueeze(0)


def _parameters() -> frozenset[str]:
    return frozenset(inspect.signature(varlen.varlen_attn).parameters)


def is_complete() -> bool:
    """Return whether this torch's function takes a window and a scale; its first versions did not."""
    return {"window_size", "scale"} <= _parameters()
