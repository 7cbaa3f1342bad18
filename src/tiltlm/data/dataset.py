"""Load preference data: read, check, convert, tokenise, split by prompt, and count what happened to every row."""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.example import Example
from tiltlm.core.needs import Need, Shape, Use
from tiltlm.core.notes import Note
from tiltlm.data.accounting import Accounting, Defect
from tiltlm.data.cache.dataset_cache import CachedData, entry_folder, open_cache, write_cache
from tiltlm.data.cache.mixture import Mixture, mix
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.files.sources import Rows, read_rows
from tiltlm.data.files.text_files import Row
from tiltlm.data.findings import DataFacts
from tiltlm.data.loader import Loader, RowBlock
from tiltlm.data.partners import assign_partners
from tiltlm.data.quality.brief import brief_verdict
from tiltlm.data.rows.columns import ColumnRoles, detect
from tiltlm.data.rows.convert import announce
from tiltlm.data.rows.roles import REFERENCE
from tiltlm.data.tokens.encoder import Encoder
from tiltlm.data.whole_rows import whole_rows
from tiltlm.data.workers import MANY_ROWS, load_blocks, num_cores

log = logging.getLogger(__name__)

FIRST_ROWS = 1000
"""Rows of each source that show what its columns are for."""


@dataclass(frozen=True)
class PreferenceData:
    """Training and held-out examples of a run, with the encoder that made them."""

    train: Sequence[Example]
    """Examples from files are made on each access."""
    held_out: Sequence[Example]
    accounting: Accounting
    fingerprint: str
    """sha256 of the examples of both parts in order, without their ids and sources. It decides the epoch order."""
    notes: tuple[Note, ...]
    """Facts that the user must know, as sentences: conversions, unused columns, the end token."""
    encoder: Encoder
    """Includes the chat template that was used."""
    end_token_id: int
    """The token that ends responses in this data. Samplers stop at it."""
    max_length: int
    """Most tokens of a prompt with one response."""
    verdict: Note | None = None
    """What loading showed of the data's quality, as a sentence."""
    has_reference: bool = False
    """True if every response has a reference log-probability from the data's columns."""
    content: Mapping[str, str] = field(default_factory=dict)
    """Fingerprint of the rows of each part (train, held_out) as a set, without regard to path, format and order
    (`tiltlm.data.rows.canonical`)."""
    sources: Mapping[str, int] = field(default_factory=dict)
    """Sources of the training rows, with their numbers of rows."""
    commits: Mapping[str, str] = field(default_factory=dict)
    """The commit of each dataset on the Hub."""


def load_data(
    settings: DataSettings,
    encoder: Encoder,
    objective_shape: Shape,
    *,
    needs: frozenset[Need] = frozenset(),
    uses: frozenset[Use] | None = None,
    needs_partners: bool = False,
    use_reference_columns: bool = False,
    is_whole: bool = True,
) -> PreferenceData:
    """Load the data of a run.

    Args:
        settings: Sources, and how to read them.
        encoder: Tokenises the rows. The template settings are added to it.
        objective_shape: Shape that the objective needs. Data of another shape is converted if possible, with a note.
        needs: What the objective needs beside responses. Data without it is refused.
        uses: Optional columns that the objective uses; others are refused. None: those usual for its shape.
        needs_partners: Give every response a partner of another prompt (KTO's baseline).
        use_reference_columns: True with `reference=columns`.
        is_whole: False: the settings limit the rows to the first ones, to look at them. They need not have both labels,
            nor a held-out prompt.

    Raises:
        ConfigError: Settings contradict each other, or one has no effect.
        DataError: A source is missing, columns are unknown or contradict each other, the share of defects is above
            `settings.max_bad`, or no row is left to train on.
    """
    encoder = encoder.with_template(settings.chat_template, settings.chat_template_kwargs)
    check_shape(settings, objective_shape)
    parts = find_parts(settings)
    folder = entry_folder(settings, encoder, objective_shape, needs, uses, use_reference_columns, parts)
    cached = None if folder is None else read_cached(folder)

    def loader_of(columns: Mapping[str, str]) -> Loader:
        schema = schema_of(columns, settings, needs_partners, use_reference_columns)
        announce(
            schema, objective_shape, needs, uses, settings.comparisons
        )  # raises if the data does not serve the objective
        return Loader(settings, schema, objective_shape, needs, uses, use_reference_columns, encoder=encoder)

    data = cached or read_once(parts, loader_of, folder)
    loader = loader_of(data.columns)
    schema, facts = loader.schema, data.facts
    source_notes = [note for part in parts for note in part.notes]
    notes = [*announce(schema, objective_shape, needs, uses, settings.comparisons), *schema.notes, *source_notes]
    facts.check(settings, encoder)
    if use_reference_columns:
        facts.check_form(settings)
    mixture = mix(data, settings)
    train, held_out = with_partners(mixture, facts, loader.max_length, settings, needs_partners, is_whole)
    return PreferenceData(
        train=train,
        held_out=held_out,
        accounting=facts.accounting,
        fingerprint=mixture.fingerprint,
        notes=(*notes, *mixture.notes, *facts.notes(encoder, schema.unused)),
        encoder=encoder,
        end_token_id=facts.end_token_id(encoder),
        max_length=loader.max_length,
        verdict=brief_verdict(facts),
        has_reference=use_reference_columns,
        content={part: digest for part, digest in zip(("train", "held_out"), facts.content, strict=True) if digest},
        sources=mixture.sources,
        commits={name: commit for part in parts for name, commit in part.commits.items()},
    )


def read_cached(folder: Path) -> CachedData | None:
    """Return the data of a cache entry and log it, or None if there is none."""
    cached = open_cache(folder)
    if cached is not None:
        num_rows = cached.facts.accounting.total
        extra = {"event": "data_from_cache", "rows": num_rows, "folder": folder}
        log.info("read %d tokenised rows from the cache: %s", num_rows, folder, extra=extra)
    return cached


def with_partners(
    data: Mixture, facts: DataFacts, max_length: int, settings: DataSettings, needs_partners: bool, is_whole: bool
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Return training and held-out examples, with partners if the objective needs them.

    Raises:
        DataError: Too few prompts have partners, or a part of whole data cannot be used.
    """
    train, held_out = data.train, data.held_out
    if needs_partners:
        train = assign_partners(train, max_length, part="training")
    if is_whole:
        facts.check_parts(settings)
    if needs_partners:
        held_out = assign_partners(held_out, max_length, part="held-out")
    return train, held_out


def find_parts(settings: DataSettings) -> list[Rows]:
    """Return the rows of the training data, then those of separate held-out data if it is named."""
    parts = [whole_rows(read_rows(settings, mixes=True))]
    if settings.eval is not None:
        parts.append(whole_rows(read_rows(settings, held_out=True)))
    return parts


def check_shape(settings: DataSettings, objective_shape: Shape) -> None:
    """Raise if no file has this shape, or if every turn should be learned and the objective uses only the last one."""
    if objective_shape == "rollouts":
        raise DataError(
            "this objective trains on fresh samples of the policy with advantages, which are in no file; run it with "
            "`tiltlm loop` (--list shows the presets)",
            code="needs_loop",
        )
    if settings.assistant_turns == "all" and objective_shape != "demonstrations":
        raise ConfigError(
            "data.assistant_turns=all: only sft learns all turns, but this objective uses only the last one. Set "
            "data.assistant_turns=last",
            code="conflict",
            key="data.assistant_turns",
        )


def schema_of(
    columns: Mapping[str, str], settings: DataSettings, needs_partners: bool, use_reference_columns: bool
) -> ColumnRoles:
    """Return the role of each column; raise if columns contradict each other or the objective's reference."""
    schema = detect(columns, settings, use_reference_columns=use_reference_columns)
    if use_reference_columns:
        check_reference_columns(schema, needs_partners)
    return schema


def check_reference_columns(schema: ColumnRoles, needs_partners: bool) -> None:
    """Raise if the columns of the data cannot be the reference."""
    if needs_partners:
        raise ConfigError(
            "reference=columns: this objective also needs reference log-probabilities of mismatched pairs, which the "
            "data does not have. Choose another reference",
            code="conflict",
            key="reference.name",
        )
    if not schema.roles & REFERENCE:
        raise DataError(
            f"reference=columns: the data has none of {', '.join(sorted(REFERENCE))}. Add them, or choose another "
            "reference",
            code="missing_column",
            key="reference.name",
        )


class LateColumns(Exception):
    """A column appeared after the first rows that changes how rows are read."""


def read_once(
    parts: Sequence[Rows], loader_of: Callable[[Mapping[str, str]], Loader], folder: Path | None
) -> CachedData:
    """Load all rows in one reading: the first rows of each source show what the columns are for.

    If a later row shows it to be otherwise, all columns are found first, and the rows are read again.

    Args:
        parts: Training rows, and held-out rows.
        loader_of: Returns the loader of rows with these columns, or raises if they cannot be used.
        folder: The cache entry to write.
    """
    columns, _ = survey(first for part in parts for first in part.firsts(FIRST_ROWS))
    with contextlib.suppress(LateColumns):
        try:
            loader = loader_of(columns)
        except (ConfigError, DataError):
            raise LateColumns from None  # perhaps only the first rows lack a column
        return tokenise(loader, parts, columns, loader_of, folder)
    columns, _ = survey(parts)
    if not columns:
        refuse_unreadable(parts[0])
    return tokenise(loader_of(columns), parts, columns, loader_of, folder)


def tokenise(
    loader: Loader,
    parts: Sequence[Rows],
    columns: dict[str, str],
    loader_of: Callable[[Mapping[str, str]], Loader],
    folder: Path | None,
) -> CachedData:
    """Load all rows: the training data, then the separate held-out data if there is any.

    Args:
        loader: Turns rows into examples.
        parts: Training rows, and held-out rows.
        columns: Each column of the rows → location of the first row that has it. Columns that appear later are added.
        loader_of: As for `read_once`.
        folder: The cache entry to write. Few rows are cached only if the settings name the cache folder.

    Raises:
        LateColumns: A row has a column that `columns` lack and that changes how rows are read.
    """
    settings = loader.settings

    def watched(rows: Rows) -> Iterator[Row]:
        for row in rows:
            if not row.values.keys() <= columns.keys():
                columns.update({column: row.location for column in row.values if column not in columns})
                if not _reads_alike(loader, columns, loader_of):
                    raise LateColumns
            yield row

    streams, left = [], MANY_ROWS
    for part in parts:
        rows = watched(part)
        head = deque(islice(rows, left))  # whether there are many rows shows only when they are read
        left -= len(head)
        streams.append(_emptied(head, rows))
    is_cached = folder is not None and (left == 0 or isinstance(settings.cache, str))
    num_processes = settings.processes or (num_cores() if left == 0 else 1)
    if left == 0:
        log.info(
            "tokenising %d rows or more, processes: %d; %s",
            MANY_ROWS,
            num_processes,
            f"cached in {folder}" if is_cached else "not cached for later runs",
        )

    def blocks() -> Iterator[RowBlock]:
        for rows, from_eval in zip(streams, (False, True), strict=False):
            yield from load_blocks(loader, rows, from_eval, num_processes)

    limit = None if settings.cache_limit is None else round(settings.cache_limit * 1e9)
    return write_cache(folder if is_cached else None, blocks, columns, limit)


def _emptied(head: deque[Row], rows: Iterator[Row]) -> Iterator[Row]:
    """Yield the rows of `head`, which are freed one by one, then the others."""
    while head:
        yield head.popleft()
    yield from rows


def _reads_alike(loader: Loader, columns: Mapping[str, str], loader_of: Callable[[Mapping[str, str]], Loader]) -> bool:
    """Return whether rows with these columns are read as the loader reads them: added columns are not used."""
    try:
        now, then = loader_of(columns).schema, loader.schema
    except (ConfigError, DataError):
        return False
    renamed = {column: role for column, role in now.renamed.items() if role in now.roles}
    known = {column: role for column, role in then.renamed.items() if role in then.roles}
    return (now.shape, now.roles, now.readers, renamed) == (then.shape, then.roles, then.readers, known)


def survey(parts: Iterable[Iterable[Row]]) -> tuple[dict[str, str], int]:
    """Return each column with the location of the first row that has it, and the number of rows."""
    first_seen: dict[str, str] = {}
    num_rows = 0
    for rows in parts:
        for row in rows:
            num_rows += 1
            for column in row.values:
                if column not in first_seen:
                    first_seen[column] = row.location
    return first_seen, num_rows


def refuse_unreadable(rows: Iterable[Row]) -> None:
    """Raise if no row can be read, whatever share of defects is allowed."""
    accounting = Accounting()
    for row in rows:
        accounting.total += 1
        accounting.drop(row.location, row.defect or Defect("missing_value", "the row is empty"))
    accounting.check_limit(0.0, "error")
