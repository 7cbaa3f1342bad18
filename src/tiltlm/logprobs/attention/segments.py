"""Attention segment by segment: the route of every device, and the one that the other routes are compared with.

The prompt is one call, and so is each group of its responses (`Layout.blocks`). A call is torch's own attention with a
prepared mask. Where a model caps its scores or has attention sinks, the scores are written out instead.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tiltlm.logprobs.attention.layout import Layout


class Scores(NamedTuple):
    """Changes that a layer makes to its scores before they become weights."""

    scale: float
    """Factor of query · key."""
    softcap: float | None = None
    """c: scores become c · tanh(score / c)."""
    sinks: Float[Tensor, " H"] | None = None
    """One more logit per head, in the softmax but not in the sum."""


def attend_segments(
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 G T D"],
    value: Float[Tensor, "1 G T E"],
    layout: Layout,
    window: int | None,
    scores: Scores,
) -> Float[Tensor, "1 T H E"]:
    """Compute attention with one call per segment."""
    explicit = scores.softcap is not None or scores.sinks is not None
    # `split` and not slices: the backward of a slice fills a whole row with zeros.
    queries, keys, values = (torch.split(t, layout.segments, dim=2) for t in (query, key, value))
    out = []
    for block, part in zip(layout.blocks(window, query.device), queries, strict=True):
        own = [keys[i] for i in block.keys], [values[i] for i in block.keys]
        k, v = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=2) for parts in own)
        out.append((_explicit if explicit else _fused)(part, k, v, block.mask, scores).transpose(1, 2))
    return torch.cat(out, dim=1)


def _fused(query: Tensor, key: Tensor, value: Tensor, mask: Bool[Tensor, "q k"] | None, scores: Scores) -> Tensor:
    """Call torch's own attention. Off the CPU, heads are repeated: grouped heads would get its slowest kernel."""
    grouped = query.shape[1] != key.shape[1]
    if grouped and query.device.type != "cpu":
        repeats = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(repeats, dim=1) for t in (key, value))
        grouped = False
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scores.scale, enable_gqa=grouped
    )


def _explicit(
    query: Float[Tensor, "1 H q D"],
    key: Float[Tensor, "1 G k D"],
    value: Float[Tensor, "1 G k E"],
    mask: Bool[Tensor, "q k"] | None,
    scores: Scores,
) -> Float[Tensor, "1 H q E"]:
    """Compute attention with all scores written out, with the softmax in float32 at least."""
    heads, groups = query.shape[1], key.shape[1]
    grouped = torch.unflatten(query, 1, (groups, heads // groups))  # [1 G H/G q D]
    logits = torch.matmul(grouped, key.unsqueeze(2).transpose(-1, -2)) * scores.scale
    if scores.softcap is not None:
        logits = scores.softcap * torch.tanh(logits / scores.softcap)
    if mask is None:
        mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).masked_fill(~mask, float("-inf"))
    if scores.sinks is not None:
        sink = scores.sinks.to(logits.dtype).view(1, groups, -1, 1, 1).expand(*logits.shape[:-1], 1)
        logits = torch.cat((logits, sink), dim=-1)
    weights = logits.softmax(dim=-1)[..., : key.shape[2]].to(value.dtype)
    return torch.matmul(weights, value.unsqueeze(2)).flatten(1, 2)
