"""`Example`: a prompt, its k ≥ 1 responses, and what is known about them. All data is read into examples.

A pair has k = 2 and one comparison; an unpaired row k = 1 and a label; a ranked list k ranks; a demonstration k = 1 and
nothing else. Examples hold token ids and plain numbers only: text belongs to `tiltlm.data`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int32]
"""A one-dimensional array of token ids."""


def token_ids(ids: object) -> TokenIds:
    """Return `ids` (any sequence of integers) as a read-only int32 array."""
    array = np.array(ids, dtype=np.int32)
    array.flags.writeable = False
    return array


@dataclass(frozen=True, eq=False)
class Response:
    """One response to a prompt, as tokens."""

    token_ids: TokenIds
    """The response without its prompt. It includes the end token unless the response was truncated."""
    ended: bool = True
    """True if the last token is the end token; False if the response was truncated."""
    scored: NDArray[np.int32] | None = None
    """Offsets into `token_ids` of the scored tokens (several assistant turns in one row); None: every token."""
    ref_logps: float | None = None
    """Reference log-probability of the scored tokens, summed, in nats, if the data has it."""

    def __post_init__(self) -> None:
        assert len(self.token_ids) >= 1, "a response has at least one token"
        assert self.scored is None or len(self.scored) >= 1, "a response has at least one scored token"

    @property
    def num_tokens(self) -> int:
        """Number of scored tokens."""
        return len(self.token_ids) if self.scored is None else len(self.scored)

    @property
    def key(self) -> tuple[bytes, bytes]:
        """A key that is equal for responses with the same tokens and the same scored tokens."""
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
    """Offset in units of the reward (after β), subtracted from the reward difference before the link."""

    @property
    def oriented(self) -> "Comparison":
        """The same comparison with the response that the label prefers as `chosen`: p ≥ ½."""
        if self.preference >= 0.5:
            return self
        return replace(
            self, chosen=self.rejected, rejected=self.chosen, preference=1 - self.preference, offset=-self.offset
        )

    @property
    def is_tie(self) -> bool:
        """True if the label prefers neither response: p = ½."""
        return self.preference == 0.5


@dataclass(frozen=True, eq=False)
class Credit:
    """What a policy gradient knows about one sample of the policy. Nothing of it carries gradient."""

    advantage: float
    """A > 0 raises the probability of the sample."""
    old_logps: NDArray[np.float32] | None = None
    """[T] log-probability of each scored token when the round began, nats; None: the policy has not moved since."""
    is_drawn: bool = True
    """False for a sample that another one than the policy drew: no KL is estimated from it."""
    old_values: NDArray[np.float32] | None = None
    """[T] value of what precedes each scored token when the round began, in units of the reward, with a critic; None:
    the critic is as it was."""
    correction: NDArray[np.float64] | None = None
    """[T] factor of the loss of each scored token, for a sample that another distribution drew; None: 1. A token with
    factor 0 is in no divisor."""


@dataclass(frozen=True, eq=False)
class Example:
    """A prompt with its responses and what is known about them: one row of data."""

    id: str
    """Origin, for messages and files: the row's own id, or source and row number."""
    prompt_ids: TokenIds
    """At least one token: the beginning-of-sequence token if the prompt is empty."""
    responses: tuple[Response, ...]
    comparisons: tuple[Comparison, ...] = ()
    """Each with p ≥ ½: one with p < ½ is replaced by its mirror image (`Comparison.oriented`), which means the same."""
    labels: tuple[bool, ...] = ()
    """One per response: desirable or not. Empty if not known; likewise `ranks` and `scores`."""
    ranks: tuple[int, ...] = ()
    """One per response, 1 is best, equal ranks are ties."""
    scores: tuple[float, ...] = ()
    """One per response, higher is better."""
    credits: tuple[Credit, ...] = ()
    """One per response, for samples of the policy: what a policy gradient trains on."""
    weight: float = 1.0
    """Multiplies the example's loss. It does not change the divisor."""
    partners: tuple[Response, ...] = ()
    """Responses to other prompts, one per response: the mismatched pairs of KTO's baseline."""
    source: str = ""
    """Name of the data source."""

    def __post_init__(self) -> None:
        assert len(self.prompt_ids) >= 1, "a prompt has at least one token"
        assert self.responses, "an example has at least one response"
        for known in (self.labels, self.ranks, self.scores, self.credits, self.partners):
            assert len(known) in (0, len(self.responses)), "one entry per response, or none"
        object.__setattr__(self, "comparisons", tuple(c.oriented for c in self.comparisons))

    def keeping(self, places: Sequence[int]) -> "Example":
        """Return the example of samples of the policy with only the responses at these places."""
        return Example(
            self.id,
            self.prompt_ids,
            tuple(self.responses[k] for k in places),
            credits=tuple(self.credits[k] for k in places),
            weight=self.weight,
        )

    @property
    def roles(self) -> tuple[str, ...]:
        """The role of each response: chosen, rejected, both, desirable, undesirable, or just response (of a tie)."""
        if self.labels:
            return tuple("desirable" if label else "undesirable" for label in self.labels)
        decided = [c for c in self.comparisons if not c.is_tie]
        chosen, rejected = {c.chosen for c in decided}, {c.rejected for c in decided}
        names = {(True, False): "chosen", (False, True): "rejected", (True, True): "both"}
        return tuple(names.get((k in chosen, k in rejected), "response") for k in range(len(self.responses)))
