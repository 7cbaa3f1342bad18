"""What a run is told about its data. Every default of the data layer is written here and nowhere else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tiltlm.core.errors import ConfigError

Truncation = Literal["left_prompt", "drop", "right_response", "error"]
OnBad = Literal["drop", "error"]
AssistantTurns = Literal["last", "all"]

CACHE_LIMIT = 20.0
"""Default of `cache_limit`: some twenty million pairs of ordinary length."""

LONGEST = 2048
"""Length that `max_length=None` never exceeds: windows of 128k tokens are no reason to spend memory on them."""


@dataclass(frozen=True)
class DataSettings:
    """Where preference data comes from and what may be done to it."""

    train: str | tuple[str, ...]
    """A file (JSONL, also .gz or .zst; JSON, CSV, Parquet, Arrow), a folder, a dataset on the Hub; or several."""
    eval: str | tuple[str, ...] | None = None
    """Held-out data of its own, named as `train` is. Not together with `eval_fraction`."""
    eval_fraction: float = 0.0
    """Share of prompts held out of `train`. A prompt's side depends on its text and `eval_seed` alone."""
    eval_seed: int = 0
    """Chooses another set of held-out prompts."""
    split: str = "train"
    """Split that `train` means, where it is a Hugging Face dataset."""
    eval_split: str = "test"
    """Split that `eval` means, where it is a Hugging Face dataset."""
    subset: str | None = None
    """Configuration of a dataset on the Hub."""
    revision: str | None = None
    """Commit or tag of a dataset on the Hub; without one its newest version is read, and said so."""
    limit: int | None = None
    """Read only the first rows of `train`, and as many of `eval`."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Roles played by columns of another name: `{prompt: question}`."""
    ignore: tuple[str, ...] = ()
    """Columns to leave out."""
    max_length: int | None = None
    """Longest prompt with one response, in tokens. None: the model's window, at most 2,048."""
    truncation: Truncation = "left_prompt"
    """What happens to longer rows; the same for all responses of a prompt.

    `left_prompt` keeps whole answers and leaves out the prompt's oldest turns or, where it has none or the last alone
    is too long, its first tokens behind the beginning token; a row whose answer fits not even so is a defect. `drop`
    leaves long rows out. `right_response` cuts answers, which lose their end token. `error` stops.
    """
    on_bad: OnBad = "drop"
    """Whether a defective row is left out and counted, or stops the run."""
    max_bad: float = 0.05
    """Share of defective rows beyond which the run stops all the same."""
    assistant_turns: AssistantTurns = "last"
    """Which turns of a conversation `sft` learns. Everything else is about the last answer."""
    chat_template: str | None = None
    """Jinja text, or a file of it, in place of the tokenizer's own chat template."""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Variables given to the chat template; a row's own column of this name goes before them."""

    cache: bool | str = True
    """Whether tokenised data is kept for later runs, by content. True: from 20,000 rows on, in `$TILTLM_CACHE` or the
    user's cache folder. A folder: there, however few rows. False: never."""
    cache_limit: float | None = CACHE_LIMIT
    """Gigabytes (10⁹ bytes) of that folder. Beyond, what was not used for longest is removed, but never what this run
    uses; null: no limit."""
    processes: int | None = None
    """Processes that tokenise. None: one a core from 20,000 rows on, else one."""

    def __post_init__(self) -> None:
        def demand(holds: bool, code: str, name: str, rule: str) -> None:
            if not holds:
                raise ConfigError(f"data.{name}={getattr(self, name)!r}: {rule}", code=code, key=f"data.{name}")

        for name, known in (("truncation", Truncation), ("on_bad", OnBad), ("assistant_turns", AssistantTurns)):
            choices = get_args(known)
            demand(getattr(self, name) in choices, "unknown_name", name, f"one of {', '.join(choices)}")
        demand(bool(self.train), "missing_setting", "train", "name a file, a folder or a dataset")
        demand(
            0 <= self.eval_fraction < 1, "out_of_range", "eval_fraction", "a share of prompts, at least 0 and below 1"
        )
        demand(0 <= self.max_bad <= 1, "out_of_range", "max_bad", "a share of rows, from 0 to 1")
        demand(self.limit is None or self.limit >= 1, "not_positive", "limit", "at least 1 row")
        limit = self.cache_limit
        demand(limit is None or limit > 0, "not_positive", "cache_limit", "gigabytes, above 0 (null: no limit)")
        unused = self.cache is False and limit != CACHE_LIMIT
        demand(
            not unused, "no_effect", "cache_limit", "it has no effect, because data.cache is false; remove one of them"
        )
        demand(self.processes is None or self.processes >= 1, "not_positive", "processes", "at least 1")
        fits = self.max_length is None or self.max_length >= 2
        demand(fits, "out_of_range", "max_length", "at least 2: a prompt and an answer")
        both = self.eval is not None and self.eval_fraction > 0
        rule = f"data.eval={self.eval!r} is held-out data already; give one of the two"
        demand(not both, "conflict", "eval_fraction", rule)
