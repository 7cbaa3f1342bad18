"""The reference policy of an alignment objective: the prior π_ref that π* ∝ π_ref · exp(r/β) tilts.

A `Reference` puts its log-probabilities beside the policy's. Here are what every kind of it promises, and the two kinds
that compute nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.forest import Tree
from tiltlm.core.logps import ResponseLogps
from tiltlm.logprobs.head.states import States

CountCallback = Callable[[int, int], None]
"""Called with (sequences done, sequences in all)."""


class Computed(NamedTuple):
    """What `ensure` found and did, in distinct sequences."""

    num_hits: int
    num_computed: int


class Reference:
    """Where the reference's log-probabilities come from. This one has none: for objectives that need none."""

    name = "none"
    digest = ""
    """Of the weights; empty where there are none."""
    forwards = 0
    """Packs run through the reference so far, audits aside."""
    is_live = False
    """Whether it runs at every step."""

    def ensure(self, trees: Sequence[Tree], progress: CountCallback | None = None) -> Computed:  # noqa: ARG002
        """Have the log-probabilities of all these sequences at hand, computing only what is missing."""
        return Computed(0, 0)

    def attach(self, responses: ResponseLogps, trees: Sequence[Tree]) -> ResponseLogps:  # noqa: ARG002
        """The responses of `plant(trees)` with the reference's log-probabilities beside the policy's."""
        return responses

    def states(self, trees: Sequence[Tree]) -> States:  # noqa: ARG002
        """What lets the policy's forward over `plant(trees)` see the reference's whole distributions.

        Raises:
            ConfigError: there are no weights to compute them with.
        """
        raise no_distributions(self.name)

    def after_step(self, step: int, weights: Iterable[tuple[str, Tensor]]) -> bool:  # noqa: ARG002
        """Follow the policy where the reference is one that moves.

        Args:
            step: Optimiser steps done.
            weights: The policy's trained weights by name, whole; read only where they are needed.

        Returns:
            Whether the reference is another now.
        """
        return False

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of a reference that moves, on the CPU."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Undo `tensors`.

        Raises:
            RunError: they are those of another model.
        """

    def audit(self, num: int = 8) -> int:  # noqa: ARG002
        """Recompute some of what `ensure` found in the store and compare; how many sequences that were."""
        return 0

    def tidy(self) -> None:
        """Make room where the store is beyond its limit. To be called when all that a run needs has been ensured."""

    def __str__(self) -> str:
        """One line for the announcement of a run."""
        return self.name


def no_distributions(name: str) -> ConfigError:
    """An objective compares whole distributions, and this reference has no weights that would give them."""
    return ConfigError(
        f"this objective reads the reference's whole distribution at every token, and reference.name is {name!r}"
        " (columns hold sums only, none holds nothing); name 'initial', 'base' or a model folder",
        code="needs_reference_weights",
        key="reference.name",
    )


class ColumnReference(Reference):
    """Sums that the data brought along, computed by other tools. Token-level objectives cannot use them."""

    name = "columns"

    def ensure(self, trees: Sequence[Tree], progress: CountCallback | None = None) -> Computed:  # noqa: ARG002
        """Check that every response has its sum.

        Raises:
            DataError: one has not.
        """
        return Computed(len(self._sums(trees)), 0)

    def attach(self, responses: ResponseLogps, trees: Sequence[Tree]) -> ResponseLogps:
        sums = torch.tensor(self._sums(trees), dtype=torch.float64)
        return responses.with_reference_sums(sums.to(responses.seq_logps))

    def _sums(self, trees: Sequence[Tree]) -> list[float]:
        sums = [response.ref_logps for tree in trees for response in tree.responses]
        known = [s for s in sums if s is not None]
        if len(known) < len(sums):
            raise DataError(
                f"{len(sums) - len(known)} of {len(sums)} responses bring no reference log-probability, and"
                " reference.name is 'columns'; complete the columns, or name 'initial' to compute it",
                code="missing_ref_logps",
                key="reference.name",
            )
        return known

    def __str__(self) -> str:
        return "columns of the data (sums, as other tools computed them)"
