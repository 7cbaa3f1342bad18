"""Preference data, loaded: read, checked, converted, tokenised, split by prompt, and fully accounted for."""

from collections.abc import Iterable
from dataclasses import dataclass

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.example import Example
from tiltlm.core.needs import Need, Shape, Use
from tiltlm.data.accounting import Accounting, Defect
from tiltlm.data.columns import REFERENCE, detect
from tiltlm.data.content import fingerprint
from tiltlm.data.convert import announce
from tiltlm.data.encoder import Encoder
from tiltlm.data.loader import Loader
from tiltlm.data.partners import assign_partners
from tiltlm.data.settings import DataSettings
from tiltlm.data.sources import check_hub_settings, read
from tiltlm.data.textfiles import Row


@dataclass(frozen=True)
class PreferenceData:
    """What a run trains on and what it is measured on."""

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
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
    every_turn = settings.assistant_turns == "all"
    if every_turn and objective_shape != "demonstrations":
        raise ConfigError(
            "data.assistant_turns=all: only sft learns every turn; this objective is about the last answer"
        )
    hub_notes = check_hub_settings(settings)
    rows = read(settings.train, settings, settings.split)
    eval_rows = read(settings.eval, settings, settings.eval_split) if settings.eval is not None else []
    columns = first_seen([*rows, *eval_rows])
    if not columns:
        refuse_unreadable(rows)
    schema = detect(columns, settings, use_reference_columns=use_reference_columns)
    if use_reference_columns and needs_partners:
        raise ConfigError(
            "reference=columns: this objective also needs the reference on mismatched pairs; name another"
        )
    if use_reference_columns and not schema.roles & REFERENCE:
        raise DataError(
            f"reference=columns: the data has none of {', '.join(sorted(REFERENCE))}; name another reference"
        )
    notes = [*announce(schema, objective_shape, needs, uses), *hub_notes]
    loader = Loader(settings, encoder, schema, objective_shape, needs, needs_reference=use_reference_columns)
    loader.load(rows, from_eval=False)
    loader.load(eval_rows, from_eval=True)
    loader.check()
    train, held_out = loader.train, loader.held_out
    if needs_partners:
        train = assign_partners(train, loader.max_length, part="training")
        held_out = assign_partners(held_out, loader.max_length, part="held-out")
    return PreferenceData(
        train=tuple(train),
        held_out=tuple(held_out),
        accounting=loader.accounting,
        fingerprint=fingerprint(train, held_out),
        notes=(*notes, *loader.notes()),
        encoder=encoder,
        end_token_id=loader.end_token_id,
        max_length=loader.max_length,
        has_reference=use_reference_columns,
    )


def refuse_unreadable(rows: Iterable[Row]) -> None:
    """Stop where no row could even be read, whatever share of defects is allowed."""
    books = Accounting()
    for row in rows:
        books.total += 1
        books.drop(row.location, row.defect or Defect("missing_value", "the row is empty"))
    books.check_limit(0.0, "error")


def first_seen(rows: Iterable[Row]) -> dict[str, str]:
    """Every column, and where it first appears."""
    seen: dict[str, str] = {}
    for row in rows:
        for column in row.values:
            seen.setdefault(column, row.location)
    return seen
