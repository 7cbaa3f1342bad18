"""The reference policy π_ref of an alignment objective, whose optimum is π* ∝ π_ref · exp(r/β).

A `Reference` adds its log-probabilities to those of the policy. This module has the interface, and the two kinds of
reference that compute nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tiltlm.core.errors import DataError
from tiltlm.core.forest import Tree
from tiltlm.core.logps import ResponseLogps
from tiltlm.logprobs.head.states import States
from tiltlm.reference.reference_settings import no_distributions

CountCallback = Callable[[int, int], None]
"""Called with the number of sequences done and the number of all sequences."""


class Computed(NamedTuple):
    """The numbers of distinct sequences that `ensure` found and computed."""

    num_hits: int
    num_computed: int


class Reference:
    """The interface of a reference, and the reference `none` of objectives that need none."""

    name = "none"
    digest = ""
    """Digest of the weights; empty if there are none."""
    forwards = 0
    """Number of packs run through the reference so far, without audits."""
    is_live = False
    """True if the reference runs at every step."""
    has_weights = False
    """True if it can compute log-probabilities of any sequence."""
    starts_as_policy = False
    """True if its weights are the policy's own as loaded: before training, every log-ratio is 0."""
    moves = False
    """True if it follows the policy during training (`after_step`)."""

    def ensure(self, trees: Sequence[Tree], progress: CountCallback | None = None) -> Computed:  # noqa: ARG002
        """Make the log-probabilities of all these sequences available. Only missing ones are computed."""
        return Computed(0, 0)

    def ensure_together(self, trees: Sequence[Tree]) -> None:
        """Bring all these log-probabilities into the memory of every process that shares sharded weights.

        Each computes a share of them. They call it together, with equal trees. Whole weights do nothing here: a process
        computes what it misses when it needs it.
        """

    def attach(self, responses: ResponseLogps, trees: Sequence[Tree]) -> ResponseLogps:  # noqa: ARG002
        """Return the responses of `pack_trees(trees)` with the reference's log-probabilities added."""
        return responses

    def states(self, trees: Sequence[Tree]) -> States:  # noqa: ARG002
        """Return the states from which the policy's forward computes the reference's whole distributions.

        Args:
            trees: The trees of the policy's forward, in the same order.

        Raises:
            ConfigError: the reference has no weights.
        """
        raise no_distributions(self.name)

    def after_step(self, step: int, weights: Iterable[tuple[str, Tensor]]) -> bool:  # noqa: ARG002
        """Update a reference that moves.

        Args:
            step: Number of optimiser steps done.
            weights: The policy's trained weights by name, not sharded; read only if they are needed.

        Returns:
            True if the reference has changed.
        """
        return False

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights of a reference that moves: a checkpoint keeps them, and is read into them."""
        return {}

    def audit(self, num: int = 8) -> int:  # noqa: ARG002
        """Recompute `num` of the sequences that `ensure` found in the store, and return how many were compared."""
        return 0

    def tidy(self) -> None:
        """Remove unused files if the store is above its limit. Call it after `ensure` for all that a run needs."""

    def __str__(self) -> str:
        """Return the line that a run logs about its reference."""
        return self.name


class ColumnReference(Reference):
    """Sums from columns of the data, computed by other tools. Token-level objectives cannot use them."""

    name = "columns"

    def ensure(self, trees: Sequence[Tree], progress: CountCallback | None = None) -> Computed:  # noqa: ARG002
        """Check that every response has its sum.

        Raises:
            DataError: a response has none.
        """
        return Computed(len(self._sums(trees)), 0)

    def attach(self, responses: ResponseLogps, trees: Sequence[Tree]) -> ResponseLogps:
        """Return the responses of `pack_trees(trees)` with the sums of the data added."""
        sums = torch.tensor(self._sums(trees), dtype=torch.float64)
        return responses.with_reference_sums(sums.to(responses.seq_logps))

    def _sums(self, trees: Sequence[Tree]) -> list[float]:
        sums = [response.ref_logps for tree in trees for response in tree.responses]
        known = [s for s in sums if s is not None]
        if len(known) < len(sums):
            raise DataError(
                f"reference.name is 'columns' and {len(sums) - len(known)} of {len(sums)} responses have no reference"
                " log-probability; complete the columns, or set reference.name to 'initial' to compute it",
                code="missing_ref_logps",
                key="reference.name",
            )
        return known

    def __str__(self) -> str:
        return "columns of the data (sums computed by other tools)"
