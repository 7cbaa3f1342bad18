"""Preference data, loaded: read, checked, converted, tokenised, split by prompt, and fully accounted for."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.example import Example
from tiltlm.core.needs import Need, Shape, Use
from tiltlm.data.accounting import Accounting, Defect
from tiltlm.data.cache.dataset_cache import CachedData, open_cache, place_of, write_cache
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.files.sources import Rows, check_hub_settings, read_rows
from tiltlm.data.files.text_files import Row
from tiltlm.data.loader import Loader, RowBlock
from tiltlm.data.partners import assign_partners
from tiltlm.data.rows.columns import REFERENCE, Schema, detect
from tiltlm.data.rows.convert import announce
from tiltlm.data.tokens.encoder import Encoder
from tiltlm.data.workers import MANY, load_blocks, num_cores

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreferenceData:
    """What a run trains on and what it is measured on."""

    train: Sequence[Example]
    """Made on demand where they come from files: what is asked for twice is made twice."""
    held_out: Sequence[Example]
    accounting: Accounting
    fingerprint: str
    """sha256 over the tokens of both parts and all that is known about them; ids and sources do not enter."""
    notes: tuple[str, ...]
    """What a reader must be told: conversions, unused columns, the end token."""
    encoder: Encoder
    """With the chat template that was used."""
    end_token_id: int
    """What ends a response in this data, and where a sampler stops."""
    max_length: int
    has_reference: bool = False
    """Whether every response carries a reference log-probability from the data's own columns."""


def load_data(
    settings: DataSettings,
    encoder: Encoder,
    objective_shape: Shape,
    *,
    needs: frozenset[Need] = frozenset(),
    uses: frozenset[Use] | None = None,
    needs_partners: bool = False,
    use_reference_columns: bool = False,
) -> PreferenceData:
    """Load the data of a run.

    Args:
        objective_shape: what the objective is about; other data is converted where that is possible, and announced.
        needs: what the objective cannot do without beside responses; data that lacks it is refused.
        uses: the optional columns it can use, where others of its shape can use more or less; another is refused.
        needs_partners: give every response a partner of another prompt (KTO's baseline).
        use_reference_columns: the reference is named to be the data's own columns.

    Raises:
        DataError: a source is missing, columns are unknown or contradictory, defects exceed `settings.max_bad`, or
            nothing is left to train on.
    """
    encoder = encoder.with_template(settings.chat_template, settings.chat_template_kwargs)
    check_turns(settings, objective_shape)
    hub_notes = check_hub_settings(settings)
    rows = read_rows(settings.train, settings, settings.split)
    eval_rows = read_rows(settings.eval, settings, settings.eval_split) if settings.eval is not None else None
    parts = [rows] if eval_rows is None else [rows, eval_rows]
    place = place_of(settings, encoder, objective_shape, needs, use_reference_columns, parts)
    kept = None if place is None else open_cache(place)
    columns, num_rows = (kept.columns, kept.findings.books.total) if kept else survey(parts)
    if not columns:
        refuse_unreadable(rows)
    schema = detect(columns, settings, use_reference_columns=use_reference_columns)
    if use_reference_columns:
        check_reference_columns(schema, needs_partners)
    notes = [*announce(schema, objective_shape, needs, uses), *hub_notes]
    loader = Loader(settings, encoder, schema, objective_shape, needs, needs_reference=use_reference_columns)
    if kept is not None:
        facts = {"event": "data_from_cache", "rows": num_rows, "folder": place}
        log.info("%d rows were tokenised before: %s", num_rows, place, extra=facts)
    else:
        kept = tokenise(loader, parts, columns, num_rows, place)
    kept.findings.check(settings, encoder)
    train: Sequence[Example] = kept.train
    held_out: Sequence[Example] = kept.held_out
    if needs_partners:
        train = assign_partners(train, loader.max_length, part="training")
        held_out = assign_partners(held_out, loader.max_length, part="held-out")
    return PreferenceData(
        train=train,
        held_out=held_out,
        accounting=kept.findings.books,
        fingerprint=kept.fingerprint,
        notes=(*notes, *kept.findings.notes(encoder, schema.unused)),
        encoder=encoder,
        end_token_id=kept.findings.end_token_id(encoder),
        max_length=loader.max_length,
        has_reference=use_reference_columns,
    )


def check_turns(settings: DataSettings, objective_shape: Shape) -> None:
    """Refuse to learn every assistant turn where the objective is about the last."""
    if settings.assistant_turns == "all" and objective_shape != "demonstrations":
        raise ConfigError(
            "data.assistant_turns=all: only sft learns every turn; this objective is about the last answer",
            code="conflict",
            key="data.assistant_turns",
        )


def check_reference_columns(schema: Schema, needs_partners: bool) -> None:
    """Refuse the data's own columns as a reference where they cannot be one."""
    if needs_partners:
        raise ConfigError(
            "reference=columns: this objective also needs the reference on mismatched pairs; name another",
            code="conflict",
            key="reference.name",
        )
    if not schema.roles & REFERENCE:
        raise DataError(
            f"reference=columns: the data has none of {', '.join(sorted(REFERENCE))}; name another reference",
            code="missing_column",
            key="reference.name",
        )


def tokenise(
    loader: Loader, parts: Sequence[Rows], columns: Mapping[str, str], num_rows: int, place: Path | None
) -> CachedData:
    """Load all rows: training data, then held-out data of its own where there is any.

    Args:
        place: where it may be kept; few rows are kept there only if the settings name the folder.
    """
    settings = loader.settings
    is_kept = place is not None and (num_rows >= MANY or isinstance(settings.cache, str))
    num_processes = settings.processes or (num_cores() if num_rows >= MANY else 1)
    if num_rows >= MANY:
        log.info(
            "tokenising %d rows, processes: %d; %s",
            num_rows,
            num_processes,
            f"kept in {place}" if is_kept else "kept for this run only",
        )

    def blocks() -> Iterator[RowBlock]:
        for rows, from_eval in zip(parts, (False, True), strict=False):
            yield from load_blocks(loader, rows, from_eval, num_processes)

    limit = None if settings.cache_limit is None else round(settings.cache_limit * 1e9)
    return write_cache(place if is_kept else None, blocks, columns, limit)


def survey(parts: Iterable[Rows]) -> tuple[dict[str, str], int]:
    """Every column and where it first appears, and how many rows there are."""
    seen: dict[str, str] = {}
    num_rows = 0
    for rows in parts:
        for row in rows:
            num_rows += 1
            for column in row.values:
                if column not in seen:
                    seen[column] = row.location
    return seen, num_rows


def refuse_unreadable(rows: Iterable[Row]) -> None:
    """Stop where no row could even be read, whatever share of defects is allowed."""
    books = Accounting()
    for row in rows:
        books.total += 1
        books.drop(row.location, row.defect or Defect("missing_value", "the row is empty"))
    books.check_limit(0.0, "error")
