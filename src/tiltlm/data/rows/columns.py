"""Find the role of each column and the shape of the data. Names follow TRL. An unknown column is an error.

If it were ignored instead, a prompt column of unexpected name would be lost, and the model trained on wrong context.
Names and forms of other tools are read where their meaning is plain (`formats`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.needs import Shape
from tiltlm.core.notes import Note
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.rows.formats.catalog import Reading, recognise
from tiltlm.data.rows.formats.format import Reader, plain_name
from tiltlm.data.rows.formats.names import GUESSES, PICTURES
from tiltlm.data.rows.roles import (
    ALL_ROLES,
    ANSWERS,
    COMMON,
    ENDED,
    METADATA,
    PROMPT,
    PROMPTS,
    REFERENCE,
    ROLES_OF_SHAPE,
    TEXTUAL,
    TOKENS,
)


@dataclass(frozen=True)
class ColumnRoles:
    """The shape of the rows, and the roles of their columns."""

    shape: Shape
    roles: frozenset[str]
    unused: tuple[str, ...]
    """Columns without a role."""
    renamed: Mapping[str, str]
    """Column name → role."""
    readers: tuple[Reader, ...] = ()
    """Turn the values of another tool's row into those of our roles."""
    notes: tuple[Note, ...] = ()
    """Which columns were read under another name than the settings say, and how."""
    taken: Mapping[str, str] = field(default_factory=dict)
    """Column that a reader takes as it is → the name by which it does."""
    format: str = ""
    """Name of the format that was recognised; "": the columns are read by their names."""

    @property
    def is_tokenised(self) -> bool:
        """True if prompts and responses are token ids."""
        return bool(self.roles & TOKENS.keys())

    def values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a row by role.

        Raises:
            Defect: A reader cannot read the row.
        """
        roles = ((self.renamed.get(column, column), value) for column, value in row.items() if column not in self.taken)
        values = {role: value for role, value in roles if role in self.roles}
        values |= {self.taken[column]: value for column, value in row.items() if column in self.taken}
        for read in self.readers:
            values = read(values)
        return values


@dataclass(frozen=True)
class Assigned:
    """What the columns of some data are for, as far as their names say it."""

    reading: Reading
    present: Mapping[str, str]
    """Role, or name of a column without a role → column."""
    roles: frozenset[str]
    unused: frozenset[str]
    """Identifiers and remarks."""
    unknown: frozenset[str]
    """Columns whose meaning is unknown."""


def assign_roles(first_seen: Mapping[str, str], settings: DataSettings, forced: str | None = None) -> Assigned:
    """Find what each column is for. No column is refused.

    Args:
        first_seen: Each column of the data → location of the first row that has it.
        settings: Of these, `columns` and `ignore` are used.
        forced: Name of the format. None: it is recognised by the columns.

    Raises:
        ConfigError: `columns` names an unknown role, or `forced` no format.
        DataError: A setting names no column, or the columns are not those of `forced`.
    """
    _check_settings(first_seen, settings)
    renamed = {column: role for role, column in settings.columns.items()}
    names = {renamed.get(column, column): column for column in first_seen if column not in settings.ignore}
    reading = recognise(names, ALL_ROLES, forced)
    present = {reading.roles.get(name, name): column for name, column in names.items() if name not in reading.taken}
    roles = {role for role in present if role in ALL_ROLES and role not in reading.remarks}
    unused = {role for role in present if role in reading.remarks or plain_name(role) in METADATA} - roles
    unknown = {present[role] for role in present.keys() - roles - unused}
    return Assigned(reading, present, frozenset(roles), frozenset(unused), frozenset(unknown))


def detect(
    first_seen: Mapping[str, str],
    settings: DataSettings,
    *,
    use_reference_columns: bool = False,
    forced: str | None = None,
) -> ColumnRoles:
    """Find the shape of the data from its columns.

    Args:
        first_seen: Each column of the data → location of the first row that has it.
        settings: Of these, `columns` and `ignore` are used.
        use_reference_columns: True with `reference=columns`.
        forced: Name of the format. None: it is recognised by the columns.

    Raises:
        ConfigError: `columns` names an unknown role.
        DataError: Columns are unknown or useless, columns contradict each other, or no column has responses.
    """
    found = assign_roles(first_seen, settings, forced)
    reading, present, roles, unused = found.reading, found.present, set(found.roles), set(found.unused)
    if "prompt_input" in roles and "prompt" not in roles:
        row = first_seen[present["prompt_input"]]
        raise DataError(
            f"{row}: prompt_input is appended to the prompt, and no column is the prompt: data.columns.prompt=COLUMN",
            code="missing_column",
            key="data.columns",
            row=row,
        )
    if found.unknown:
        raise _unknown_columns(found.unknown, roles, first_seen, settings, use_reference_columns, reading.roles)
    shape = _shape({TOKENS.get(role, role) for role in roles} | reading.adds, first_seen)
    if shape == "pairs":
        redundant = roles & {"messages", "text"}  # UltraFeedback repeats the chosen conversation
        roles, unused = roles - redundant, unused | redundant
    usable = _usable(shape, roles | (reading.adds & ANSWERS))
    useless = sorted(present[role] for role in roles - usable)
    if useless:
        row = first_seen[useless[0]]
        raise DataError(
            f"{row}: {_listed(useless)} cannot be used together with {', '.join(sorted(roles & usable))}. Ignore: "
            f"data.ignore=[{', '.join(useless)}]",
            code="column_without_use",
            key="data.ignore",
            row=row,
        )
    if not use_reference_columns and roles & REFERENCE:
        named = ", ".join(sorted(roles & REFERENCE))
        raise DataError(
            f"{named}: reference log-probabilities in the data are used only with reference=columns. Set it, or ignore "
            f"the columns: data.ignore=[{named}]",
            code="unused_reference_columns",
            key="reference.name",
        )
    ignored = tuple(sorted({*unused, *settings.ignore}))
    return ColumnRoles(
        shape,
        frozenset(roles | reading.adds),
        ignored,
        renamed={column: role for role, column in present.items() if role != column},
        readers=reading.readers,
        notes=_notes(reading.roles, roles, reading),
        taken=_by_column(reading, settings),
        format="" if reading.format is None else reading.format.name,
    )


def _by_column(reading: Reading, settings: DataSettings) -> dict[str, str]:
    """Return the columns of the data that a reader takes → the names by which it does."""
    return {settings.columns.get(name, name): plain for name, plain in reading.taken.items()}


def detect_prompts(first_seen: Mapping[str, str], settings: DataSettings) -> ColumnRoles:
    """Find the columns that give the prompt. Other columns are kept beside it, so none is unknown.

    Responses are read where they hold the prompt, or decide where it ends; what is known about them is not.

    Args:
        first_seen: Each column of the data → location of the first row that has it.
        settings: Of these, `columns` and `ignore` are used.

    Raises:
        ConfigError: `columns` names an unknown role.
        DataError: No column has prompts.
    """
    found = assign_roles(first_seen, settings)
    reading, present = found.reading, found.present
    by_column = {column: role for role, column in present.items() if role != column}
    taken = _by_column(reading, settings) if reading.format is not None and reading.adds & PROMPTS else {}
    readers = reading.readers if taken else ()
    known = {role for role in present if role in ALL_ROLES} | reading.adds
    roles = known & (
        PROMPT | ({"chosen", "rejected"} if {"chosen", "rejected"} <= known else {"completion", "messages"})
    )
    if roles & PROMPTS:
        shape: Shape = "pairs" if "chosen" in roles else "demonstrations"
        return ColumnRoles(shape, frozenset(roles), (), by_column, readers, taken=taken)
    if known >= ANSWERS:  # two whole conversations and a winner
        roles = known & (PROMPT | ANSWERS) | {"chosen", "rejected"}
        taken = _by_column(reading, settings)
        return ColumnRoles("pairs", frozenset(roles), (), by_column, reading.readers, taken=taken)
    if "prompt_ids" in known:
        return ColumnRoles("demonstrations", frozenset(known & {"id", "prompt_ids"}), (), by_column)
    raise DataError(
        f"no column has prompts; name it: data.columns.prompt=COLUMN. The data has {', '.join(sorted(first_seen))}",
        code="missing_column",
        key="data.columns.prompt",
    )


def _notes(read: Mapping[str, str], roles: Collection[str], reading: Reading | None = None) -> tuple[Note, ...]:
    named = [f"{name} → {role}" for name, role in read.items() if role in roles and role != name]
    notes = []
    if reading is not None and reading.format is not None:
        notes.append(Note(f"format: {reading.format.name} ({reading.format.about})", "format"))
    if named:
        text = f"columns read by their names: {', '.join(named)}; data.columns changes this"
        notes.append(Note(text, "columns_by_name"))
    if "winner" in roles:
        text = "two answers and a winner → pairs: the winner is chosen; a tie is a pair with preference 0.5"
        notes.append(Note(text, "winner_to_pair"))
    if "prompt_input" in roles:
        text = "prompt and prompt_input → prompt: the input stands below the prompt, after an empty line"
        notes.append(Note(text, "input_joined"))
    return tuple(notes)


def _usable(shape: Shape, roles: Collection[str]) -> frozenset[str]:
    """Return the columns that data of this shape can use, as text or, if there is a column of token ids, as ids.

    Raises:
        DataError: Some prompts or responses are token ids, and others are not.
    """
    if not TOKENS.keys() & set(roles):
        return COMMON | ANSWERS if "winner" in roles else ROLES_OF_SHAPE[shape]
    ids = {column for column, role in TOKENS.items() if role in ROLES_OF_SHAPE[shape]}
    missing = ", ".join(sorted(ids - set(roles)))
    if missing:
        given = ", ".join(sorted(TOKENS.keys() & set(roles)))
        raise DataError(
            f"the data has {given} but not {missing}. Give prompt and responses all as token ids, or all as text",
            code="text_and_token_ids",
        )
    return frozenset(
        (ROLES_OF_SHAPE[shape] - TEXTUAL) | ids | {ENDED[TOKENS[column]] for column in ids - {"prompt_ids"}}
    )


def _check_settings(first_seen: Collection[str], settings: DataSettings) -> None:
    columns = f"the data has {', '.join(sorted(first_seen))}"
    for role, column in settings.columns.items():
        if role not in ALL_ROLES:
            raise ConfigError(
                f"data.columns.{role}: unknown role; the roles are {', '.join(sorted(ALL_ROLES))}",
                code="unknown_name",
                key=f"data.columns.{role}",
            )
        if column not in first_seen:
            raise DataError(
                f"data.columns.{role}={column}: no such column; {columns}",
                code="no_such_column",
                key=f"data.columns.{role}",
            )
        if role in first_seen and role != column and role not in settings.ignore:
            raise DataError(
                f"data.columns.{role}={column}: the data has a column named {role!r} too. Ignore that one "
                f"(data.ignore=[{role}]), or remove this setting",
                code="conflict",
                key=f"data.columns.{role}",
            )
    for column in settings.ignore:
        if column not in first_seen:
            raise DataError(
                f"data.ignore=[{column}]: no such column; {columns}", code="no_such_column", key="data.ignore"
            )


def _unknown_columns(
    unknown: Collection[str],
    roles: Collection[str],
    first_seen: Mapping[str, str],
    settings: DataSettings,
    use_reference_columns: bool,
    read: Mapping[str, str],
) -> DataError:
    """Return the error that names all unknown columns, and settings with which the data can be read."""
    columns = sorted(unknown)
    row = first_seen[columns[0]]
    pictures = [column for column in columns if plain_name(column) in PICTURES]
    if pictures:
        return DataError(
            f"{first_seen[pictures[0]]}: {_listed(pictures)}: pictures and sound are not supported. Keep only the "
            f"rows without them, and ignore the columns: data.ignore=[{', '.join(pictures)}]",
            code="not_supported",
            key="data.columns",
            row=first_seen[pictures[0]],
        )
    guesses: dict[str, list[str]] = {}
    for column in columns:
        role = GUESSES.get(plain_name(column)) or recognise({column: column}, ALL_ROLES).roles.get(column)
        if role is not None and role not in roles:
            guesses.setdefault(role, []).append(column)
    shares = [f"{' and '.join(names)} could both be the {role}" for role, names in guesses.items() if len(names) > 1]
    if len(columns) == 1 and not guesses and "prompt" not in roles:
        guesses["prompt"] = columns
    proposal = _proposal({role: names[0] for role, names in guesses.items() if len(names) == 1}, columns)
    works = _works(proposal, first_seen, settings, use_reference_columns)
    shares += [note for note in _notes(read, roles) if note.code == "columns_by_name"]
    way_out = [f"To ignore them all: data.ignore=[{', '.join(columns)}]", f"Roles: {', '.join(sorted(ALL_ROLES))}"]
    if proposal["columns"] and works:
        way_out.insert(0, f"If this is what they mean: {_as_settings(proposal)}")
    else:
        way_out.insert(0, "Name the role of each one that matters: data.columns.ROLE=COLUMN")
    return DataError(
        "\n  ".join([f"{row}: unknown columns: {', '.join(map(repr, columns))}", *shares, *way_out]),
        code="unknown_column",
        key="data.columns",
        row=row,
    )


def _proposal(columns: Mapping[str, str], unknown: Collection[str]) -> dict[str, Any]:
    """Return the settings that give these roles and ignore the other unknown columns."""
    return {"columns": dict(columns), "ignore": tuple(c for c in unknown if c not in columns.values())}


def _works(
    proposal: Mapping[str, Any], first_seen: Mapping[str, str], settings: DataSettings, use_reference_columns: bool
) -> bool:
    """Return True if the data can be read with these settings beside those that are given."""
    columns, ignore = {**settings.columns, **proposal["columns"]}, (*settings.ignore, *proposal["ignore"])
    try:
        detect(
            first_seen,
            replace(settings, columns=columns, ignore=ignore),
            use_reference_columns=use_reference_columns,
        )
    except (ConfigError, DataError):
        return False
    return True


def _as_settings(proposal: Mapping[str, Any]) -> str:
    named = [f"data.columns.{role}={column}" for role, column in proposal["columns"].items()]
    ignored = [f"data.ignore=[{', '.join(proposal['ignore'])}]"] * bool(proposal["ignore"])
    return " ".join([*named, *ignored])


def _listed(columns: Collection[str]) -> str:
    return f"column{'s' * (len(columns) > 1)} {', '.join(map(repr, columns))}"


def _shape(roles: Collection[str], first_seen: Mapping[str, str]) -> Shape:
    def demand(holds: bool, code: str, problem: str) -> None:
        if not holds:
            raise DataError(f"{problem}; the data has {', '.join(sorted(first_seen))}", code=code, key="data.columns")

    if "chosen" in roles or "rejected" in roles:
        both = "chosen" in roles and "rejected" in roles
        demand(both, "missing_column", "`chosen` and `rejected` must both be given")
        return "pairs"
    if ANSWERS & set(roles):
        rule = "two answers need `answer_a`, `answer_b` and `winner` (A, B or tie): data.columns.winner=COLUMN"
        demand(set(roles) >= ANSWERS, "missing_column", rule)
        return "pairs"
    if "completions" in roles:
        known = {"ranks", "scores", "comparisons"} & set(roles)
        rule = (
            "`completions` needs exactly one of `ranks`, `scores` and `comparisons`: answers alone do not say which is "
            "better. Have a judge score them first"
        )
        demand(len(known) == 1, "needs_one_order", rule)
        return "lists"
    responses = {"completion", "messages", "text"} & set(roles)
    rule = "no column has responses: chosen and rejected, completion, completions, messages or text"
    demand(len(responses) > 0, "no_responses", rule)
    rule = f"each of {' and '.join(sorted(responses))} gives the response; keep one of them and ignore the others"
    demand(len(responses) == 1, "several_responses", rule)
    return "unpaired" if "label" in roles else "demonstrations"
