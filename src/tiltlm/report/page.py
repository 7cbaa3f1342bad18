"""The page of a run: one HTML file without scripts or remote resources, with all text from users escaped.

report.json beside it holds the same numbers. Both files are written atomically.
"""

import json
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tiltlm.core import RunError
from tiltlm.report.run_report import SCHEMA, RunReport, from_json, to_plain
from tiltlm.report.sections import SECTIONS
from tiltlm.report.texts import breakable, date_text, shorten, shorten_start
from tiltlm.report.tiles import tiles, words
from tiltlm.report.verdict import verdict_of
from tiltlm.storage.files import not_written, write_bytes

PAGE, TWIN = "report.html", "report.json"


@cache
def template_environment() -> Environment:
    """Return the environment of the templates, which escapes every text that is not marked as HTML."""
    made = Environment(
        loader=PackageLoader("tiltlm.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"shorten": shorten, "shorten_start": shorten_start, "date_text": date_text, "breakable": breakable}
    made.globals["css"] = template_file("style.css")
    return made


def template_file(name: str) -> Markup:
    """Return the text of a file in the template folder, not escaped."""
    return Markup((resources.files("tiltlm.report") / "templates" / name).read_text(encoding="utf-8"))


def script(name: str) -> tuple[Markup, str]:
    """Return a script of the template folder, and the digest by which the page's policy allows only this script."""
    source = template_file(name)
    return source, b64encode(sha256(source.encode()).digest()).decode()


def render(report: RunReport) -> str:
    """Return the page of a run as HTML."""
    views, shown = [section.show(report) for section in SECTIONS], tiles(report)
    return (
        template_environment()
        .get_template("run.html")
        .render(
            report=report,
            verdict=verdict_of(report),
            tiles=shown,
            words=words(shown),
            sections=[view for view in views if view is not None],
            twin=TWIN,
        )
    )


def in_frame(page: str) -> Markup:
    """Return a whole page as HTML for a cell of a notebook: in a frame, so that its style stays its own."""
    return Markup('<iframe srcdoc="{}" style="width: 100%; height: 640px; border: 0"></iframe>').format(page)


def write_report(folder: Path | str, report: RunReport) -> Path:
    """Write report.html and then report.json into a run directory: with report.json a run is finished.

    Returns:
        The path of report.html.

    Raises:
        RunError: a file cannot be written.
    """
    folder = Path(folder)
    write(folder / PAGE, render(report))
    write(folder / TWIN, as_json({"schema": SCHEMA, "verdict": verdict_of(report), **vars(report)}))
    return folder / PAGE


def read_run(folder: Path | str) -> RunReport:
    """Read the report of a run directory.

    Raises:
        RunError: there is no report, or it is damaged.
    """
    path = Path(folder) / TWIN
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"{path} could not be read ({error.strerror}); the run has no report, or did not finish",
            code="not_readable",
        ) from error
    return from_json(text, str(path))


def as_json(value: Any) -> str:
    """Return indented JSON without NaN."""
    return json.dumps(to_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write(path: Path, text: str) -> None:
    """Write a file atomically, and make the folders above it.

    Half of a surrogate pair, which is in some texts and has no UTF-8 form, becomes a question mark.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(path, error) from error
    write_bytes(path, text.encode("utf-8", errors="replace"))
