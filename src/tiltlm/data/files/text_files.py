"""Read text formats line by line: a damaged line is a defect of one row, and the rest of the file is used.

What cannot be limited to one row stops the run: a damaged compressed file, a stray quote in CSV, and bytes that are not
UTF-8 in CSV. Nobody could say how many rows would be lost. The settings may ask for the rows before the damage of a
compressed file.
"""

import codecs
import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tiltlm.core.errors import DataError
from tiltlm.data.accounting import Defect, excerpt
from tiltlm.data.data_settings import MAX_ROW_MB
from tiltlm.data.files.packed import Damage, blocks_of, claims_to_be_packed, damage_of


@dataclass(frozen=True)
class Row:
    """One row of a file: its values, or its defect."""

    location: str
    """`file.jsonl:17` (line, from 1) or `file.parquet[17]` (row, from 0)."""
    values: dict[str, Any]
    defect: Defect | None = None
    entry: int = 0
    """Number of its entry in `data.train`, if that is a list."""
    source: str | None = None
    """Name of its source by the settings."""
    origin: str = ""
    """Name of its source if neither the settings nor its columns have one."""


@dataclass(frozen=True)
class ReadLimits:
    """What is refused while files are read."""

    max_row: int = round(MAX_ROW_MB * 1e6)
    """Most bytes of a row."""
    keeps_sound: bool = False
    """True: the rows before the damage of a compressed file are used. False: the file is refused."""


def too_large(size: int, max_row: int) -> Defect:
    """Return the defect of a row of more bytes than are allowed."""
    return Defect("row_too_large", f"{size:,} bytes; the most are {max_row:,}")


@dataclass(frozen=True)
class _TooLong:
    """In place of a line that is longer than a row may be."""

    size: int
    """Its bytes. They were read and not kept."""


class _Text:
    """The text of a plain or compressed file, up to its damage if it has one."""

    def __init__(self, path: Path, limits: ReadLimits) -> None:
        """Find out whether the file is damaged.

        Raises:
            DataError: It is, and `limits` refuse it.
        """
        self.path = path
        self.limits = limits
        self.damage = damage_of(path)
        if self.damage is not None and not limits.keeps_sound:
            raise _refusal(path, self.damage)

    def lines(self) -> Iterator[bytes | _TooLong]:
        """Yield the lines as UTF-8, without line breaks. Only as much of a line is in memory as a row may have."""
        parts: list[bytes] = []
        size, most = 0, self.limits.max_row
        for block in self.blocks():
            *pieces, rest = block.split(b"\n")
            for piece in pieces:
                size += len(piece)
                yield _TooLong(size) if size > most else b"".join((*parts, piece))
                parts, size = [], 0
            size += len(rest)
            if size > most:
                parts.clear()
            else:
                parts.append(rest)
        if size:
            yield _TooLong(size) if size > most else b"".join(parts)

    def blocks(self) -> Iterator[bytes]:
        """Yield the content as UTF-8 without a byte order mark. UTF-16 is converted if it has such a mark.

        Raises:
            DataError: The file is UTF-16 without this mark, or it is damaged.
        """
        size = None if self.damage is None else self.damage.sound_size
        blocks = (block for block in blocks_of(self.path, size) if block)
        first = next(blocks, b"")
        if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            decoder = codecs.getincrementaldecoder("utf-16")()
            try:
                for block in chain([first], blocks):
                    yield decoder.decode(block).encode("utf-8")
                yield decoder.decode(b"", final=True).encode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self.path}: begins as UTF-16, but is damaged: {error.reason}", code="damaged"
                ) from error
            return
        if b"\0" in first[:2]:
            raise DataError(
                f"{self.path}: the text is not UTF-8; it seems to be UTF-16. {_conversion(self.path, 'UTF-16LE')}",
                code="not_utf8",
            )
        yield first.removeprefix(codecs.BOM_UTF8)
        yield from blocks

    def damaged_row(self) -> Iterator[Row]:
        """Yield a row in place of those that the damage of the file has taken."""
        if self.damage is not None:
            seen = f"{self.damage.reason}; how many rows are lost from here on is unknown"
            yield Row(f"{self.path.name}:{self.damage.sound_lines + 1}", {}, Defect("damaged_file", seen))


def _refusal(path: Path, damage: Damage) -> DataError:
    """Return the error for a damaged compressed file."""
    if claims_to_be_packed(path):
        return DataError(
            f"{path}: the file is not compressed although its name says so, or it is damaged at its start "
            f"({damage.reason}). Correct the ending of its name, or make it again",
            code="damaged",
        )
    return DataError(
        f"{path}: the compressed file is damaged after {damage.offset:,} of its {path.stat().st_size:,} bytes: "
        f"{damage.reason}. Only its first {damage.sound_lines:,} lines are sound, and how many rows follow is unknown, "
        "so none is used. Copy or download it again, or use the sound lines: data.damaged_files=sound_rows",
        code="damaged",
        key="data.damaged_files",
        row=f"{path.name}:{damage.sound_lines + 1}",
    )


def _conversion(path: Path, encoding: str) -> str:
    """Return the advice to convert a file to UTF-8."""
    return f"Convert it: iconv -f {encoding} -t UTF-8 {path.name} > utf8-{path.name}"


def read_jsonl(path: Path, limits: ReadLimits) -> Iterator[Row]:
    """Read one JSON object per line, plain or compressed. Blank lines are skipped."""
    text = _Text(path, limits)
    for number, line in enumerate(text.lines(), start=1):
        location = f"{path.name}:{number}"
        if isinstance(line, _TooLong):
            yield Row(location, {}, too_large(line.size, limits.max_row))
        elif line.strip():
            yield _parse(location, line)
    yield from text.damaged_row()


def _parse(location: str, line: bytes) -> Row:
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Row(location, {}, Defect("invalid_unicode", f"byte {error.start} of the line is not UTF-8"))
    except (ValueError, RecursionError) as error:
        end = excerpt(line.decode("utf-8")[-40:])  # cut as text: a cut through bytes may hit the middle of a character
        return Row(location, {}, Defect("malformed_json", f"{error}: {end}"))
    if not isinstance(values, dict):
        return Row(location, {}, Defect("wrong_type", f"the line must be a JSON object, but is {excerpt(values)}"))
    return Row(location, values)


def read_json(path: Path, limits: ReadLimits) -> Iterator[Row]:
    """Read a JSON array of objects, or else one object per line; plain or compressed."""
    text = _Text(path, limits)
    if not next(text.blocks(), b"").lstrip().startswith(b"["):
        yield from read_jsonl(path, limits)
        return
    try:
        values = json.loads(b"".join(text.blocks()).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: not a valid JSON array: {error}. Correct it, or use .jsonl, which loses only the damaged row",
            code="damaged",
        ) from error
    for index, value in enumerate(values):
        location = f"{path.name}[{index}]"
        if not isinstance(value, dict):
            seen = f"the entry must be a JSON object, but is {excerpt(value)}"
            yield Row(location, {}, Defect("wrong_type", seen))
        elif (size := text_size(value)) > limits.max_row:
            yield Row(location, {}, too_large(size, limits.max_row))
        else:
            yield Row(location, value)


def text_size(value: Any) -> int:
    """Return the number of characters of all texts in a value of JSON."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + text_size(item) for key, item in value.items())
    return sum(map(text_size, value)) if isinstance(value, list) else 0


def read_csv(path: Path, limits: ReadLimits) -> Iterator[Row]:
    """Read text with a header. A row's location is its last line.

    Fields are delimited by tabs in .tsv, else by commas, or by semicolons or tabs if only they split the header.

    Raises:
        DataError: The header names a column twice, a quote is not closed or stands in the middle of a quoted field, the
            file is not UTF-8, or a field is larger than a row may be.
    """
    text = _Text(path, limits)
    csv.field_size_limit(limits.max_row)
    lines = _csv_lines(text)
    first = next(lines, "")
    reader = csv.reader(chain([first], lines), delimiter=_delimiter(path, first), strict=True)
    start = 1
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise DataError(
                f"{path}:1: the header {header} has a column name twice; rename one of the columns",
                code="duplicate",
                row=f"{path.name}:1",
            )
        start = reader.line_num + 1
        for fields in reader:
            location, start = f"{path.name}:{reader.line_num}", reader.line_num + 1
            if not fields:
                continue
            if len(fields) == len(header):
                yield Row(location, dict(zip(header, fields, strict=True)))
            else:
                seen = f"the row has {len(fields)} fields, the header {len(header)}"
                yield Row(location, {}, Defect("malformed_csv", seen))
    except csv.Error as error:
        if "field larger" in str(error):
            raise _field_too_large(path, start, limits) from error
        raise DataError(
            f"{path}:{start}: the quotes of the row that starts here do not match, so its end is unknown ({error}). "
            'Correct it: a field with quotes is written "like ""this"""',
            code="damaged",
            row=f"{path.name}:{start}",
        ) from error
    yield from text.damaged_row()


def _field_too_large(path: Path, line: int, limits: ReadLimits) -> DataError:
    """Return the error for a field of CSV that is larger than a row may be: its quotes may be wrong."""
    return DataError(
        f"{path}:{line}: the row that starts here has a field of more than {limits.max_row:,} bytes. Perhaps a quote "
        "is not closed; otherwise raise data.max_row_mb, or use JSON Lines, which loses only this row",
        code="field_too_large",
        key="data.max_row_mb",
        row=f"{path.name}:{line}",
    )


def _csv_lines(text: _Text) -> Iterator[str]:
    """Yield the lines of a file with their line breaks, which quoted fields can contain."""
    path, start = text.path, 0

    def parts() -> Iterator[bytes]:
        for line in text.lines():
            if isinstance(line, _TooLong):
                raise _field_too_large(path, start + 1, text.limits)
            yield from (line + b"\n").splitlines(keepends=True)

    for number, line in enumerate(parts(), start=1):
        start = number
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}:{number}: byte {error.start} of the line is not UTF-8. {_conversion(path, 'LATIN1')}, or name "
                "another encoding after -f",
                code="not_utf8",
                row=f"{path.name}:{number}",
            ) from error


def _delimiter(path: Path, header: str) -> str:
    """Return the first delimiter that splits the header into several columns."""
    known = "\t" if ".tsv" in path.suffixes else ",;\t"
    return next((d for d in known if len(next(csv.reader([header], delimiter=d))) > 1), known[0])
