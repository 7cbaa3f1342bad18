"""The layout of a packed row: which tokens may attend to which.

A `Layout` travels as a keyword through the model's own forward to the attention function, so that no model is patched
and recomputation under gradient checkpointing sees it too. It holds nothing but lengths, and derives from them, once
per forward and not once per layer, the masks and the gather indices that the attention routes need.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

WHOLE_TREE = 256
"""Trees up to so many tokens are one masked attention call, longer ones a call for the prompt and one a clump.
On CPUs the two cost the same near 250 tokens: below, calls dominate; above, the masked-out half of the square does."""

CLUMP = 128
"""Neighbouring responses of a longer tree share a masked call while they have no more than so many tokens together."""


class Block(NamedTuple):
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
    """Branches in order, neighbours together up to `CLUMP` tokens; a longer one is alone."""
    grouped: list[tuple[int, ...]] = []
    for branch in branches:
        if grouped and sum(grouped[-1]) + branch <= CLUMP:
            grouped[-1] += (branch,)
        else:
            grouped.append((branch,))
    return grouped


def visible(
    prompt: int, branches: Sequence[int], window: int | None, first: int = 0, device: torch.device | str = "cpu"
) -> Bool[Tensor, "q k"]:
    """Who sees whom in one tree: rows are its tokens from `first` on, columns all its tokens.

    A token sees its prompt and its own branch up to itself, and with a window W only positions less than W behind its
    own: positions, not distances in the row, since a branch continues from its prompt wherever it lies.
    """
    lengths = torch.tensor([prompt, *branches], device=device)
    positions = torch.cat(
        [torch.arange(prompt, device=device)] + [torch.arange(prompt, prompt + b, device=device) for b in branches]
    )
    branch = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
    row = torch.arange(len(positions), device=device)
    seen = (row <= row[first:, None]) & ((branch == 0) | (branch == branch[first:, None]))
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
    _made: dict[object, object] = field(default_factory=dict, repr=False)

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

    def blocks(self, window: int | None, device: torch.device) -> list[Block]:
        """One block per segment, in order. Kept for the other layers of this forward."""
        key = ("blocks", window, device)
        if key not in self._made:
            self._made[key] = self._blocks(window, device)
        return self._made[key]  # type: ignore[return-value]

    def _blocks(self, window: int | None, device: torch.device) -> list[Block]:
        def mask(prompt: int, branches: tuple[int, ...], first: int = 0) -> Tensor | None:
            longest = prompt + max(branches, default=0)
            bound = window if window is not None and window < longest else None
            return visible(prompt, branches, bound, first, device) if branches or bound else None

        blocks: list[Block] = []
        for prompt, branches in self.trees:
            root = len(blocks)
            if prompt + sum(branches) <= WHOLE_TREE:
                blocks.append(Block((root,), mask(prompt, branches)))
                continue
            blocks.append(Block((root,), mask(prompt, ())))
            for clump in clumps(branches):
                blocks.append(Block((root, len(blocks)), mask(prompt, clump, first=prompt)))
        return blocks

    def read(self, device: torch.device) -> Int[Tensor, " U"]:
        """Tokens whose states the head may read: of a prompt with responses the last one, and all others."""
        key = ("read", device)
        if key not in self._made:
            keep = [flag for p, branches in self.trees for flag in _readers(p, branches)]
            self._made[key] = torch.tensor(keep).nonzero()[:, 0].to(device)
        return self._made[key]  # type: ignore[return-value]

    def gathered(self, device: torch.device) -> Gathered:
        """The row for one variable-length call, aligned at the bottom right: query i of n sees keys up to m − n + i."""
        key = ("gathered", device)
        if key not in self._made:
            self._made[key] = self._gathered(device)
        return self._made[key]  # type: ignore[return-value]

    def _gathered(self, device: torch.device) -> Gathered:
        keys: list[np.ndarray] = []
        queries: list[int] = []
        start = 0
        for prompt, branches in self.trees:
            trunk = np.arange(start, start + prompt)
            keys.append(trunk)
            queries.append(prompt)
            start += prompt
            for branch in branches:
                keys.append(np.concatenate([trunk, np.arange(start, start + branch)]))
                queries.append(branch)
                start += branch
        lengths = [len(k) for k in keys]

        def bounds(counts: list[int]) -> Tensor:
            return torch.tensor([0, *np.cumsum(counts)], dtype=torch.int32, device=device)

        index = torch.from_numpy(np.concatenate(keys)).to(device)
        return Gathered(index, bounds(queries), bounds(lengths), max(queries), max(lengths))
