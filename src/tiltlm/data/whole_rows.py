"""Bring rows together that are one row for us: HelpSteer has a row for each response to a prompt.

The rows of one prompt must follow each other, as they do in that data. Their list has the place of its first row.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from tiltlm.data.files.sources import Rows, Source
from tiltlm.data.files.text_files import Row
from tiltlm.data.rows.formats.format import plain_name
from tiltlm.data.rows.formats.lists import HELPSTEER_COLUMNS

OF_THE_PROMPT = frozenset({"prompt", "source", "id", "split", "domain", "language"})
"""Columns that say something about the prompt; all others have a value for each response."""


def whole_rows(rows: Rows) -> Rows:
    """Return rows of which those that belong to one list are one row, if their columns say that there are such."""
    return replace(rows, sources=tuple(map(_with_lists, rows.sources)))


def _with_lists(source: Source) -> Source:
    read = source.rows
    return replace(source, rows=lambda: join_rows(read()))


def join_rows(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield HelpSteer's rows of one prompt as one row, whose columns are lists. Rows of other data stay as they are."""
    parts: list[Row] = []
    for row in rows:
        if not _is_part(row):
            yield from _joined(parts)
            parts = []
            yield row
            continue
        if parts and _value(parts[0].values, "prompt") != _value(row.values, "prompt"):
            yield from _joined(parts)
            parts = []
        parts.append(row)
    yield from _joined(parts)


def apart(values: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of which a row was joined, as a file of this kind has them; any other row as it is."""
    if not _has_columns(values) or not isinstance(responses := _value(values, "response"), list):
        yield values
        return
    for k in range(len(responses)):
        yield {c: value if plain_name(c) in OF_THE_PROMPT else value[k] for c, value in values.items()}


def _is_part(row: Row) -> bool:
    """Return whether a row has one response of a list, and is not the whole list already."""
    return _has_columns(row.values) and not isinstance(_value(row.values, "response"), list)


def _has_columns(values: Mapping[str, Any]) -> bool:
    return len(values) >= len(HELPSTEER_COLUMNS) and {plain_name(column) for column in values} >= HELPSTEER_COLUMNS


def _value(values: Mapping[str, Any], name: str) -> Any:
    return next(value for column, value in values.items() if plain_name(column) == name)


def _joined(parts: list[Row]) -> Iterator[Row]:
    if not parts:
        return
    columns = dict.fromkeys(column for part in parts for column in part.values)
    values = {
        column: parts[0].values.get(column)
        if plain_name(column) in OF_THE_PROMPT
        else [part.values.get(column) for part in parts]
        for column in columns
    }
    yield Row(parts[0].location, values)
