"""Attention in one compiled flex call over the whole row: for CUDA where the variable-length kernel cannot be used.

That is with a soft cap, attention sinks, values of another width than keys, wide heads, or float32. The mask is a rule
on four small index tensors. Blocks of 128 × 128 that are fully masked are skipped.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from tiltlm.logprobs.attention.compiling import allow_variants
from tiltlm.logprobs.attention.layout import Layout, once, sent
from tiltlm.logprobs.attention.segments import Scores

BLOCK = 128
"""Tokens along each side of a block; the kernel defines it."""


def attend_flex(
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 G T D"],
    value: Float[Tensor, "1 G T E"],
    layout: Layout,
    window: int | None,
    scores: Scores,
) -> Float[Tensor, "1 T H E"]:
    """Compute attention with one flex call over all segments.

    Sinks are applied afterwards. With Z the sum of exp(score), the result is multiplied by
    Z / (Z + exp(sink)) = σ(log Z − sink), with gradient through log Z.
    """
    mask = block_mask(layout, window, query.device)
    kernel = _kernel(scores.scale, scores.softcap, scores.sinks is not None)
    out, log_sums = kernel(query, key, value, mask)
    if scores.sinks is not None:
        assert log_sums is not None
        out = out * torch.sigmoid(log_sums - scores.sinks[:, None].to(log_sums.dtype))[..., None].to(out.dtype)
    return out.transpose(1, 2)


@functools.cache
def _kernel(scale: float, softcap: float | None, with_sums: bool) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Return the compiled function for these constants; it serves every layout and length."""
    modify = None if softcap is None else _cap(softcap)
    wanted = AuxRequest(lse=True) if with_sums else None

    def call(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask) -> tuple[Tensor, Tensor | None]:
        grouped = query.shape[1] != key.shape[1]
        if wanted is None:
            return flex_attention(query, key, value, modify, mask, scale, grouped), None
        out, sums = flex_attention(query, key, value, modify, mask, scale, grouped, return_aux=wanted)
        return out, sums.lse

    allow_variants()
    return torch.compile(call, dynamic=True)


def _cap(softcap: float) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    def capped(score: Tensor, _batch: Tensor, _head: Tensor, _query: Tensor, _key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


@once
def block_mask(layout: Layout, window: int | None, device: torch.device) -> BlockMask:
    """Return the mask of this row, made on the host and copied once for all layers of a forward."""
    needed, whole = blocks(layout, window)
    partial, full = (_listed(chosen, device) for chosen in (needed & ~whole, whole))
    length = layout.num_tokens
    mask: BlockMask = BlockMask.from_kv_blocks(
        *partial, *full, BLOCK_SIZE=BLOCK, mask_mod=rule(layout, window, device), seq_lengths=(length, length)
    )
    return mask


def rule(
    layout: Layout, window: int | None, device: torch.device
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return the mask as a function of query and key index.

    A token sees the tokens up to itself of its own segment and of its prompt, as far back as the window.
    """
    spans = layout.spans
    lengths = [len(own) for _, own in spans]
    prompts = np.maximum.accumulate([0 if trunk else i for i, (trunk, _) in enumerate(spans)])
    positions = np.concatenate([len(trunk) + np.arange(len(own)) for trunk, own in spans])
    columns = (
        np.repeat(np.arange(len(spans)), lengths),
        np.repeat(prompts, lengths),
        positions,
        positions - window + 1 if window is not None else np.zeros_like(positions),
    )
    segment, prompt, position, oldest = (sent(column.astype(np.int32), device) for column in columns)

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        related = (segment[key] == segment[query]) | (segment[key] == prompt[query])
        return related & (key <= query) & (position[key] >= oldest[query])

    return sees


def blocks(layout: Layout, window: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the blocks of keys [n n] that a block of queries needs, and those of them without any masked entry.

    The second holds only blocks inside one segment. Others are correct too: the rule is applied to them.
    """
    size = -(-layout.num_tokens // BLOCK)
    needed, num_queries = np.zeros((size, size), dtype=bool), np.zeros((size, size), dtype=np.int64)
    reach = window if window is not None else layout.num_tokens
    for trunk, own in layout.spans:
        # Positions continue from the trunk's end to the segment's start, whatever is between them in the row.
        for keys, gap in ((trunk, own.start - trunk.stop), (own, 0)):
            for block in range(own.start // BLOCK, -(-own.stop // BLOCK)):
                first, last = max(own.start, block * BLOCK), min(own.stop, (block + 1) * BLOCK) - 1
                start, stop = max(keys.start, first - gap - reach + 1), min(keys.stop, last + 1)
                if start < stop:
                    needed[block, start // BLOCK : -(-stop // BLOCK)] = True
                start, stop = max(keys.start, last - gap - reach + 1), min(keys.stop, first + 1)
                num_queries[block, -(-start // BLOCK) : stop // BLOCK] += last - first + 1
    return needed, num_queries == BLOCK


def _listed(chosen: Bool[np.ndarray, "n n"], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the number of chosen blocks of each row, [1 1 n], and the block indices, chosen ones first, [1 1 n n]."""
    order = np.argsort(~chosen, axis=1, kind="stable")
    counts = chosen.sum(axis=1)
    return sent(counts.astype(np.int32)[None, None], device), sent(order.astype(np.int32)[None, None], device)
