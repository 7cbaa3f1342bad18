"""Find the data files of a folder and their splits, by the conventions of the Hub.

A file belongs to a split if its name, or that of a folder around it, has the split's name as a word: `train.jsonl`,
`my-test.csv`, `validation/0.parquet`. A file named `NAME-00000-of-00003` belongs to the split NAME.
"""

import re
from collections.abc import Callable
from pathlib import Path

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Split → the words that name it."""

ABOUT = frozenset({"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
"""Files about data that are not data, by the names of the Hub and of `datasets`."""

SHARD = re.compile(r"(\w+(?:[.-]\w+)*)-\d{5}-of-\d{5}")


def data_files(folder: Path, is_data: Callable[[Path], bool]) -> list[Path]:
    """Return the data files of a folder, sorted; those of its subfolders only if it has none itself.

    Args:
        folder: Where to look. Names that start with a dot or two underscores are left out.
        is_data: Returns True if the name of a file is that of data.
    """
    here = sorted(path for path in folder.iterdir() if _is_data(path, folder, is_data))
    return here or sorted(path for path in folder.rglob("*") if _is_data(path, folder, is_data))


def _is_data(path: Path, folder: Path, is_data: Callable[[Path], bool]) -> bool:
    hidden = any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    return not hidden and path.name not in ABOUT and is_data(path) and path.is_file()


def files_by_split(files: list[Path], folder: Path) -> dict[str, list[Path]]:
    """Return the files of each split; an empty mapping if no file names one. Files that name none are left out."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        split = _split_of(file.relative_to(folder))
        if split is not None:
            splits.setdefault(split, []).append(file)
    return splits


def _split_of(path: Path) -> str | None:
    """Return the split that a path names: in the name of its file, else in that of the nearest folder."""
    name = path.name.split(".", 1)[0]
    if shard := SHARD.fullmatch(name):
        name = shard[1]
    for part in (name, *reversed(path.parts[:-1])):
        words = set(re.split(r"[^a-z]+", part.lower()))
        found = [split for split, known in SPLITS.items() if words & set(known)]
        if len(found) == 1:
            return found[0]
    return name if shard else None
