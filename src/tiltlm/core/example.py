"""The one noun of the package: a prompt, its k ≥ 1 responses, and what is known about them.

A pair is k = 2 with one comparison, an unpaired row k = 1 with a label, a ranked list k with ranks, a demonstration
k = 1 with nothing more. Everything here is token ids and plain numbers: text belongs to `tiltlm.data`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int32]
"""A one-dimensional array of token ids."""


def token_ids(ids: object) -> TokenIds:
    """`ids` (any sequence of integers) as a read-only int32 array."""
    array = np.array(ids, dtype=np.int32)
    array.flags.writeable = False
    return array


@dataclass(frozen=True, eq=False)
class Response:
    """One answer to a prompt, as tokens."""

    token_ids: TokenIds
    """The answer without its prompt; the end token is part of it when the answer ended by itself."""
    ended: bool = True
    """True where the last token is the end token; False where the answer was cut."""
    scored: NDArray[np.int32] | None = None
    """Offsets into `token_ids` that count (several assistant turns in one row); None: every token."""
    ref_logps: float | None = None
    """Reference log-probability of the scored tokens, summed, in nats, where the data brought it along."""

    def __post_init__(self) -> None:
        assert len(self.token_ids) >= 1, "a response has at least one token"
        assert self.scored is None or len(self.scored) >= 1, "a response has at least one scored token"

    @property
    def num_tokens(self) -> int:
        """How many tokens count."""
        return len(self.token_ids) if self.scored is None else len(self.scored)

    @property
    def key(self) -> tuple[bytes, bytes]:
        """Equal for responses that cost, and score, the same."""
        return self.token_ids.tobytes(), b"" if self.scored is None else self.scored.tobytes()


@dataclass(frozen=True)
class Comparison:
    """`chosen ≻ rejected`, as indices into the responses of one example."""

    chosen: int
    rejected: int
    weight: float = 1.0
    """Share of this comparison in its example's loss, relative to the example's other comparisons."""
    preference: float = 1.0
    """Soft label p = P(chosen ≻ rejected), in [0, 1]; ½ is a tie."""
    offset: float = 0.0
    """Margin in units of the reward (after β), subtracted from the reward difference before the link."""


@dataclass(frozen=True, eq=False)
class Example:
    """A prompt with its responses and what is known about them: one row of data."""

    id: str
    """Where it came from, for messages and files: the row's own id, or source and row number."""
    prompt_ids: TokenIds
    """At least one token: the beginning token where there is nothing else."""
    responses: tuple[Response, ...]
    comparisons: tuple[Comparison, ...] = ()
    labels: tuple[bool, ...] = ()
    """One per response: desirable or not. Empty where not known; likewise `ranks` and `scores`."""
    ranks: tuple[int, ...] = ()
    """One per response, 1 is best, equal ranks are ties."""
    scores: tuple[float, ...] = ()
    """One per response, higher is better."""
    weight: float = 1.0
    """Multiplies the example's loss; does not enter the divisor."""
    partners: tuple[Response, ...] = ()
    """Responses of other prompts, one per response: the mismatched pairs of KTO's baseline."""
    source: str = ""

    def __post_init__(self) -> None:
        assert len(self.prompt_ids) >= 1, "a prompt has at least one token"
        assert self.responses, "an example has at least one response"
        for known in (self.labels, self.ranks, self.scores, self.partners):
            assert len(known) in (0, len(self.responses)), "one entry per response, or none"

    @property
    def roles(self) -> tuple[str, ...]:
        """What each response is: chosen, rejected, both, desirable, undesirable, or just a response."""
        if self.labels:
            return tuple("desirable" if label else "undesirable" for label in self.labels)
        chosen, rejected = {c.chosen for c in self.comparisons}, {c.rejected for c in self.comparisons}
        names = {(True, False): "chosen", (False, True): "rejected", (True, True): "both"}
        return tuple(names.get((k in chosen, k in rejected), "response") for k in range(len(self.responses)))
