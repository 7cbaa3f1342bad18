"""The layout of a packed row: which tokens may attend to which.

A `Layout` travels as a keyword through the model's own forward to the attention function, so that no model is patched
and recomputation under gradient checkpointing sees it too. It holds nothing but lengths, and derives from them, once
per forward and not once per layer, the masks and the gather indices that the attention routes need.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

WHOLE_TREE = 256
"""Trees up to so many tokens are one masked attention call, longer ones a call for the prompt and one a clump.
On CPUs the two cost the same near 250 tokens: below, calls dominate; above, the masked-out half of the square does."""

MAX_GROUP_TOKENS = 128
"""Neighbouring responses of a longer tree share a masked call while they have no more than so many tokens together."""


Made = TypeVar("Made")


class Span(NamedTuple):
    """A prompt or a response where it lies in the row."""

    trunk: range
    """Tokens of its prompt; of a prompt none."""
    own: range
    """Its own tokens; their positions continue from the trunk's."""


class AttentionBlock(NamedTuple):
    """One attention call: the queries of a segment (a tree, prompt or clump of responses) against keys of segments."""

    keys: tuple[int, ...]
    """Segments whose keys these queries see: themselves, or their prompt and themselves."""
    mask: Bool[Tensor, "q k"] | None
    """True where a query may look; None: plain causal, queries and keys are the same tokens."""


class Gathered(NamedTuple):
    """The row as variable-length sequences for one flash call: queries as they lie, keys gathered."""

    keys: Int[Tensor, " Tk"]
    """Index into the row of every key: for each prompt itself, for each response its prompt's and its own."""
    query_bounds: Int[Tensor, " S1"]
    """int32 cumulative query lengths, one more than there are sequences."""
    key_bounds: Int[Tensor, " S1"]
    max_queries: int
    max_keys: int


def clumps(branches: Sequence[int]) -> list[tuple[int, ...]]:
    """Branches in order, neighbours together up to `MAX_GROUP_TOKENS` tokens; a longer one is alone."""
    grouped: list[tuple[int, ...]] = []
    for branch in branches:
        if grouped and sum(grouped[-1]) + branch <= MAX_GROUP_TOKENS:
            grouped[-1] += (branch,)
        else:
            grouped.append((branch,))
    return grouped


def sent(array: np.ndarray, device: torch.device) -> Tensor:
    """Numbers made on the host, on the device. The host does not wait: it would, for whatever the device still does."""
    return torch.from_numpy(array).to(device, non_blocking=True)


def visible(prompt: int, branches: Sequence[int], window: int | None, first: int = 0) -> Bool[np.ndarray, "q k"]:
    """Who sees whom in one tree: rows are its tokens from `first` on, columns all its tokens.

    A token sees its prompt and its own branch up to itself, and with a window W only positions less than W behind its
    own: positions, not distances in the row, since a branch continues from its prompt wherever it lies.
    """
    lengths = [prompt, *branches]
    positions = np.concatenate([np.arange(prompt), *(np.arange(prompt, prompt + b) for b in branches)])
    branch = np.repeat(np.arange(len(lengths)), lengths)
    row = np.arange(len(positions))
    seen: np.ndarray = (row <= row[first:, None]) & ((branch == 0) | (branch == branch[first:, None]))
    if window is not None:
        seen &= positions[first:, None] - positions < window
    return seen


def _readers(prompt: int, branches: Sequence[int]) -> list[bool]:
    return [not branches] * (prompt - 1) + [True] * (1 + sum(branches))


@dataclass(eq=False)
class Layout:
    """Lengths of the trees of one packed row, and what attention derives from them."""

    prompt_lengths: tuple[int, ...]
    branch_lengths: tuple[tuple[int, ...], ...]
    """Input tokens of each response, tree by tree; 0 for a one-token response, which is no segment."""
    windows: list[int | None] = field(default_factory=list)
    """The sliding window of every attention call so far: the self-check counts them."""
    routes: list[str] = field(default_factory=list)
    """Which route computed attention so far, and why, each once."""
    whole: bool = False
    """Every token is computed in every layer, whether or not the head reads it."""
    _made: dict[Hashable, object] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.branch_lengths = tuple(tuple(b for b in branches if b) for branches in self.branch_lengths)

    @property
    def trees(self) -> list[tuple[int, tuple[int, ...]]]:
        return list(zip(self.prompt_lengths, self.branch_lengths, strict=True))

    @property
    def num_tokens(self) -> int:
        return sum(prompt + sum(branches) for prompt, branches in self.trees)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence: a prompt with one response."""
        return max(prompt + max(branches, default=0) for prompt, branches in self.trees)

    @property
    def segments(self) -> list[int]:
        """Lengths of the pieces into which the routes split the row; they lie in order and cover it."""
        lengths = []
        for prompt, branches in self.trees:
            whole = prompt + sum(branches)
            lengths += [whole] if whole <= WHOLE_TREE else [prompt, *map(sum, clumps(branches))]
        return lengths

    @property
    def spans(self) -> list[Span]:
        """Prompts and responses in order, each response behind its prompt; they cover the row."""
        spans, start = [], 0
        for prompt, branches in self.trees:
            trunk, start = range(start, start + prompt), start + prompt
            spans.append(Span(range(trunk.start, trunk.start), trunk))
            for branch in branches:
                spans.append(Span(trunk, range(start, start + branch)))
                start += branch
        return spans

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` gives, made for the first layer of a forward and kept for the others."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]  # type: ignore[return-value]

    def blocks(self, window: int | None, device: torch.device) -> list[AttentionBlock]:
        """One block per segment, in order."""
        return self.once(("blocks", window, device), lambda: self._blocks(window, device))

    def _blocks(self, window: int | None, device: torch.device) -> list[AttentionBlock]:
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
            for clump in clumps(branches):
                blocks.append(AttentionBlock((root, len(blocks)), mask(prompt, clump, first=prompt)))
        return blocks

    def read(self, device: torch.device) -> Int[Tensor, " U"]:
        """Tokens whose states the head may read: of a prompt with responses the last one, and all others."""

        def make() -> Tensor:
            keep = [flag for p, branches in self.trees for flag in _readers(p, branches)]
            return sent(np.flatnonzero(keep), device)

        return self.once(("read", device), make)

    def gathered(self, device: torch.device) -> Gathered:
        """The row for one variable-length call, aligned at the bottom right: query i of n sees keys up to m − n + i."""
        return self.once(("gathered", device), lambda: self._gathered(device))

    def _gathered(self, device: torch.device) -> Gathered:
        queries = [len(own) for _, own in self.spans]
        keys = [len(trunk) + len(own) for trunk, own in self.spans]

        def bounds(lengths: list[int]) -> Tensor:
            return sent(np.cumsum([0, *lengths], dtype=np.int32), device)

        index = np.concatenate([np.arange(run.start, run.stop) for span in self.spans for run in span])
        return Gathered(sent(index, device), bounds(queries), bounds(keys), max(queries), max(keys))
