"""Make the page of a comparison again from what its folder holds: comparison.json and the reports of the runs."""

import json
from pathlib import Path
from typing import Any

from tiltlm.core import RunError
from tiltlm.report.comparison.page import SCHEMA, TWIN, write_comparison
from tiltlm.report.comparison.points import ComparedRun
from tiltlm.report.page import TWIN as REPORT
from tiltlm.report.page import read_run


def compare_again(folder: Path) -> Path:
    """Write comparison.html and comparison.json again, as this version of tiltlm writes them.

    A run that had failed, but has a report by now, is shown with its numbers.

    Args:
        folder: A folder with comparison.json.

    Returns:
        The path of comparison.html.

    Raises:
        RunError: comparison.json is damaged or of another version, or the report of a finished run is missing.
    """
    path = folder / TWIN
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content["schema"]
        if schema != SCHEMA:
            raise RunError(
                f"{path} has schema {schema!r}, but this version of tiltlm reads {SCHEMA!r}; continue the sweep with "
                "--resume, which reads the reports of its runs",
                code="other_version",
            )
        runs = [_compared_run(folder, entry) for entry in content["runs"]]
        texts = {key: content[key] for key in ("title", "facts", "notes")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not a comparison ({error!r})", code="not_a_report") from error
    return write_comparison(folder, runs, **texts)


def _compared_run(folder: Path, entry: dict[str, Any]) -> ComparedRun:
    """Return a run of comparison.json with its report, or as failed if it has none and had none."""
    name, link = entry["name"], entry["link"]
    if not link and (folder / name / REPORT).exists():
        link = f"{name}/report.html"
    report = read_run((folder / link).parent) if link else None
    return ComparedRun(name, entry["knobs"], report, link, "" if link else entry["error"])
