"""Small files with the views of a labelling project, as the contract of `tiltlm.data.labels.project_votes` has them."""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tiltlm.data.labels.project_votes import ADJUDICATION_COLUMNS, VOTE_COLUMNS


def vote_row(pair: str, annotator: str, choice: str, *, number: int = 1, **other: Any) -> dict[str, Any]:
    """Return a row of the view `vote_row`."""
    content = {"prompt": f"Prompt of {pair}?", "system": "", "a": f"First of {pair}.", "b": f"Second of {pair}."}
    content |= {name: other.pop(name) for name in content if name in other}
    plain = dict.fromkeys(VOTE_COLUMNS) | {"event_id": number, "pair_key": pair, "kind": "task"}
    plain |= {"source": "", "annotator": annotator, "choice": choice, "is_repeat": 0, "left": "a", "is_random": 0}
    plain |= {"model_a": "", "model_b": "", "sampling_a": "{}", "sampling_b": "{}", "reason": "", "note": ""}
    plain |= {"server_time": 1.0, "ui_version": "", "guideline_version": 1}
    return plain | {name: json.dumps(value) for name, value in content.items()} | other


def write_label_file(
    path: Path, votes: Iterable[Mapping[str, Any]], decisions: Iterable[Mapping[str, Any]] = ()
) -> Path:
    """Write a file whose two views have these rows; event ids are their places if they have none of their own."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        for view, columns, rows in (
            ("vote_row", VOTE_COLUMNS, votes),
            ("adjudication_row", ADJUDICATION_COLUMNS, decisions),
        ):
            names = ", ".join(f'"{name}"' for name in columns)
            connection.execute(f"CREATE TABLE {view} ({names})")
            marks = ", ".join("?" * len(columns))
            lines = [[row[name] for name in columns] for row in rows]
            connection.executemany(f"INSERT INTO {view} VALUES ({marks})", lines)
    return path


def decision(pair: str, choice: str) -> dict[str, Any]:
    """Return a row of the view `adjudication_row`."""
    return {"pair_key": pair, "choice": choice, "adjudicator": "cleo", "note": "", "server_time": 2.0}
