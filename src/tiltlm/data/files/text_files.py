"""Read text formats line by line: a damaged line is a defect of one row, and the rest of the file is used.

What cannot be limited to one row stops the run: a compressed file that ends early, a stray quote in CSV, and bytes that
are not UTF-8 in CSV. Nobody could say how many rows would be lost.
"""

import codecs
import csv
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import zstandard

from tiltlm.core.errors import DataError
from tiltlm.data.accounting import Defect, excerpt

BUFFER = 1 << 16
"""Bytes read from a file at a time."""


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


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a plain or compressed file as UTF-8, without line breaks."""
    unfinished = b""
    for block in _text_blocks(path):
        *lines, unfinished = (unfinished + block).split(b"\n")
        yield from lines
    if unfinished:
        yield unfinished


def _text_blocks(path: Path) -> Iterator[bytes]:
    """Yield the content of a plain or compressed file as UTF-8 without a byte order mark.

    UTF-16 is converted if it has a byte order mark.

    Raises:
        DataError: The file is UTF-16 without this mark, or it is damaged.
    """
    blocks = (block for block in _blocks(path) if block)
    first = next(blocks, b"")
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        decoder = codecs.getincrementaldecoder("utf-16")()
        try:
            for block in chain([first], blocks):
                yield decoder.decode(block).encode("utf-8")
            yield decoder.decode(b"", final=True).encode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: begins as UTF-16, but is damaged: {error.reason}", code="damaged") from error
        return
    if b"\0" in first[:2]:
        raise DataError(
            f"{path}: the text is not UTF-8; it seems to be UTF-16. {_conversion(path, 'UTF-16LE')}", code="not_utf8"
        )
    yield first.removeprefix(codecs.BOM_UTF8)
    yield from blocks


def _conversion(path: Path, encoding: str) -> str:
    """Return the advice to convert a file to UTF-8."""
    return f"Convert it: iconv -f {encoding} -t UTF-8 {path.name} > utf8-{path.name}"


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield the content of a file, decompressed if its name says that it is compressed."""
    new: Callable[[], Any] | None = {
        ".gz": lambda: zlib.decompressobj(wbits=31),
        ".zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
    }.get(path.suffix.lower())
    with path.open("rb") as file:
        blocks = iter(lambda: file.read(BUFFER), b"")
        if new is None:
            yield from blocks
            return
        stream, inside = new(), False
        for block in blocks:
            while block:
                try:
                    yield stream.decompress(block)
                except (zlib.error, zstandard.ZstdError) as error:
                    raise DataError(
                        f"{path}: the compressed data are damaged, or the file is not compressed although its name "
                        f"says so: {error}. Make the file again, or correct the ending of its name",
                        code="damaged",
                    ) from error
                inside = not stream.eof
                if inside:
                    break
                block, stream = stream.unused_data, new()
        if inside:
            raise DataError(
                f"{path}: the compressed file ends early, so its last rows are missing. Copy or download it again",
                code="damaged",
            )


def read_jsonl(path: Path) -> Iterator[Row]:
    """Read one JSON object per line, plain or compressed. Blank lines are skipped."""
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            yield _parse(f"{path.name}:{number}", line)


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


def read_json(path: Path) -> Iterator[Row]:
    """Read a JSON array of objects, or else one object per line; plain or compressed."""
    if not next(_text_blocks(path), b"").lstrip().startswith(b"["):
        yield from read_jsonl(path)
        return
    try:
        values = json.loads(b"".join(_text_blocks(path)).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: not a valid JSON array: {error}. Correct it, or use .jsonl, which loses only the damaged row",
            code="damaged",
        ) from error
    for index, value in enumerate(values):
        location = f"{path.name}[{index}]"
        if isinstance(value, dict):
            yield Row(location, value)
        else:
            seen = f"the entry must be a JSON object, but is {excerpt(value)}"
            yield Row(location, {}, Defect("wrong_type", seen))


def read_csv(path: Path) -> Iterator[Row]:
    """Read text with a header. A row's location is its last line.

    Fields are delimited by tabs in .tsv, else by commas, or by semicolons or tabs if only they split the header.

    Raises:
        DataError: The header names a column twice, a quote is not closed or stands in the middle of a quoted field, or
            the file is not UTF-8.
    """
    csv.field_size_limit(2**31 - 1)
    lines = _csv_lines(path)
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
        raise DataError(
            f"{path}:{start}: the quotes of the row that starts here do not match, so its end is unknown ({error}). "
            'Correct it: a field with quotes is written "like ""this"""',
            code="damaged",
            row=f"{path.name}:{start}",
        ) from error


def _csv_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file with their line breaks, which quoted fields can contain."""
    lines = (part for line in _lines(path) for part in (line + b"\n").splitlines(keepends=True))
    for number, line in enumerate(lines, start=1):
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
