"""Python objects as plain settings: rows become a file, a model a folder, an objective the description of its parts.

So a run is repeatable from its config.yaml, and rows go the way of every other file: same columns, same account.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from tiltlm.core import ConfigError, DataError
from tiltlm.data.data_settings import SourceSettings
from tiltlm.storage.files import write_text
from tiltlm.storage.objects import mark_object_used, write_once

if TYPE_CHECKING:
    from tiltlm.objectives import Objective

DATA = ("data", "data.train", "data.eval", "train", "eval")
"""Settings that may be rows."""
OF_SOURCE = {field.name for field in fields(SourceSettings)}
"""Keys of a source in `data.train`."""
MODELS = ("model", "model.path", "path", "reference", "reference.name")
"""Settings that may be a loaded model with its tokenizer."""


def plain(value: Any, key: str = "") -> Any:
    """Return a setting as a file would have it.

    Args:
        value: Plain values with paths, tuples, rows of data, models or an objective among them.
        key: Its full name, or the bare name under which it was given.

    Raises:
        ConfigError: An objective has no description, a model is given where none can be, or one that was given before
            is no longer in the cache.
        ModelError: A model cannot be written as a folder.
        DataError: A row cannot be written as JSON.
    """
    if key in DATA and (rows := rows_of(value)) is not None:
        return str(save_rows(rows, key))
    if isinstance(value, Mapping):
        return {name: plain(item, f"{key}.{name}" if key else name) for name, item in value.items()}
    if is_objective(value):
        return describe(value)
    if is_model(value):
        if key not in MODELS:
            raise ConfigError(f"{key} is a loaded model; it cannot be one", code="wrong_type", key=key)
        from tiltlm.models.in_memory import write_model

        return str(write_model(value, key))
    if isinstance(value, list | tuple):
        return [plain(item, key) for item in value]
    if isinstance(value, str | Path) and key in (*DATA, *MODELS):
        mark_object_used(str(value), key)
    return str(value) if isinstance(value, Path) else value


def is_model(value: Any) -> bool:
    """Return whether a setting is a loaded model, or a tuple or list that contains one. Nothing is imported for it."""
    homes = {"torch.nn": "Module", "tiltlm.models.loading": "Loaded"}
    kinds = tuple(getattr(sys.modules[home], name) for home, name in homes.items() if home in sys.modules)
    return any(isinstance(part, kinds) for part in (value if isinstance(value, tuple | list) else (value,)))


def is_objective(value: Any) -> "TypeGuard[Objective]":
    """Return whether a setting is an objective. Torch is imported only if it may be one."""
    if not is_dataclass(value):
        return False
    from tiltlm.objectives import WeightedSum
    from tiltlm.objectives.shapes.base import ObjectiveBase

    return isinstance(value, ObjectiveBase | WeightedSum)


def rows_of(value: Any) -> Iterable[Mapping[str, Any]] | None:
    """Return the rows of a list of mappings, a pandas frame or a dataset; None for anything else.

    A list of sources (`data.train: [{path: a.jsonl, weight: 2}]`) is no list of rows.
    """
    library = type(value).__module__.partition(".")[0]
    if library == "pandas" and hasattr(value, "to_dict"):
        records: list[dict[str, Any]] = value.astype(object).where(value.notna(), None).to_dict("records")
        return records
    if library == "datasets" and hasattr(value, "column_names") and not isinstance(value, Mapping):
        rows: Iterable[Mapping[str, Any]] = value
        return rows
    if isinstance(value, list | tuple) and value and all(isinstance(row, Mapping) for row in value):
        return None if all("path" in row and row.keys() <= OF_SOURCE for row in value) else value
    return None


def save_rows(rows: Iterable[Mapping[str, Any]], key: str) -> Path:
    """Write rows to a JSON Lines file of the user's cache, named by their content, and return its path.

    Raises:
        DataError: A row cannot be written as JSON.
    """
    lines = []
    for index, row in enumerate(rows):
        try:
            lines.append(json.dumps(dict(row), ensure_ascii=False, default=_listed) + "\n")
        except (TypeError, ValueError) as error:
            raise DataError(
                f"data[{index}]: {error}; a row has texts, numbers, lists and mappings",
                code="wrong_type",
                key=key,
                row=f"data[{index}]",
            ) from error
    text = "".join(lines)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return write_once("rows", digest, lambda folder: write_text(folder / "data.jsonl", text)) / "data.jsonl"


def describe(objective: "Objective") -> dict[str, Any]:
    """Return the description of an objective; `compose` builds an equal one from it.

    Raises:
        ConfigError: It is no objective of parts, nor a sum of such.
    """
    from tiltlm.objectives import WeightedSum
    from tiltlm.objectives.composing import Composed, parts_of

    if isinstance(objective, WeightedSum):
        terms = zip(objective.objectives, objective.weights, strict=True)
        return {"sum": [{**describe(term), "weight": weight} for term, weight in terms]}
    if not isinstance(objective, Composed):
        raise ConfigError(
            f"objective: a {type(objective).__name__} has no description by parts; give the name of its method",
            code="wrong_type",
            key="objective",
        )
    return parts_of(objective)


def _listed(value: Any) -> Any:
    """Return an array or a number of numpy as plain values."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a value of type {type(value).__name__} cannot be written as JSON")
