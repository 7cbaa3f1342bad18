"""Write the parts of a split to files: in the format of the input where that is clear, else as JSON Lines."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tiltlm.data.files.text_files import Row
from tiltlm.data.files.writing import open_rows
from tiltlm.data.splits.plan import Part


def write_rows(
    folder: Path, parts: Mapping[Part, str], rows: Iterable[tuple[Part | None, Row]], names: Sequence[str]
) -> None:
    """Write rows to the files of their parts.

    Args:
        folder: Where to write.
        parts: Name of each part → name of its file; the end of the name is one that `writing.format_of` returns.
        rows: The part of each row, and the row; rows without a part are not written.
        names: The sources. Parquet files get the columns and types of the first one.
    """
    with ExitStack() as stack:
        writers = {
            part: stack.enter_context(open_rows(folder / name, Path(names[0]), key="--output"))
            for part, name in parts.items()
        }
        for part, row in rows:
            if part is not None:
                writers[part](row.values)
