"""Read the files of a run directory that somebody else may be writing, or that may be damaged. Nothing is written."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tiltlm.core.errors import RunError

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The fast one, where PyYAML was built with it."""
TAIL = 1 << 16
"""Bytes at the end of a file that are read to find its last line."""
MAX_CONFIG = 1 << 20
"""Bytes. A longer config.yaml is not one that a run wrote."""
MAX_VALUES = 20_000
"""Values in a config.yaml. Short files can hold any number of them by aliases, which a run does not write."""
STEP = re.compile(r"step-(\d+)")


class Damaged(Exception):
    """A file of a run directory is not as a run writes it. The message names the file."""


def read_mapping(path: Path) -> dict[str, Any] | None:
    """Return the mapping in a JSON file; None if there is no such file.

    Raises:
        Damaged: it cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{path.name} cannot be read ({_short(error)})") from error
    if not isinstance(found, dict):
        raise Damaged(f"{path.name} holds a {type(found).__name__} and no mapping")
    return found


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return the settings in config.yaml; None if there is no such file.

    Raises:
        Damaged: it cannot be read, or is too large.
    """
    path = folder / "config.yaml"
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise Damaged(f"{path.name} has {path.stat().st_size:,} bytes; a run writes a few thousand")
        found = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise Damaged(f"{path.name} cannot be read ({_short(error)})") from error
    if not isinstance(found, dict):
        raise Damaged(f"{path.name} holds no settings")
    if _has_more_than(MAX_VALUES, found):
        raise Damaged(f"{path.name} holds more than {MAX_VALUES:,} values; a run writes a few hundred")
    return found


def _has_more_than(limit: int, value: Any) -> bool:
    """Return whether a nested value has more values than this."""
    todo, count = [value], 0
    while todo:
        one = todo.pop()
        count += 1
        if count > limit:
            return True
        if isinstance(one, Mapping):
            todo += one.values()
        elif isinstance(one, list):
            todo += one[: limit + 1]
    return False


def last_record(path: Path) -> dict[str, Any] | None:
    """Return the last whole record of a JSON Lines file; None if there is none.

    A line without its end is being written, or was when the process was killed, and is no damage.

    Raises:
        Damaged: the last whole line is not a record.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read ({_short(error)})") from error
    if not lines:
        return None
    try:
        found = json.loads(lines[-1])
        if not isinstance(found, dict) or not isinstance(found.get("step", 0), int):
            raise ValueError("it is no record")
    except (ValueError, RecursionError) as error:
        raise Damaged(f"the last line of {path.name} cannot be read ({_short(error)})") from error
    return found


def count_lines(path: Path) -> int:
    """Return the number of lines of a file; 0 if there is no such file."""
    try:
        with path.open("rb") as file:
            return sum(1 for _ in file)
    except OSError:
        return 0


def checkpoints_of(folder: Path) -> tuple[list[int], list[str]]:
    """Return the steps of the checkpoints that look whole, in ascending order, and what is wrong with the others.

    Sizes are compared with the manifest; contents are not read. `--resume` checks the hashes too.
    """
    whole, bad = [], []
    for path in sorted((folder / "checkpoints").glob("step-*")):
        if (named := STEP.fullmatch(path.name)) is None:
            continue
        try:
            files = (read_mapping(path / "manifest.json") or {})["files"]
            wrong = [name for name, entry in files.items() if (path / name).stat().st_size != entry["size"]]
        except (Damaged, OSError, KeyError, TypeError, AttributeError) as error:
            bad.append(f"{path.name}: {_short(error)}")
            continue
        if wrong:
            bad.append(f"{path.name}: {wrong[0]} has another size than its manifest says")
        else:
            whole.append(int(named[1]))
    return sorted(whole), bad


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return all records of a JSON Lines file.

    Raises:
        Damaged: a line before the last is not JSON.
    """
    from tiltlm.storage.files import read_lines

    try:
        return [record for record in read_lines(path) if isinstance(record, dict)]
    except (RunError, OSError) as error:
        raise Damaged(_short(error)) from error


def _short(error: BaseException) -> str:
    """Return the first line of an error."""
    text = str(error).strip().split("\n")[0] or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"


def plain_line(text: str) -> str:
    """Return a text of a run as one line that can be printed: escape codes and line breaks become spaces."""
    return "".join(c if c.isprintable() else " " for c in text)
