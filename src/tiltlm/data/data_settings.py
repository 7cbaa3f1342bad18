"""Settings of the data layer. All of its defaults are here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tiltlm.core.errors import ConfigError

Truncation = Literal["left_prompt", "drop", "right_response", "error"]
OnBad = Literal["drop", "error"]
DamagedFiles = Literal["error", "sound_rows"]
AssistantTurns = Literal["last", "all"]
Comparisons = Literal["all", "best_worst", "random", "gap", "bradley_terry"]
Transcripts = Literal["messages", "text"]
LabelRule = Literal["soft", "majority", "dawid_skene"]
LabelTies = Literal["keep", "drop"]

OF_LABELS = ("label_rule", "label_ties", "min_votes")
"""Settings that only have an effect on labelling projects."""
LABEL_KEYS = tuple(f"data.{name}" for name in OF_LABELS)
FILE_KEYS = ("data.max_row_mb", "data.damaged_files")
"""Settings of how files are read, which every command reads that reads data."""

MAX_ROW_MB = 16.0
"""Default of `max_row_mb`. A check of a row of 15 MB with the tokenizer of a Llama took 2 GB of memory."""

CACHE_LIMIT = 20.0
"""Default of `cache_limit`, in gigabytes: room for about twenty million pairs of usual length."""

MAX_WEIGHT = 1000
"""Largest weight of a source."""

LONGEST = 2048
"""Upper bound of `max_length=None`, in tokens. It saves memory with models whose window is 128k tokens."""


@dataclass(frozen=True)
class SourceSettings:
    """One source of a mixture, as an entry of `data.train`."""

    path: str
    """A file, a folder or a dataset on the Hub."""
    weight: float = 1.0
    """How often an epoch has each training row: 2 means twice; 0.5 means half of the rows, which a hash chooses."""
    cap: int | None = None
    """Most rows to use, training and held out together. A hash of their content chooses them. None: all."""
    source: str | None = None
    """Name of the source in metrics and reports. None: the row's column `source`, or else the name of the file."""

    def __post_init__(self) -> None:
        if not 0 < self.weight <= MAX_WEIGHT:
            raise ConfigError(
                f"data.train: {self.path}: weight={self.weight:g} must be above 0 and at most {MAX_WEIGHT}: it is how "
                "often an epoch has each row; leave the source out if none of its rows are wanted",
                code="out_of_range",
                key="data.train",
            )
        if self.cap is not None and self.cap < 1:
            raise ConfigError(
                f"data.train: {self.path}: cap={self.cap} must be at least 1 row", code="not_positive", key="data.train"
            )
        if not self.path or self.source == "":
            raise ConfigError(
                f"data.train: {self!r}: path and source must have text", code="missing_setting", key="data.train"
            )

    @property
    def is_whole(self) -> bool:
        """True if an epoch has every row once."""
        return self.weight == 1 and self.cap is None


SourceNames = str | tuple[str, ...] | tuple[str | SourceSettings, ...] | None


def sources_of(names: SourceNames) -> tuple[SourceSettings, ...]:
    """Return the sources that `DataSettings.train` or `eval` names, each with its settings."""
    listed = () if names is None else (names,) if isinstance(names, str) else names
    return tuple(SourceSettings(name) if isinstance(name, str) else name for name in listed)


def paths_of(names: SourceNames) -> tuple[str, ...]:
    """Return the paths and names of the sources that `DataSettings.train` or `eval` names."""
    return tuple(source.path for source in sources_of(names))


@dataclass(frozen=True)
class DataSettings:
    """Sources of preference data, and how rows are read, split, shortened and cached."""

    train: str | tuple[str | SourceSettings, ...]
    """A file (JSONL, JSON, CSV or TSV, also .gz or .zst; Parquet, Arrow), a labelling project (label.db), a folder, a
    dataset on the Hub; or a list of these.
    An entry of a list may have keys: `path`, `weight`, `cap` and `source` (see docs/splits.md)."""
    eval: str | tuple[str, ...] | None = None
    """Separate held-out data, named as for `train`. Not together with `eval_fraction`."""
    eval_fraction: float | None = None
    """Share of the prompts of `train` to hold out; 0: none. A prompt's text and `eval_seed` decide if it is held out.
    None: training holds out a tenth of the prompts, unless `eval` is given or there are too few prompts."""
    eval_seed: int = 0
    """Another seed holds out other prompts."""
    split: str | None = None
    """Split to read for `train`, if it is a dataset or a folder with splits. None: train."""
    eval_split: str | None = None
    """Split to read for `eval`, if it is a dataset or a folder with splits. None: test."""
    subset: str | None = None
    """Configuration name of a dataset on the Hub."""
    revision: str | None = None
    """Commit or tag of a dataset on the Hub. None: the newest version, with a note."""
    limit: int | None = None
    """Read at most this many rows of `train`, and at most this many of `eval`."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns that have another name: role → column, such as `{prompt: question}`."""
    ignore: tuple[str, ...] = ()
    """Columns to ignore."""
    max_length: int | None = None
    """Most tokens of a prompt with one response. None: the model's window, but at most 2,048."""
    truncation: Truncation = "left_prompt"
    """What to do with longer rows; the same for all responses of a prompt.

    `left_prompt` keeps responses whole and removes the prompt's oldest turns. If there are no turns, or the last one
    is too long by itself, it removes the prompt's first tokens but keeps the beginning token. A row whose response
    still does not fit is defective. `drop` leaves long rows out. `right_response` removes the last tokens of
    responses, which then have no end token. `error` stops the run.
    """
    on_bad: OnBad = "drop"
    """`drop` leaves defective rows out and counts them; with `error`, one defective row stops the run."""
    max_bad: float = 0.05
    """Largest share of defective rows under `on_bad="drop"`. Above it, the run stops."""
    max_row_mb: float = MAX_ROW_MB
    """Largest row, in megabytes (10⁶ bytes). A larger one is not read into memory, and is defective."""
    damaged_files: DamagedFiles = "error"
    """What to do with a compressed file that ends early or fails its checksum. `error`: no row of it is used.
    `sound_rows`: the rows before the damage are used; how many are lost is unknown, and a note says so."""
    as_chat: bool | None = None
    """Whether to wrap text as turns of a user and an assistant, with the chat template. None: where the model has a
    template or `chat_template` is given. False: text stays text. Conversations are turns already."""
    transcripts: Transcripts | None = None
    """What to do with Anthropic's transcripts (text of `Human:` and `Assistant:`), if not the same as with other text:
    `messages`, one for each turn, or `text`. None: `as_chat` decides for them too."""
    assistant_turns: AssistantTurns = "last"
    """Assistant turns of a conversation that `sft` learns. All other objectives use only the last one."""
    chat_template: str | None = None
    """Jinja text, or a file with it. None: the tokenizer's own chat template."""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Variables for the chat template. A row's `chat_template_kwargs` column overrides them."""

    comparisons: Comparisons = "all"
    """Which responses of a scored or ranked list are compared, for objectives of pairs. `all`: every two of different
    rank or score. `best_worst`: the best and the worst one. `random`: two of different rank or score, by a hash.
    `gap`: every two whose scores differ by `min_gap` or more. `bradley_terry`: every two, and the winner is drawn with
    the logistic function of the score difference."""
    min_gap: float | None = None
    """Least difference of scores under `comparisons="gap"`."""
    comparisons_seed: int = 0
    """Another seed chooses or draws other comparisons under `random` and `bradley_terry`."""

    label_rule: LabelRule = "soft"
    """How the votes of a labelling project (label.db) become labels. `soft`: the share of votes, a tie counts ½.
    `majority`: the answer with most votes. `dawid_skene`: votes weighed by how reliable each annotator is. A decision
    of an adjudicator takes their place in any case."""
    label_ties: LabelTies = "keep"
    """What becomes of pairs of a labelling project without a preferred answer. `keep`: they have preference ½. `drop`:
    they are left out."""
    min_votes: int = 1
    """Leave out pairs of a labelling project with fewer votes, unless an adjudicator decided them."""

    max_ches: float | None = None
    """Share of the training examples to keep: those whose two responses the untrained policy sees as least alike, by
    CHES. On alike responses a loss of margins lowers the better one too. None: all are kept."""

    cache: bool | str = True
    """Where to cache tokenised data for later runs. True: in `$TILTLM_CACHE` or else the user's cache folder, if there
    are at least 20,000 rows. A folder: in this folder, for any number of rows. False: no cache."""
    cache_limit: float | None = CACHE_LIMIT
    """Largest size of the cache folder, in gigabytes (10⁹ bytes). Above it, the least recently used entries are
    removed, but not the one this run uses. None: no limit."""
    processes: int | None = None
    """Number of processes that tokenise. None: one per core for 20,000 rows or more, else one."""

    def __post_init__(self) -> None:
        def demand(holds: bool, code: str, name: str, rule: str) -> None:
            if not holds:
                raise ConfigError(f"data.{name}={getattr(self, name)!r}: {rule}", code=code, key=f"data.{name}")

        for name, known in (
            *(("truncation", Truncation), ("on_bad", OnBad), ("assistant_turns", AssistantTurns)),
            *(("comparisons", Comparisons), ("label_rule", LabelRule), ("label_ties", LabelTies)),
            ("damaged_files", DamagedFiles),
        ):
            choices = get_args(known)
            demand(getattr(self, name) in choices, "unknown_name", name, f"must be one of {', '.join(choices)}")
        is_known = self.transcripts is None or self.transcripts in get_args(Transcripts)
        demand(is_known, "unknown_name", "transcripts", "must be messages or text")
        demand(bool(self.train), "missing_setting", "train", "must name a file, a folder or a dataset on the Hub")
        demand(
            0 <= (self.eval_fraction or 0) < 1,
            "out_of_range",
            "eval_fraction",
            "must be a share of the prompts: 0 ≤ value < 1",
        )
        demand(0 <= self.max_bad <= 1, "out_of_range", "max_bad", "must be a share of the rows: 0 ≤ value ≤ 1")
        demand(self.max_row_mb > 0, "not_positive", "max_row_mb", "must be megabytes above 0")
        kept = self.max_ches
        demand(kept is None or 0 < kept < 1, "out_of_range", "max_ches", "must be a share of the rows: 0 < value < 1")
        demand(self.limit is None or self.limit >= 1, "not_positive", "limit", "must be at least 1 row")
        demand(self.min_votes >= 1, "not_positive", "min_votes", "must be at least 1 vote")
        demand(self.eval_seed >= 0, "negative", "eval_seed", "must be 0 or more")
        _check_comparisons(self, demand)
        limit = self.cache_limit
        demand(
            limit is None or limit > 0, "not_positive", "cache_limit", "must be gigabytes above 0, or null for no limit"
        )
        unused = self.cache is False and limit != CACHE_LIMIT
        demand(
            not unused,
            "no_effect",
            "cache_limit",
            "has no effect, because data.cache is false; remove one of the two settings",
        )
        demand(self.processes is None or self.processes >= 1, "not_positive", "processes", "must be at least 1")
        fits = self.max_length is None or self.max_length >= 2
        demand(fits, "out_of_range", "max_length", "must be at least 2 tokens, for a prompt and a response")
        repeats = kept is not None and any(source.weight != 1 for source in sources_of(self.train))
        rule = "leaves out rows, and a weight in data.train repeats rows; remove one of the two settings"
        demand(not repeats, "conflict", "max_ches", rule)
        both = self.eval is not None and bool(self.eval_fraction)
        rule = f"data.eval={self.eval!r} already names held-out data; remove one of the two settings"
        demand(not both, "conflict", "eval_fraction", rule)
        unused = self.eval is None and self.eval_split is not None
        demand(not unused, "no_effect", "eval_split", "has no effect without data.eval; add it, or remove this setting")


def _check_comparisons(settings: DataSettings, demand: Callable[[bool, str, str, str], None]) -> None:
    """Require that the settings of `comparisons` are those that its rule reads."""
    rule, gap, seed = settings.comparisons, settings.min_gap, settings.comparisons_seed
    demand(gap is None or gap > 0, "not_positive", "min_gap", "must be a difference of scores above 0")
    demand(gap is None or rule == "gap", "no_effect", "min_gap", f"has no effect with data.comparisons={rule}")
    needed = "needs the least difference of two scores: data.min_gap=NUMBER"
    demand(rule != "gap" or gap is not None, "missing_setting", "comparisons", needed)
    is_drawn = rule in ("random", "bradley_terry")
    demand(seed >= 0, "negative", "comparisons_seed", "must be 0 or more")
    demand(
        is_drawn or seed == 0, "no_effect", "comparisons_seed", f"has no effect with data.comparisons={rule}; remove it"
    )
