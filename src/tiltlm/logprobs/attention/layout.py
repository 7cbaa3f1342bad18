"""The layout of a packed row: which tokens may attend to which.

A `Layout` is passed as a keyword through the model's own forward to the attention function. So no model is patched, and
recomputation under gradient checkpointing gets it too. It holds only lengths. Masks and indices that the attention
routes need are derived from them once per forward, not once per layer.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

WHOLE_TREE = 256
"""A tree of at most this many tokens is one masked attention call. A longer one is a call for the prompt and one for
each group of responses. On CPUs the two cost the same near 250 tokens: below, the number of calls costs most; above,
the masked half of the square does."""

MAX_GROUP_TOKENS = 128
"""Neighbouring responses of a longer tree share a masked call while they have at most this many tokens together."""

P = ParamSpec("P")
Made = TypeVar("Made")


class Span(NamedTuple):
    """The place of a prompt or a response in the row."""

    trunk: range
    """Tokens of its prompt; empty for a prompt."""
    own: range
    """Its own tokens; their positions continue from the trunk's."""


class AttentionBlock(NamedTuple):
    """One attention call: queries of one segment (a tree, a prompt or a group of responses), keys of some segments."""

    keys: tuple[int, ...]
    """Segments whose keys these queries see: their own, or their prompt's and their own."""
    mask: Bool[Tensor, "q k"] | None
    """True where a query may attend. None means plain causal attention; queries and keys are the same tokens."""


class Gathered(NamedTuple):
    """The row as variable-length sequences for one flash call: queries in row order, keys gathered."""

    keys: Int[Tensor, " Tk"]
    """Index into the row of every key: for each prompt its own tokens, for each response its prompt's and its own."""
    query_bounds: Int[Tensor, " S1"]
    """int32 cumulative query lengths, one more than there are sequences."""
    key_bounds: Int[Tensor, " S1"]
    """int32 cumulative key lengths."""
    max_queries: int
    """Queries of the longest sequence."""
    max_keys: int
    """Keys of the longest sequence."""


def group_responses(lengths: Sequence[int]) -> list[tuple[int, ...]]:
    """Group neighbouring responses up to `MAX_GROUP_TOKENS` tokens; a longer response is a group of one."""
    groups: list[tuple[int, ...]] = []
    for length in lengths:
        if groups and sum(groups[-1]) + length <= MAX_GROUP_TOKENS:
            groups[-1] += (length,)
        else:
            groups.append((length,))
    return groups


def sent(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to the device without waiting for work that the device still does."""
    return torch.from_numpy(array).to(device, non_blocking=True)


def visible(prompt: int, branches: Sequence[int], window: int | None, first: int = 0) -> Bool[np.ndarray, "q k"]:
    """Return the attention mask of one tree: rows are its tokens from `first` on, columns all its tokens.

    A token sees its prompt and its own branch up to itself. With a window W it sees only positions less than W before
    its own. These are positions, not distances in the row: the positions of every branch continue from the prompt.
    """
    lengths = [prompt, *branches]
    positions = np.concatenate([np.arange(prompt), *(np.arange(prompt, prompt + b) for b in branches)])
    branch = np.repeat(np.arange(len(lengths)), lengths)
    row = np.arange(len(positions))
    seen: np.ndarray = (row <= row[first:, None]) & ((branch == 0) | (branch == branch[first:, None]))
    if window is not None:
        seen &= positions[first:, None] - positions < window
    return seen


def once(make: "Callable[Concatenate[Layout, P], Made]") -> "Callable[Concatenate[Layout, P], Made]":
    """Let the first layer of a forward make a value and all others reuse it: the layout holds it by its arguments."""

    @functools.wraps(make)
    def cached(layout: "Layout", /, *args: P.args, **kwargs: P.kwargs) -> Made:
        key = (make, *args)
        if key not in layout._made:
            layout._made[key] = make(layout, *args, **kwargs)
        return layout._made[key]  # type: ignore[return-value]

    return cached


@dataclass(frozen=True, eq=False)
class Layout:
    """Lengths of the trees of one packed row, and the masks and indices that attention derives from them."""

    prompt_lengths: tuple[int, ...]
    """Tokens of each prompt."""
    branch_lengths: tuple[tuple[int, ...], ...]
    """Input tokens of each response, tree by tree; 0 for a one-token response."""
    whole: bool = False
    """True: every layer computes every token, whether or not the head reads it."""
    _made: dict[Hashable, object] = field(default_factory=dict, repr=False)

    @functools.cached_property
    def trees(self) -> list[tuple[int, tuple[int, ...]]]:
        """Tokens of each prompt and of its responses; a response without input tokens is left out."""
        pairs = zip(self.prompt_lengths, self.branch_lengths, strict=True)
        return [(prompt, tuple(b for b in branches if b)) for prompt, branches in pairs]

    @functools.cached_property
    def num_tokens(self) -> int:
        """Tokens of the row."""
        return sum(prompt + sum(branches) for prompt, branches in self.trees)

    @functools.cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence: a prompt with one response."""
        return max(prompt + max(branches, default=0) for prompt, branches in self.trees)

    @functools.cached_property
    def segments(self) -> list[int]:
        """Lengths of the pieces into which the routes split the row, in order; together they cover it."""
        lengths = []
        for prompt, branches in self.trees:
            total = prompt + sum(branches)
            lengths += [total] if total <= WHOLE_TREE else [prompt, *map(sum, group_responses(branches))]
        return lengths

    @functools.cached_property
    def spans(self) -> list[Span]:
        """Prompts and responses in order, each response after its prompt; together they cover the row."""
        spans, start = [], 0
        for prompt, branches in self.trees:
            trunk, start = range(start, start + prompt), start + prompt
            spans.append(Span(range(trunk.start, trunk.start), trunk))
            for branch in branches:
                spans.append(Span(trunk, range(start, start + branch)))
                start += branch
        return spans

    @once
    def blocks(self, window: int | None, device: torch.device) -> list[AttentionBlock]:
        """Return one block per segment, in order."""

        def mask(prompt: int, branches: tuple[int, ...], first: int = 0) -> Tensor | None:
            longest = prompt + max(branches, default=0)
            bound = window if window is not None and window < longest else None
            return sent(visible(prompt, branches, bound, first), device) if branches or bound else None

        blocks: list[AttentionBlock] = []
        for prompt, branches in self.trees:
            root = len(blocks)
            if prompt + sum(branches) <= WHOLE_TREE:
                blocks.append(AttentionBlock((root,), mask(prompt, branches)))
                continue
            blocks.append(AttentionBlock((root,), mask(prompt, ())))
            for group in group_responses(branches):
                blocks.append(AttentionBlock((root, len(blocks)), mask(prompt, group, first=prompt)))
        return blocks

    @once
    def read(self, device: torch.device) -> Int[Tensor, " U"]:
        """Return the indices of the tokens that the head may read: all but the prompt tokens before the last one.

        A prompt without responses is read whole: in a row of separate sequences each sequence is such a prompt.
        """
        keep: list[bool] = []
        for prompt, branches in self.trees:
            keep += [not branches] * (prompt - 1) + [True] * (1 + sum(branches))
        return sent(np.flatnonzero(keep), device)

    @once
    def gathered(self, device: torch.device) -> Gathered:
        """Return the row for one variable-length call.

        The call aligns each sequence at the bottom right: query i of n sees keys up to m − n + i.
        """
        queries = [len(own) for _, own in self.spans]
        keys = [len(trunk) + len(own) for trunk, own in self.spans]

        def bounds(lengths: list[int]) -> Tensor:
            return sent(np.cumsum([0, *lengths], dtype=np.int32), device)

        index = np.concatenate([np.arange(run.start, run.stop) for span in self.spans for run in span])
        return Gathered(sent(index, device), bounds(queries), bounds(keys), max(queries), max(keys))
