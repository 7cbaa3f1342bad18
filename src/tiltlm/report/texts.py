"""Texts on a page: shortened where they are long, dates and settings in a readable form."""

import re
from datetime import datetime
from typing import Any

import yaml
from markupsafe import Markup, escape

from tiltlm.report.run_report import to_plain

MAX_CHARACTERS = 1_500
"""Most characters of one text on a page."""


def shorten(text: str, limit: int = MAX_CHARACTERS) -> str:
    """Return the start of a text, with the number of characters that were left out."""
    return text if len(text) <= limit else f"{text[:limit]}… [{len(text) - limit:,} more characters]"


def shorten_start(text: str, limit: int = 700) -> str:
    """Return the end of a text, which of a long prompt tells most about the response."""
    return text if len(text) <= limit else f"[{len(text) - limit:,} more characters] …{text[-limit:]}"


def breakable(name: str) -> Markup:
    """Return the name of a setting as HTML that may break after a dot or an underscore, and nowhere else."""
    return Markup(re.sub(r"([._])", r"\1<wbr>", str(escape(name))))


def date_text(created: str) -> str:
    """Return an ISO 8601 time in a readable form; any other text is returned as it is."""
    try:
        return datetime.fromisoformat(created).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return created


def as_yaml(value: Any) -> str:
    """Return settings as a user would write them; an empty text for no settings."""
    return yaml.safe_dump(to_plain(value), sort_keys=False, allow_unicode=True, width=100) if value else ""
