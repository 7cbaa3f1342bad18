"""Rows of other tools' formats, read as training and `tiltlm convert` read them."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tiltlm.data.data_settings import DataSettings
from tiltlm.data.dataset import survey
from tiltlm.data.files.text_files import Row
from tiltlm.data.rows.columns import ColumnRoles, detect
from tiltlm.data.rows.records import Record, to_record
from tiltlm.data.whole_rows import join_rows


def read_rows_of(rows: Iterable[Mapping[str, Any]], **settings: Any) -> tuple[ColumnRoles, list[Record]]:
    """Return the roles of the columns and the records of rows, after a passage through JSON."""
    placed = [Row(f"a.jsonl:{k}", json.loads(json.dumps(row))) for k, row in enumerate(rows, start=1)]
    joined = list(join_rows(placed))
    schema = detect(survey([joined])[0], DataSettings(train="a", **settings), use_reference_columns=True)
    return schema, [to_record(row, schema) for row in joined]
