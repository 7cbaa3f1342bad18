"""What a loop spends: tokens and operations of each round, and the time that passed."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tiltlm.core.forest import Tree
from tiltlm.storage.files import append_line, read_lines

Phase = Literal["sample", "judge", "train", "measure"]


@dataclass(frozen=True)
class Tokens:
    """Tokens that the policy and models of its size read or draw in a round."""

    prompts: int
    """Of the prompts, once for each draw of samples."""
    sampled: int
    """Of all samples, also those of rivals, critiques and revisions."""
    forward: int
    """Read without gradient: for the KL to the first policy, by the reference, by the policy when the round began."""
    trained: int
    """Read by all optimiser steps, each prompt once a step."""

    def flops(self, num_weights: int, *, recomputes: bool = False) -> float:
        """Return floating-point operations: 2P for a token that is read, 6P for one that is trained on.

        Attention over the context is not counted, nor is a judge.

        Args:
            num_weights: P, weights of the policy without its input embedding.
            recomputes: True if the forward is computed again in the backward pass: 8P.
        """
        read = self.prompts + self.sampled + self.forward
        return float(num_weights) * (2 * read + (8 if recomputes else 6) * self.trained)


def tokens_of_trees(trees: Iterable[Tree]) -> int:
    """Return the tokens of prompts and responses, each distinct one once."""
    return sum(tree.num_tokens for tree in trees)


@dataclass(frozen=True)
class Clock:
    """The time that the phases of a loop took, in a file that only grows: what was done twice is there twice."""

    path: Path
    writes: bool = True
    """False in a process that is not the first."""

    @contextmanager
    def measures(self, number: int, phase: Phase) -> Iterator[None]:
        """Add the time of the block, if it ends by itself.

        Args:
            number: The round.
            phase: What it does.
        """
        start = time.perf_counter()
        yield
        if not self.writes:
            return
        append_line(self.path, {"round": number, "phase": phase, "seconds": round(time.perf_counter() - start, 3)})

    @property
    def hours(self) -> float:
        """The time of all phases so far."""
        return sum(line["seconds"] for line in read_lines(self.path)) / 3600 if self.path.exists() else 0.0
