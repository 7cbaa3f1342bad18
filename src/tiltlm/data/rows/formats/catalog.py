"""The table of formats, and how the columns of data are recognised. A new format is an entry of its family's module."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.data.rows import cells
from tiltlm.data.rows.formats.annotators import ANNOTATORS
from tiltlm.data.rows.formats.format import Format, Reader, Values, plain_name, without
from tiltlm.data.rows.formats.lists import LISTS
from tiltlm.data.rows.formats.names import NAMES
from tiltlm.data.rows.formats.ours import OURS, SAMPLED
from tiltlm.data.rows.formats.trainers import TRAINERS
from tiltlm.data.rows.formats.two_answers import MODELS, TWO_ANSWERS, answer_side, choose_winner, known_winners

FORMATS = (*SAMPLED, *TWO_ANSWERS, *LISTS, *ANNOTATORS, *TRAINERS, *OURS)
"""Known formats; the first one whose columns are all there is recognised."""

WRITTEN: Mapping[str, Format] = {form.name: form for form in reversed(FORMATS) if form.writers}
"""Name → format, for those that can be written."""


@dataclass(frozen=True)
class Reading:
    """How columns of other names are read."""

    roles: Mapping[str, str]
    """Column → role, for the columns that have another name than their role."""
    remarks: frozenset[str]
    """Columns without a role."""
    adds: frozenset[str]
    """Roles that the readers add."""
    readers: tuple[Reader, ...]
    taken: Mapping[str, str] = field(default_factory=dict)
    """Column → name by which a reader takes its values."""
    format: Format | None = None
    """The format that was recognised. None: the columns are read by their names only."""


def recognise(columns: Mapping[str, str], known: Collection[str], forced: str | None = None) -> Reading:
    """Find the roles of columns whose names are not roles, where their meaning is plain.

    A role is given only if no other column has it or could have it.

    Args:
        columns: Name → column of the data. Columns that the settings rename have the names of their roles.
        known: All names of roles.
        forced: Name of the format. None: it is recognised by the columns.

    Raises:
        ConfigError: `forced` names no format.
        DataError: The columns are not those of the format that `forced` names.
    """
    plain = {column: plain_name(column) for column in columns}
    export = _find({*plain.values()}, forced)
    form = Format("", "") if export is None else export
    if form.only is not None:
        own = {column: form.roles[name] for column, name in plain.items() if name in form.roles}
        return Reading(own, frozenset(set(plain) - form.only - set(own)), frozenset(), (), format=form)
    taken = {column: name for column, name in plain.items() if name in form.takes}
    has_role = {c for c in columns if c in known and c not in form.roles and c not in taken}
    claims: dict[str, list[str]] = {}
    for column, name in plain.items():
        role = form.roles.get(name) or answer_side(name, plain.values()) or NAMES.get(name)
        role = role or (name if name in known else None)
        if column not in has_role and column not in taken and name not in form.remarks and role is not None:
            claims.setdefault(role, []).append(column)
    roles = {names[0]: role for role, names in claims.items() if len(names) == 1 and role not in has_role | form.adds}
    readers: list[Reader] = []
    sides = {role: plain_name(columns[name]) for name, role in [*roles.items(), *((name, name) for name in has_role)]}
    if "prompt_input" in sides:
        readers.append(join_input)
    if {"winner", "answer_a", "answer_b"} <= sides.keys():
        readers.append(partial(choose_winner, winners=known_winners(sides, form.winners)))
        taken |= {column: name for column, name in plain.items() if name in MODELS and column not in roles}
    if form.reader is not None:
        readers.append(form.reader)
    remarks = frozenset(column for column, name in plain.items() if name in form.remarks and column not in roles)
    return Reading(roles, remarks, form.adds, tuple(readers), taken, export)


def _find(names: Collection[str], forced: str | None) -> Format | None:
    """Return the format of data with these columns, by their plain names; None if no other tool's is recognised."""
    if forced is None:
        return next((f for f in FORMATS if f.columns and f.columns <= set(names) and not f.absent & set(names)), None)
    candidates = [form for form in FORMATS if form.name == forced]
    if not candidates:
        raise ConfigError(
            f"--from {forced}: no such format; the formats are {', '.join(dict.fromkeys(f.name for f in FORMATS))}",
            code="unknown_name",
            key="--from",
        )
    fits = [form for form in candidates if form.columns <= set(names)]
    if not fits:
        missing = sorted(candidates[0].columns - set(names))
        raise DataError(
            f"--from {forced}: the data has no {', '.join(missing)}; it has {', '.join(sorted(names))}. Name the "
            "columns with --map, or leave --from out",
            code="missing_column",
            key="--from",
        )
    return fits[0] if fits[0].columns else None


def join_input(values: Values) -> Values:
    """Put what an instruction is about (Alpaca's `input`) below the prompt, after an empty line; "" adds nothing.

    Raises:
        Defect: One of the two is no text.
    """
    rest = without(values, "prompt_input")
    given, prompt = values.get("prompt_input"), values.get("prompt")
    if given is None or given == "" or prompt is None:
        return rest
    return {**rest, "prompt": f"{cells.text('prompt', prompt)}\n\n{cells.text('prompt_input', given)}"}
