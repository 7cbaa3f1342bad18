"""Answers of a model to prompts, as a file: one row a prompt, in the columns that the data readers know.

The columns are `id`, `prompt`, `completions`, `prompt_ids`, `completions_ids`, `completions_ended`, `logps`,
`behaviour_logps`, `temperature`, `seed`, `model`, `model_digest`, `engine` and `exact`, and those of the prompt's own
row (`category`, the right answer of a verifier). Judges add `scores` or `comparisons`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tiltlm.core.example import TokenIds
from tiltlm.data.rows.cells import Conversation


@dataclass(frozen=True, eq=False)
class AnswerRow:
    """A prompt and n answers of one model, drawn with one setting."""

    id: str
    """Name of the prompt: the id of its row, else a digest of its text."""
    prompt: str | Conversation
    answers: tuple[str, ...]
    """Text without special tokens."""
    ended: tuple[bool, ...]
    """False for an answer that was cut."""
    prompt_ids: TokenIds | None = None
    """None for answers that were given as text; likewise `token_ids` and the log-probabilities."""
    token_ids: tuple[TokenIds, ...] | None = None
    logps: tuple[float, ...] | None = None
    """Log-probability of each answer at temperature 1 over the whole vocabulary, nats per response."""
    behaviour_logps: tuple[float, ...] | None = None
    """The same under the distribution of the draw, after temperature and truncation."""
    scores: tuple[float, ...] = ()
    """One per answer, if a judge scored them."""
    temperature: float | None = None
    seed: int | None = None
    model: str = ""
    """Name of the model, for tables."""
    model_digest: str = ""
    engine: str = ""
    exact: bool = False
    """True if the same request draws the same tokens again."""
    is_untruncated: bool = True
    """True if neither top-k, top-p nor min-p removed a token."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """Other columns of the prompt's row."""

    @property
    def category(self) -> str:
        """The category of the prompt; "" if its row names none."""
        return str(self.row.get("category", ""))
