"""A run as one HTML page that stands alone: no script, no remote resource, everything a stranger wrote escaped.

Beside it lies report.json with the same numbers. Both are written whole or not at all.
"""

import json
from base64 import b64encode
from contextlib import suppress
from datetime import datetime
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tiltlm.core import RunError
from tiltlm.report import plots, tables
from tiltlm.report.run_report import SCHEMA, RunReport, from_json, to_plain
from tiltlm.report.verdict import attained, verdict_of

PAGE, TWIN = "report.html", "report.json"

MAX_CHARACTERS = 1_500
"""Of one text on a page; a longer one is shortened and says so."""


@cache
def template_environment() -> Environment:
    """Templates, with everything escaped that is no markup of ours."""
    made = Environment(
        loader=PackageLoader("tiltlm.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"clip": shorten, "clip_start": clip_start, "when": when}
    made.globals["css"] = own("style.css")
    return made


def own(name: str) -> Markup:
    """A file of ours beside the templates, not escaped."""
    return Markup((resources.files("tiltlm.report") / "templates" / name).read_text(encoding="utf-8"))


def script(name: str) -> tuple[Markup, str]:
    """A script of ours and the digest by which the page's policy lets it run, and nothing else."""
    source = own(name)
    return source, b64encode(sha256(source.encode()).digest()).decode()


def shorten(text: str, limit: int = MAX_CHARACTERS) -> str:
    """A text that fits a page."""
    return text if len(text) <= limit else f"{text[:limit]}… [{len(text) - limit:,} more characters]"


def clip_start(text: str, limit: int = 700) -> str:
    """The end of a text: of a long prompt it says most about the answer."""
    return text if len(text) <= limit else f"[{len(text) - limit:,} more characters] …{text[-limit:]}"


def when(created: str) -> str:
    """A date and time as people write it; what is no ISO 8601 stays as it is."""
    try:
        return datetime.fromisoformat(created).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return created


def render(report: RunReport) -> str:
    """The page of a run."""
    held_out, samples, gold = report.held_out, report.samples, report.gold
    contrast = held_out.contrast if held_out is not None else None
    return (
        template_environment()
        .get_template("run.html")
        .render(
            report=report,
            verdict=verdict_of(report),
            is_scorer=held_out is not None and held_out.learner == "reward model",
            tiles=tables.tiles(report),
            held_out_rows=tables.held_out_rows(held_out, report.training_accuracy) if held_out is not None else [],
            accuracies=plots.accuracy_figure(held_out, contrast)
            if held_out is not None and contrast is not None
            else None,
            training_figures=plots.training_figures(report.series, contrast),
            frontier=plots.frontier_figure(gold) if gold is not None else None,
            attained=attained(gold) if gold is not None else "",
            sample_rows=tables.sample_rows(samples) if samples is not None else [],
            data_rows=tables.data_rows(report.data) if report.data is not None else [],
            length_rows=tables.length_rows(report.data) if report.data is not None else [],
            config=as_yaml(report.config),
            twin=TWIN,
        )
    )


def as_yaml(value: Any) -> str:
    """Settings as a user would write them."""
    return yaml.safe_dump(to_plain(value), sort_keys=False, allow_unicode=True, width=100) if value else ""


def write_report(folder: Path | str, report: RunReport) -> Path:
    """Write report.html and report.json into a run directory.

    Returns:
        Where the page is.

    Raises:
        RunError: they cannot be written.
    """
    folder = Path(folder)
    verdict = verdict_of(report)
    write(folder / TWIN, as_json({"schema": SCHEMA, "verdict": verdict, **vars(report)}))
    write(folder / PAGE, render(report))
    return folder / PAGE


def read_run(folder: Path | str) -> RunReport:
    """The report of a run directory, to show it again or beside others.

    Raises:
        RunError: there is none, or it is damaged.
    """
    path = Path(folder) / TWIN
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"{path}: {error.strerror}; the run has no report, or did not come to its end", code="not_readable"
        ) from error
    return from_json(text, str(path))


def as_json(value: Any) -> str:
    """Indented JSON without NaN."""
    return json.dumps(to_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all. Half of a surrogate pair, which some texts hold, becomes a question mark."""
    temporary = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(text.encode("utf-8", errors="replace"))
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise RunError(f"{path} could not be written ({error.strerror})", code="not_writable") from error
