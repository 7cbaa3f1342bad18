"""Text formats, read line by line: a damaged line is a defect of one row and never of the file."""

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


@dataclass(frozen=True)
class Row:
    """One row as it was found: its values, or what is wrong with it."""

    location: str
    """`file.jsonl:17` (line, from 1) or `file.parquet[17]` (row, from 0)."""
    values: dict[str, Any]
    defect: Defect | None = None


def _lines(path: Path) -> Iterator[bytes]:
    """Lines of a plain or compressed file, also those before a damaged end.

    Raises:
        EOFError: the compressed data end early or are damaged; every whole line before it has been yielded.
    """
    rest = b""
    for block in _blocks(path):
        *whole, rest = (rest + block).split(b"\n")
        yield from whole
    if rest:
        yield rest


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
                    raise EOFError(
                        f"the compressed data are damaged ({error}); the rest of the file is lost"
                    ) from error
                inside = not stream.eof
                if inside:
                    break
                block, stream = stream.unused_data, new()
        if inside:
            raise EOFError("the compressed data end early; the rest of the file is lost")


def read_jsonl(path: Path) -> Iterator[Row]:
    """One JSON object a line, plain or compressed; blank lines are skipped."""
    lines = enumerate(_lines(path), start=1)
    number = 0
    while True:
        location = f"{path.name}:{number + 1}"
        try:
            number, line = next(lines)
        except StopIteration:
            return
        except EOFError as error:
            yield Row(location, {}, Defect("malformed_json", str(error)))
            return
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if line.strip():
            yield _parse(f"{path.name}:{number}", line)


def _parse(location: str, line: bytes) -> Row:
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Row(location, {}, Defect("invalid_unicode", f"byte {error.start} of the line is no UTF-8"))
    except (ValueError, RecursionError) as error:
        return Row(location, {}, Defect("malformed_json", f"{error}: {excerpt(line[-40:].decode())}"))
    if not isinstance(values, dict):
        return Row(location, {}, Defect("wrong_type", f"the line is no JSON object but {excerpt(values)}"))
    return Row(location, values)


def read_json(path: Path) -> Iterator[Row]:
    """A JSON array of objects; a `.json` file of one object a line is read as such."""
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not data.lstrip().startswith(b"["):
        yield from read_jsonl(path)
        return
    try:
        values = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: no JSON array: {error}. One object a line (.jsonl) survives such damage", code="damaged"
        ) from error
    for index, value in enumerate(values):
        wrong = None if isinstance(value, dict) else Defect("wrong_type", f"no JSON object but {excerpt(value)}")
        yield Row(f"{path.name}[{index}]", {} if wrong else value, wrong)


def read_csv(path: Path) -> Iterator[Row]:
    """Comma-separated text under a header. A row's place is its last line."""
    csv.field_size_limit(2**31 - 1)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if len(set(header)) < len(header):
                raise DataError(
                    f"{path}:1: a column name stands twice in the header {header}",
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
                    wrong = f"{len(fields)} fields under a header of {len(header)}"
                    yield Row(location, {}, Defect("malformed_csv", wrong))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: no UTF-8 at byte {error.start}; convert the file", code="not_utf8") from error
    except csv.Error as error:
        raise DataError(f"{path}: no CSV: {error}", code="damaged") from error
