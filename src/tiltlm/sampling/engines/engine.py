"""The interface of engines: prompts in, answers with their log-probabilities out."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tiltlm.core.example import Response, TokenIds
from tiltlm.sampling.drawing import SamplingSettings

Floats32 = NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with (answers done, all answers)."""


@dataclass(frozen=True, eq=False)
class EngineAnswer:
    """One answer."""

    token_ids: TokenIds
    """Its tokens, with the end token if it has ended."""
    ended: bool
    """False if the length limit cut it."""
    logp: float | None
    """Log-probability at temperature 1 over the whole vocabulary, nats. None: not known."""
    behaviour_logp: float | None
    """The same under the distribution of the draw. None: not known."""
    behaviour_token_logps: Floats32 | None = None
    """[T] that of each token. None: not known, or the engine is exact, so nobody needs it."""

    @property
    def response(self) -> Response:
        """These tokens as a response of an example."""
        return Response(self.token_ids, ended=self.ended)


@dataclass(frozen=True, eq=False)
class Batch:
    """The answers of one call."""

    answers: list[list[EngineAnswer]]
    """At most n answers to each prompt, in the order of the prompts."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Answers that are missing, by cause."""


class Engine(Protocol):
    """A source of answers."""

    @property
    def name(self) -> str:
        """Name in the column `engine`."""
        ...

    @property
    def is_exact(self) -> bool:
        """True if the same request draws the same tokens again."""
        ...

    @property
    def digest(self) -> str:
        """Digest of the weights that answer; "" if they are not known."""
        ...

    def draw(
        self,
        prompts: Sequence[TokenIds],
        n: int,
        settings: SamplingSettings,
        *,
        seed: int,
        end_token_ids: Sequence[int],
        progress: Progress | None = None,
    ) -> Batch:
        """Draw n answers to each prompt. Processes that draw together call it together, with equal arguments.

        Args:
            prompts: Token ids, distinct.
            n: Answers to each prompt.
            settings: Length, temperature, truncation.
            seed: Seed of the draw.
            end_token_ids: An answer ends at the first of these tokens.
            progress: Called as answers are done.

        Raises:
            TiltError: The engine cannot do what is asked, or does not answer.
        """
        ...
