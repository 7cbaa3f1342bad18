"""Read text formats line by line: a damaged line is a defect of one row, and the rest of the file is used."""

import csv
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a plain or compressed file. If its end is damaged, yield all complete lines before it.

    Raises:
        Defect: The compressed data end early or are damaged.
    """
    unfinished = b""
    for block in _blocks(path):
        *lines, unfinished = (unfinished + block).split(b"\n")
        yield from lines
    if unfinished:
        yield unfinished


def _blocks(path: Path) -> Iterator[bytes]:
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
                    raise Defect("damaged_compression", str(error)) from error
                inside = not stream.eof
                if inside:
                    break
                block, stream = stream.unused_data, new()
        if inside:
            raise Defect("ends_early")


def read_jsonl(path: Path) -> Iterator[Row]:
    """Read one JSON object per line, plain or compressed. Blank lines are skipped."""
    lines = enumerate(_lines(path), start=1)
    number = 0
    while True:
        location = f"{path.name}:{number + 1}"
        try:
            number, line = next(lines)
        except StopIteration:
            return
        except Defect as defect:
            yield Row(location, {}, defect)
            return
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if line.strip():
            yield _parse(f"{path.name}:{number}", line)


def _parse(location: str, line: bytes) -> Row:
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Row(location, {}, Defect("invalid_unicode", f"byte {error.start} of the line is not UTF-8"))
    except (ValueError, RecursionError) as error:
        return Row(location, {}, Defect("malformed_json", f"{error}: {excerpt(line[-40:].decode())}"))
    if not isinstance(values, dict):
        return Row(location, {}, Defect("wrong_type", f"the line must be a JSON object, but is {excerpt(values)}"))
    return Row(location, values)


def read_json(path: Path) -> Iterator[Row]:
    """Read a JSON array of objects, or else one object per line."""
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not data.lstrip().startswith(b"["):
        yield from read_jsonl(path)
        return
    try:
        values = json.loads(data.decode("utf-8"))
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
    """Read comma-separated text with a header. A row's location is its last line."""
    csv.field_size_limit(2**31 - 1)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if len(set(header)) < len(header):
                raise DataError(
                    f"{path}:1: the header {header} has a column name twice; rename one of the columns",
                    code="duplicate",
                    row=f"{path.name}:1",
                )
            for fields in reader:
                location = f"{path.name}:{reader.line_num}"
                if not fields:
                    continue
                if len(fields) == len(header):
                    yield Row(location, dict(zip(header, fields, strict=True)))
                else:
                    seen = f"the row has {len(fields)} fields, the header {len(header)}"
                    yield Row(location, {}, Defect("malformed_csv", seen))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8; convert the file to UTF-8", code="not_utf8"
        ) from error
    except csv.Error as error:
        raise DataError(f"{path}: not valid CSV: {error}", code="damaged") from error
