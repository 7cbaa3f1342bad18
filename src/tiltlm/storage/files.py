"""Files that are complete or absent: atomic writes, JSON without NaN, and JSON Lines."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from errno import EDQUOT, EFBIG, EISDIR, ENOSPC
from pathlib import Path
from stat import S_IMODE
from typing import IO, Any

from tiltlm.core.errors import ConfigError, RunError


def not_written(path: Path, error: OSError, key: str | None = None) -> RunError:
    """Return the error of a file that could not be written, with its cause and the way out.

    Args:
        path: The file.
        error: That of the system.
        key: As for `RunError`.
    """
    is_full = error.errno in (ENOSPC, EDQUOT, EFBIG)
    way_out = "Free space on its disk" if is_full else "Give this process the right to write there"
    return RunError(
        f"{path} could not be written ({error.strerror or error}). {way_out}, then give the same command again, with "
        "--resume if it has that option",
        code="not_writable",
        key=key,
    )


def sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(folder: Path) -> None:
    """Require that files can be written in a folder, which need not exist yet. Nothing is left behind.

    Raises:
        OSError: a right is missing, the disk is read-only, a folder above it is a file, or a name is too long.
    """
    existing = folder.absolute()
    while not _exists(existing):
        existing = existing.parent
    with tempfile.TemporaryFile(dir=existing):
        pass


def _exists(path: Path) -> bool:
    try:
        path.lstat()  # `Path.exists` hides or raises errors, depending on the version of Python
    except FileNotFoundError:
        return False
    return True


def temporary_of(path: Path) -> Path:
    """Return the name that a file or folder has until it is complete. A killed process leaves it."""
    return path.with_name(f".{path.name}.tmp")


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that gets its name at the end: a reader sees the complete file or the one before.

    The content and the name are on the disk when the block ends. If the block raises, nothing changes.

    Yields:
        A binary file under a temporary name in the same folder, open for reading and writing.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = temporary_of(path)
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Make a folder that gets its name at the end: a reader sees the complete folder or none.

    If the block raises, nothing is left. Files are not synchronised to the disk; the caller does it where it matters.
    Its files get the rights that new files have here: safetensors writes files that only their owner can read.

    Yields:
        A new, empty folder beside `path`. What an interrupted process left there is deleted first.

    Raises:
        OSError: the folder cannot be made, or `path` exists and is not empty.
    """
    temporary = temporary_of(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        _give_usual_rights(temporary)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _give_usual_rights(folder: Path) -> None:
    """Give all files below a folder the rights that a new file has there, as the umask of the process says."""
    probe = folder / ".rights"
    probe.touch()
    rights = S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink() and S_IMODE(file.stat().st_mode) != rights:
            file.chmod(rights)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        RunError: the disk is full or the file cannot be written. The file before it, if any, is unchanged.
    """
    try:
        with atomic_file(path) as file:
            file.write(content)
    except OSError as error:
        raise not_written(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically.

    Raises:
        RunError: as `write_bytes`.
    """
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write an indented JSON file atomically.

    Raises:
        RunError: as `write_bytes`.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; None if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def finite_json(value: Any) -> Any:
    """Return a JSON value without NaN or infinities, through mappings and lists.

    JSON has no such numbers. They become the strings "NaN", "Infinity" and "-Infinity", which `float` reads back: a bad
    value is never shown as 0.
    """
    if isinstance(value, Mapping):
        return {key: finite_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line of JSON in one write, so that lines of several writers do not mix.

    Raises:
        RunError: the disk is full or the file cannot be written.
    """
    line = (json.dumps(finite_json(record), ensure_ascii=False) + "\n").encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            before = os.fstat(descriptor).st_size
            written = os.write(descriptor, line)
            if written != len(line):  # the disk is full; the next line must not continue half of this one
                os.ftruncate(descriptor, before)
                raise OSError(ENOSPC, os.strerror(ENOSPC))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise not_written(path, error) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON Lines file. An incomplete last line, left by a killed process, is skipped.

    Raises:
        RunError: a line before the last is not JSON.
    """
    lines = path.read_bytes().splitlines() if path.exists() else []
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise RunError(
                    f"{path}:{number}: not JSON ({error}); the file was edited by hand or is damaged",
                    code="damaged",
                    row=f"{path.name}:{number}",
                ) from error
    return records


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Rewrite a JSON Lines file atomically with the records for which `keep` is true, and return them."""
    records = [record for record in read_lines(path) if keep(record)]
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return records


def check_file(path: Path, key: str) -> None:
    """Require that a file can be written, in a folder that exists.

    Raises:
        ConfigError: it cannot.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ConfigError(
            f"{key} {path}: the folder {path.parent} does not exist; create it first", code="no_such_path", key=key
        )
    try:
        if path.is_dir():
            raise IsADirectoryError(EISDIR, "it is a folder")
        check_writable(folder)
    except OSError as error:
        raise ConfigError(f"{key} {path} cannot be written: {error.strerror}", code="not_writable", key=key) from error
