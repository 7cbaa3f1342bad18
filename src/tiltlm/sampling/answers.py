"""Answers of a model to prompts, as a file: one row a prompt, in the columns that the data readers know.

The columns are `id`, `prompt`, `completions`, `prompt_ids`, `completions_ids`, `completions_ended`, `logps`,
`behaviour_logps`, `behaviour_token_logps`, `temperature`, `seed`, `model`, `model_digest`, `engine`, `exact`,
`untruncated`, and those of the prompt's own row (`category`, the right answer of a verifier). Judges add `scores` or
`comparisons`.
"""

import gzip
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.example import TokenIds, token_ids
from tiltlm.data.accounting import Defect
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.distinct_prompts import prompt_digest
from tiltlm.data.files.sources import read_rows
from tiltlm.data.files.text_files import Row
from tiltlm.data.rows import cells
from tiltlm.data.rows.cells import Conversation, TokenContent
from tiltlm.storage.files import finite_json, write_bytes

Floats32 = NDArray[np.float32]
ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
"""Ends of the names of answer files."""


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
    """One per answer, if a judge scored them. NaN where it could not."""
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
    behaviour_token_logps: tuple[Floats32, ...] | None = None
    """[n][T] log-probability of each token under the distribution of the draw. None: not known, or the engine is exact,
    so nobody needs it."""

    def with_answers(self, answers: Sequence[str], ended: Sequence[bool], token_ids: Sequence[TokenIds]) -> "AnswerRow":
        """Return the row with other answers, whose log-probabilities are not known."""
        return replace(
            self,
            answers=tuple(answers),
            ended=tuple(ended),
            token_ids=tuple(token_ids),
            logps=None,
            behaviour_logps=None,
            behaviour_token_logps=None,
        )

    @property
    def has_own_distribution(self) -> bool:
        """True if the answers are draws of the model itself: temperature 1, nothing removed."""
        return self.temperature == 1 and self.is_untruncated

    @property
    def category(self) -> str:
        """The category of the prompt; "" if its row names none."""
        return str(self.row.get("category", ""))


OWN = frozenset(
    {
        *("id", "prompt", "completions", "prompt_ids", "completions_ids", "completions_ended", "logps"),
        *(
            "behaviour_logps",
            "behaviour_token_logps",
            "temperature",
            "seed",
            "model",
            "model_digest",
            "engine",
            "exact",
            "untruncated",
        ),
        "scores",
    }
)
"""Columns of an answer file that are fields of `AnswerRow`."""


def to_plain(answer: AnswerRow) -> dict[str, Any]:
    """Return a row as a file has it: the columns that are known, in a fixed order."""
    ids = answer.token_ids
    logps = answer.behaviour_token_logps
    of_tokens = None if logps is None else [[float(str(value)) for value in own] for own in logps]  # shortest text
    own = {
        "id": answer.id,
        "prompt": answer.prompt if isinstance(answer.prompt, str) else list(answer.prompt),
        "completions": list(answer.answers),
        "prompt_ids": None if answer.prompt_ids is None else answer.prompt_ids.tolist(),
        "completions_ids": None if ids is None else [one.tolist() for one in ids],
        "completions_ended": list(answer.ended),
        "logps": _listed(answer.logps),
        "behaviour_logps": _listed(answer.behaviour_logps),
        "behaviour_token_logps": of_tokens,
        "scores": _listed(answer.scores or None),
        "temperature": answer.temperature,
        "seed": answer.seed,
        "model": answer.model,
        "model_digest": answer.model_digest,
        "engine": answer.engine,
        "exact": answer.exact,
        "untruncated": answer.is_untruncated,
    }
    rest = {name: value for name, value in answer.row.items() if name not in OWN}
    return {**{name: value for name, value in own.items() if value is not None}, **rest}


def _listed(values: Sequence[float] | None) -> list[float | None] | None:
    return None if values is None else [None if math.isnan(value) else value for value in values]


def write_answers(path: Path, rows: Iterable[AnswerRow]) -> None:
    """Write answers atomically; the end of the name decides the format. Equal rows give equal bytes.

    Args:
        path: A file that ends with one of `ENDINGS`.
        rows: At least one row.

    Raises:
        ConfigError: The name has another end.
        RunError: The file cannot be written.
    """
    write_plain_rows(path, [to_plain(row) for row in rows])


def write_plain_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of plain values, as `write_answers` does. Judges add their columns to such rows.

    Raises:
        ConfigError: The name has another end than those of `ENDINGS`.
        RunError: The file cannot be written.
    """
    check_ending(path)
    if path.name.lower().endswith(".parquet"):
        write_bytes(path, _parquet(rows))
        return
    text = "".join(json.dumps(finite_json(row), ensure_ascii=False) + "\n" for row in rows)
    pack: Callable[[bytes], bytes] = {
        ".gz": lambda content: gzip.compress(content, mtime=0),  # without a time: equal rows, equal bytes
        ".zst": lambda content: zstandard.ZstdCompressor().compress(content),
    }.get(path.suffix.lower(), lambda content: content)
    write_bytes(path, pack(text.encode("utf-8", "surrogatepass")))


def check_ending(path: Path) -> None:
    """Require that the name of a file says one of the formats of answers.

    Raises:
        ConfigError: It does not.
    """
    if not path.name.lower().endswith(ENDINGS):
        raise ConfigError(
            f"output {path}: the name must end with one of {', '.join(ENDINGS)}",
            code="unknown_file_format",
            key="output",
        )


def split_ending(name: str) -> tuple[str, str]:
    """Return the name of a file without its ending, and the ending: one of `ENDINGS`, which `check_ending` requires."""
    ending = next(ending for ending in ENDINGS if name.lower().endswith(ending))
    return name[: -len(ending)], name[-len(ending) :]


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return rows as Parquet. A column whose values differ in kind is written as JSON text, which the readers read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        mixed = any(isinstance(value, Mapping) or _holds_mappings(value) for value in values)
        try:
            if mixed:  # Arrow would give every mapping the keys of all others
                raise pa.ArrowInvalid(name)
            columns[name] = pa.array(values)
        except pa.ArrowException:
            columns[name] = pa.array([None if v is None else _as_text(v) for v in values])
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _holds_mappings(value: object) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(finite_json(value), ensure_ascii=False)


def read_answers(path: str | Path) -> list[AnswerRow]:
    """Read a file of answers: one that `write_answers` wrote, or rows with `prompt` and `completions` of any origin.

    A row with one answer may have it in `completion`.

    Args:
        path: JSON Lines, JSON, Parquet or Arrow, also compressed.

    Raises:
        DataError: The file cannot be read, or a row is no row of answers; the message names the row.
    """
    return [to_answers(row) for row in read_rows(DataSettings(train=str(path)))]


def to_answers(row: Row) -> AnswerRow:
    """Read a row of a file as answers.

    Raises:
        DataError: It has no answers, or a value has the wrong type.
    """
    try:
        if row.defect is not None:
            raise row.defect
        return _to_answers({name: value for name, value in row.values.items() if value is not None})
    except Defect as defect:
        raise DataError(
            f"{row.location}: not a row of answers, which has `prompt` and `completions`: {defect.detail}",
            code=defect.code,
            row=row.location,
        ) from None


def _to_answers(values: Mapping[str, Any]) -> AnswerRow:
    name = "completions" if "completions" in values else "completion"
    for needed in ("prompt", name):
        if needed not in values:
            raise Defect("missing_value", f"{needed} is missing")
    given = cells.items(name, values[name]) if name == "completions" else [values[name]]
    texts = tuple(cells.text(name, text) for text in given)
    if not texts:
        raise Defect("empty_response", f"{name} is empty")
    n = len(texts)
    prompt = cells.content("prompt", values["prompt"])
    assert not isinstance(prompt, TokenContent)

    def numbers(column: str) -> tuple[float, ...] | None:
        if column not in values:
            return None
        found = cells.items(column, values[column], n)
        return tuple(math.nan if value is None else cells.number(column, value) for value in found)

    ids = cells.items("completions_ids", values["completions_ids"], n) if "completions_ids" in values else None
    of_tokens = None
    if ids is not None and "behaviour_token_logps" in values:
        lists = zip(cells.items("behaviour_token_logps", values["behaviour_token_logps"], n), ids, strict=True)
        of_tokens = tuple(_token_logps(logps, len(tokens)) for logps, tokens in lists)
    return AnswerRow(
        id=str(values.get("id") or prompt_digest(prompt)),
        prompt=prompt,
        answers=texts,
        ended=tuple(cells.label("completions_ended", e) for e in cells.each(values, "completions_ended", n))
        or (True,) * n,
        prompt_ids=token_ids(cells.ids("prompt_ids", values["prompt_ids"])) if "prompt_ids" in values else None,
        token_ids=None if ids is None else tuple(token_ids(cells.ids("completions_ids", one)) for one in ids),
        logps=numbers("logps"),
        behaviour_logps=numbers("behaviour_logps"),
        behaviour_token_logps=of_tokens,
        scores=numbers("scores") or (),
        temperature=cells.number("temperature", values["temperature"]) if "temperature" in values else None,
        seed=int(cells.number("seed", values["seed"])) if "seed" in values else None,
        model=str(values.get("model", "")),
        model_digest=str(values.get("model_digest", "")),
        engine=str(values.get("engine", "")),
        exact=cells.label("exact", values.get("exact", False)),
        is_untruncated=cells.label("untruncated", values.get("untruncated", True)),
        row={column: value for column, value in values.items() if column not in OWN | {name}},
    )


def _token_logps(value: object, num_tokens: int) -> Floats32:
    """Read the log-probability of each token; one that is missing or no number is a defect, never a default."""
    name = "behaviour_token_logps"
    return np.array([cells.number(name, one) for one in cells.items(name, value, num_tokens)], dtype=np.float32)


def require_own_distribution(rows: Iterable[AnswerRow], purpose: str) -> None:
    """Require that answers were drawn from the model itself: temperature 1, no truncation.

    Args:
        rows: The answers.
        purpose: What needs it, such as `a KL`, for the message.

    Raises:
        DataError: Some answers were drawn otherwise.
    """
    for row in rows:
        if not row.has_own_distribution:
            cut = "" if row.is_untruncated else ", with top-k, top-p or min-p"
            raise DataError(
                f"{row.id}: the answers were drawn at temperature {row.temperature}{cut}, so they are not the model's"
                f" own distribution, and {purpose} needs that. Draw them at temperature 1 without truncation",
                code="not_own_distribution",
                key="sampling.temperature",
                row=row.id,
            )
