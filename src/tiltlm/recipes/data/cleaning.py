"""Write a copy of data without the rows that a check leaves out, and beside it these rows with the reason for each."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiltlm.core import ConfigError
from tiltlm.data.files.text_files import Row
from tiltlm.data.files.writing import KEPT, format_of, open_rows
from tiltlm.data.quality.inspection import Left
from tiltlm.data.quality.rules import Rule
from tiltlm.data.whole_rows import apart
from tiltlm.storage.files import check_file

JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
"""Ends of names that every cleaned copy may have."""


@dataclass(frozen=True)
class Cleaned:
    """A cleaned copy of data."""

    path: Path
    left_out_path: Path
    num_kept: int
    num_left_out: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "path": str(self.path),
            "left_out": str(self.left_out_path),
            "rows": self.num_kept,
            "rows_left_out": self.num_left_out,
        }


def left_out_path(output: Path) -> Path:
    """Return the file beside a cleaned copy with the rows that it leaves out."""
    ending = next((e for e in KEPT if output.name.lower().endswith(e)), "")
    return output.with_name(f"{output.name[: len(output.name) - len(ending)]}.left-out.jsonl")


def check_cleaned(output: Path, inputs: Sequence[str], *, overwrite: bool) -> None:
    """Refuse an output that cannot be written, or that is one of the inputs or inside of one.

    Raises:
        ConfigError: It is.
    """
    check_file(output, "--fix")
    may_be = tuple(dict.fromkeys((*JSON_LINES, format_of(inputs))))
    if not output.name.lower().endswith(may_be):
        raise ConfigError(
            f"--fix {output}: the name must end with one of {', '.join(may_be)}",
            code="unknown_file_format",
            key="--fix",
        )
    for path in (output, left_out_path(output)):
        if any(Path(name).exists() and path.resolve().is_relative_to(Path(name).resolve()) for name in inputs):
            raise ConfigError(
                f"--fix {path} is the input, or inside it, and the input is never changed; give another name",
                code="output_exists",
                key="--fix",
            )
        if path.exists() and not overwrite:
            raise ConfigError(
                f"--fix: {path} exists; give --overwrite to replace it, or another name",
                code="output_exists",
                key="--fix",
            )


def write_cleaned(
    output: Path,
    inputs: Sequence[str],
    rows: Iterable[Row],
    left_out: Mapping[int, Left],
    rule_of: Callable[[str], Rule],
) -> Cleaned:
    """Write all rows but those that are left out, and those to a file of their own.

    Args:
        output: The copy. Its name decides the format.
        inputs: The sources. A Parquet file gets the columns and types of the first one.
        rows: Rows of the data, in the order in which they were inspected.
        left_out: Rows to leave out, by their place.
        rule_of: Returns the rule of a key.

    Raises:
        RunError: A file cannot be written.
    """
    beside = left_out_path(output)
    kept = num_left = 0
    with open_rows(output, Path(inputs[0]), key="--fix") as write, open_rows(beside, key="--fix") as note:
        for place, row in enumerate(rows):
            left = left_out.get(place)
            if left is None and row.defect is None:
                for values in apart(row.values):
                    write(values)
                kept += 1
                continue
            assert left is not None, "a row that cannot be read is left out"
            num_left += 1
            rule = rule_of(left.key)
            entry = {"row": row.location, "code": rule.code, "key": rule.key, "cause": rule.cause}
            note({**entry, "detail": left.detail, "values": row.values or None})
    return Cleaned(output, beside, kept, num_left)
