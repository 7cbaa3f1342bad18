"""Attention in one compiled flex call over the whole row: for CUDA where the variable-length kernel does not serve.

That is with a soft cap, attention sinks, values of another width than keys, wide heads, or float32. Who sees whom is a
rule on four small index tensors, and blocks of 128 × 128 that nobody needs are left out.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from tiltlm.logprobs.attention.compiling import allow_variants
from tiltlm.logprobs.attention.layout import Layout, sent
from tiltlm.logprobs.attention.segments import Scores

BLOCK = 128
"""Tokens on a side of a block, the kernel's own."""


def attend_flex(
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 G T D"],
    value: Float[Tensor, "1 G T E"],
    layout: Layout,
    window: int | None,
    scores: Scores,
) -> Float[Tensor, "1 T H E"]:
    """One call over all segments.

    Sinks come afterwards: with Z the sum of exp(score), Z / (Z + exp(sink)) = σ(log Z − sink) of the weights' sum
    remains, with gradient through log Z.
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
    """The compiled function of these constants, for every layout and length."""
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


def block_mask(layout: Layout, window: int | None, device: torch.device) -> BlockMask:
    """The mask of this row, made on the host and sent once for all layers of a forward."""
    return layout.once(("flex", window, device), lambda: _block_mask(layout, window, device))


def _block_mask(layout: Layout, window: int | None, device: torch.device) -> BlockMask:
    some, all_of_it = blocks(layout, window)
    partial, full = (_listed(which, device) for which in (some & ~all_of_it, all_of_it))
    length = layout.num_tokens
    mask: BlockMask = BlockMask.from_kv_blocks(
        *partial, *full, BLOCK_SIZE=BLOCK, mask_mod=rule(layout, window, device), seq_lengths=(length, length)
    )
    return mask


def rule(
    layout: Layout, window: int | None, device: torch.device
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Who sees whom: a token those up to itself of its own segment and of its prompt, as far back as the window."""
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
    """Which blocks of keys [n n] a block of queries sees anything of, and which of them all its queries see whole.

    Of the latter only those inside of one segment: the others are right too, only with the rule applied.
    """
    size = -(-layout.num_tokens // BLOCK)
    some, seers = np.zeros((size, size), dtype=bool), np.zeros((size, size), dtype=np.int64)
    reach = window if window is not None else layout.num_tokens
    for trunk, own in layout.spans:
        # Positions go on from the trunk's end to the segment's start, whatever lies between them in the row.
        for keys, gap in ((trunk, own.start - trunk.stop), (own, 0)):
            for block in range(own.start // BLOCK, -(-own.stop // BLOCK)):
                first, last = max(own.start, block * BLOCK), min(own.stop, (block + 1) * BLOCK) - 1
                start, stop = max(keys.start, first - gap - reach + 1), min(keys.stop, last + 1)
                if start < stop:
                    some[block, start // BLOCK : -(-stop // BLOCK)] = True
                start, stop = max(keys.start, last - gap - reach + 1), min(keys.stop, first + 1)
                seers[block, -(-start // BLOCK) : stop // BLOCK] += last - first + 1
    return some, seers == BLOCK


def _listed(which: Bool[np.ndarray, "n n"], device: torch.device) -> tuple[Tensor, Tensor]:
    """How many blocks each row has, [1 1 n], and which, these first, [1 1 n n]."""
    order = np.argsort(~which, axis=1, kind="stable")
    counts = which.sum(axis=1)
    return sent(counts.astype(np.int32)[None, None], device), sent(order.astype(np.int32)[None, None], device)
