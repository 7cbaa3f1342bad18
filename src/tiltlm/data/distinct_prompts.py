"""The distinct prompts of data of any shape, as tokens at inference: what a model is asked to answer."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tiltlm.core.errors import DataError
from tiltlm.core.example import TokenIds
from tiltlm.core.notes import Note
from tiltlm.data.accounting import Accounting, Defect
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.dataset import refuse_unreadable, survey
from tiltlm.data.files.text_files import Row
from tiltlm.data.loader import count_defect
from tiltlm.data.rows.cells import Conversation, TokenContent
from tiltlm.data.rows.columns import ColumnRoles, detect_prompts
from tiltlm.data.rows.prompts import becomes_turns
from tiltlm.data.rows.records import to_prompt
from tiltlm.data.rows.roles import ALL_ROLES, PROMPT
from tiltlm.data.tokens.encoder import Encoder

TooLong = Literal["drop", "error"]

NOT_KEPT = ALL_ROLES - {"source", "system", "tools", "chat_template_kwargs"}
"""Columns that are not kept beside a prompt: the prompt itself, and responses with what is known about them."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """One prompt."""

    id: str
    """The `id` of its row, else a digest of its text."""
    content: str | Conversation
    """As the data has it, for people and judges to read."""
    token_ids: TokenIds
    location: str
    row: Mapping[str, Any] = field(default_factory=dict)
    """Other columns of its row: a category, the right answer."""


@dataclass(frozen=True, eq=False)
class PromptSet:
    """The distinct prompts of some data, in order."""

    prompts: tuple[Prompt, ...]
    encoder: Encoder
    """Includes the chat template that was used."""
    end_token_id: int
    """The token that ends a response to these prompts in training."""
    accounting: Accounting
    notes: tuple[Note, ...]

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with any prompt or column."""
        plain = [[p.id, p.token_ids.tolist(), p.content, dict(p.row)] for p in self.prompts]
        return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:16]


def prompt_digest(content: str | Conversation) -> str:
    """Return 16 hexadecimal digits that name a prompt whose row has no id."""
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def find_prompts(
    rows: Iterable[Row],
    settings: DataSettings,
    encoder: Encoder,
    *,
    max_new_tokens: int,
    limit: int | None = None,
    too_long: TooLong = "drop",
) -> PromptSet:
    """Return the distinct prompts of rows of any shape: pairs, lists, demonstrations, labels, or prompts alone.

    A prompt has the tokens that it has in training, except that nothing is removed from it.

    Args:
        rows: Rows of files, in order; read twice.
        settings: `columns`, `ignore`, `as_chat`, `transcripts`, the template, `on_bad` and `max_bad` are used.
        encoder: Tokenises the prompts. The template settings are added to it.
        max_new_tokens: Room that a prompt must leave in the model's window.
        limit: Most prompts. None: all.
        too_long: `drop` leaves a prompt without this room out and counts it; `error` stops.

    Raises:
        DataError: Columns are unknown or contradict each other, too many rows are defective, a prompt is too long, or
            none is left.
    """
    encoder = encoder.with_template(settings.chat_template, settings.chat_template_kwargs)
    columns, _ = survey([rows])
    if not columns:
        refuse_unreadable(rows)
    schema = detect_prompts(columns, settings)
    accounting = Accounting()
    found: dict[bytes, Prompt] = {}
    repeated = 0
    for row in rows:
        if limit is not None and len(found) == limit:
            break
        accounting.total += 1
        with count_defect(accounting, row.location):
            prompt = _prompt(row, schema, settings, encoder)
            if prompt.token_ids.tobytes() in found:
                repeated += 1
                continue
            _check_length(prompt, encoder.window, max_new_tokens, too_long)
            found[prompt.token_ids.tobytes()] = prompt
    accounting.check_limit(settings.max_bad, settings.on_bad)
    if not found:
        raise _none_left(accounting)
    prompts = tuple(found.values())
    chat = any(not isinstance(p.content, str) or _wraps(p.content, settings, encoder) for p in prompts)
    end = encoder.turn_end_token_id if chat else encoder.end_token_id
    return PromptSet(prompts, encoder, end, accounting, tuple(_notes(accounting, len(prompts), repeated)))


def _wraps(prompt: str, settings: DataSettings, encoder: Encoder) -> bool:
    """Return True if text becomes turns, as in training."""
    return becomes_turns(prompt, settings, encoder.has_template)


def _prompt(row: Row, schema: ColumnRoles, settings: DataSettings, encoder: Encoder) -> Prompt:
    """Read the prompt of a row, in turns if training would do so.

    Raises:
        Defect: It cannot be read.
    """
    record = to_prompt(row, schema)
    content = record.prompt
    if isinstance(content, str) and _wraps(content, settings, encoder):
        has_system = bool(record.system)
        record = record.as_chat()
        content = record.prompt if has_system else content
    ids = encoder.encode_prompt(record)
    if isinstance(content, TokenContent):
        content = encoder.decode(ids)
    is_named = "id" in schema.roles and record.id != row.location
    read = {column for column, role in schema.renamed.items() if role in PROMPT} | NOT_KEPT | {*settings.ignore}
    kept = {column: value for column, value in row.values.items() if column not in read and value is not None}
    return Prompt(record.id if is_named else prompt_digest(content), content, ids, row.location, kept)


def _check_length(prompt: Prompt, window: int | None, max_new_tokens: int, too_long: TooLong) -> None:
    """Require that a prompt leaves room for a response.

    Raises:
        Defect: It does not, under `drop`.
        DataError: It does not, under `error`.
    """
    num_tokens = len(prompt.token_ids)
    if window is None or num_tokens + max_new_tokens <= window:
        return
    seen = f"{num_tokens} tokens and {max_new_tokens} new ones, window of {window}"
    if too_long == "drop":
        raise Defect("prompt_above_window", seen)
    raise DataError(
        f"{prompt.location}: the prompt leaves no room for an answer: {seen}. Shorten it, lower"
        " sampling.max_new_tokens, or leave such prompts out (too_long=drop)",
        code="too_long",
        key="sampling.max_new_tokens",
        row=prompt.location,
    )


def _none_left(accounting: Accounting) -> DataError:
    """Return the error of prompts of which none can be used, with every cause."""
    seen = [f"{cause} × {n.count:,}, such as {n.examples[0]}" for cause, n in accounting.losses.items()]
    way_out = "; lower --max-new-tokens, or shorten the prompts" if "prompt_above_window" in accounting.losses else ""
    text = f"no prompt is left of {accounting.total:,} rows: {'; '.join(seen) or 'there are no rows'}{way_out}"
    return DataError(text, code="no_rows_left", key="prompts")


def _notes(accounting: Accounting, num_prompts: int, repeated: int) -> list[Note]:
    again = f"; {repeated:,} rows repeat an earlier prompt" * (repeated > 0)
    notes = [Note(f"{num_prompts:,} prompts from {accounting.total:,} rows{again}", code="prompts")]
    for cause, counts in accounting.losses.items():
        text = f"left out: {counts.count:,} rows, {cause}, such as {counts.examples[0]}"
        notes.append(Note(text, code=f"prompts_{cause}"))
    return notes


def rows_in_memory(values: Iterable[str | Mapping[str, Any]]) -> tuple[Row, ...]:
    """Return texts or mappings as rows; a text is a prompt."""
    return tuple(
        Row(f"prompts[{i}]", {"prompt": value} if isinstance(value, str) else dict(value))
        for i, value in enumerate(values)
    )
