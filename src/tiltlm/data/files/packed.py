"""Read plain and compressed files in pieces of bounded size, and find out whether a compressed file is damaged.

A compressed file is read to its end before any of its rows is used: only its end shows that it is complete, and only a
checksum, which follows the data, that they are as they were written.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from tiltlm.core.errors import DataError

MAGIC = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
"""End of the name of a compressed file → the first bytes of such a file."""
BUFFER = 1 << 16
"""Bytes read from a plain file at a time."""
PIECES = {".gz": 1 << 13, ".zst": 1 << 9}
"""End of the name of a compressed file → bytes decompressed at a time. They become at most 8 MB with gzip, and 16 MB
with Zstandard."""
MOST_TIMES = 1000
"""Most bytes that a byte of a compressed file may become, once the file has become `CHECKED_FROM` bytes. JSON of equal
rows reaches a few hundred."""
CHECKED_FROM = 1 << 28


@dataclass(frozen=True)
class Damage:
    """What is wrong with a compressed file, and what comes before it."""

    reason: str
    """What was seen, as a clause."""
    offset: int
    """Bytes of the file that were read without an error."""
    sound_lines: int
    """Whole lines before the damage. Where a checksum failed: those before the part that it covers."""
    sound_size: int
    """Bytes of these lines, decompressed."""


def is_packed(path: Path) -> bool:
    """Return whether the name of a file says that it is compressed."""
    return path.suffix.lower() in PIECES


def claims_to_be_packed(path: Path) -> bool:
    """Return whether a file is not compressed although its name says so."""
    with path.open("rb") as file:
        return not file.read(4).startswith(MAGIC[path.suffix.lower()])


def damage_of(path: Path) -> Damage | None:
    """Return what is wrong with a compressed file; None for one that is whole, and for any other file.

    Raises:
        OSError: The file cannot be read.
        DataError: It becomes so many bytes that it was made to fill the memory or the disk.
    """
    if not is_packed(path):
        return None
    status = path.stat()
    return _damage_of(path.resolve(), status.st_size, status.st_mtime_ns)


def blocks_of(path: Path, size: int | None = None) -> Iterator[bytes]:
    """Yield the content of a file, decompressed if its name says that it is compressed.

    Args:
        path: The file.
        size: Bytes to yield. None: all.
    """
    if not is_packed(path):
        with path.open("rb") as file:
            yield from iter(lambda: file.read(BUFFER), b"")
        return
    left = size
    for piece in _unpack(path) if left != 0 else ():
        if left is not None and len(piece.content) >= left:
            yield piece.content[:left]
            return
        left = None if left is None else left - len(piece.content)
        yield piece.content


class _Piece(NamedTuple):
    """A part of the content of a compressed file."""

    content: bytes
    offset: int
    """Bytes of the file that were read so far."""
    is_checked: bool
    """True if it ends with the end of a member (gzip) or frame (Zstandard), whose checksum was right."""


class _DamagedError(Exception):
    """A compressed file ends early, or cannot be decompressed."""

    def __init__(self, reason: str, *, is_cut: bool) -> None:
        super().__init__(reason)
        self.is_cut = is_cut


@lru_cache(maxsize=64)
def _damage_of(path: Path, size: int, modified: int) -> Damage | None:
    """Return what is wrong with a file of this size and time of change."""
    del size, modified  # they are here as a key: a file that was changed is read again
    lines = length = offset = 0
    whole = checked = (0, 0)
    try:
        for piece in _unpack(path):
            end = piece.content.rfind(b"\n") + 1
            lines += piece.content.count(b"\n")
            if end:
                whole = (lines, length + end)
            length += len(piece.content)
            offset = piece.offset
            if piece.is_checked:
                checked = whole
            if length > max(CHECKED_FROM, MOST_TIMES * offset):
                raise DataError(
                    f"{path}: the first {offset:,} bytes of the file become more than {length:,} bytes: it seems to be "
                    "made to fill the memory, and is not read. Decompress it yourself if you trust it",
                    code="too_compressed",
                )
    except _DamagedError as error:
        return Damage(str(error), offset, *(whole if error.is_cut else checked))
    return None


def _unpack(path: Path) -> Iterator[_Piece]:
    """Yield the content of a compressed file.

    Raises:
        _DamagedError: The file is damaged. What was yielded before may be wrong where it does not end early.
    """
    kind = path.suffix.lower()
    new: Callable[[], Any] = {
        ".gz": lambda: zlib.decompressobj(wbits=31),
        ".zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
    }[kind]
    stream, inside, offset = new(), False, 0
    with path.open("rb") as file:
        for block in iter(lambda: file.read(PIECES[kind]), b""):
            offset += len(block)
            rest = block
            while rest:
                if not inside and kind == ".gz":
                    rest = rest.lstrip(b"\0")  # gzip allows zeros between members and at the end
                    if not rest:
                        break
                try:
                    content = stream.decompress(rest)
                except (zlib.error, zstandard.ZstdError) as error:
                    raise _DamagedError(str(error), is_cut=False) from error
                inside = not stream.eof
                rest = b"" if inside else stream.unused_data
                yield _Piece(content, offset - len(rest), not inside)
                if not inside:
                    stream = new()
    if inside:
        raise _DamagedError("it ends early", is_cut=True)
