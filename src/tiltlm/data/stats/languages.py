"""Languages of prompts and responses, which need the extra `languages`."""

from functools import cache
from typing import Any

from tiltlm.data.rows.records import Record
from tiltlm.data.stats.statistics import DataStatistics, text_of

PACKAGE = "lingua"
READ = 400
"""Characters of a text that are read."""
SHORTEST = 20
"""Shorter texts have no language that could be found."""
MOST = 2000
"""Rows that are looked at, the first ones: a text takes about a millisecond."""
UNKNOWN = "unknown"


@cache
def detector() -> Any:
    """Return lingua's detector of all languages, with its small models."""
    from lingua import LanguageDetectorBuilder

    return LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build()


def language_of(text: str) -> str | None:
    """Return the ISO 639-1 code of a text's language in lower case; None if it is not clear."""
    if len(text.strip()) < SHORTEST:
        return None
    found = detector().detect_language_of(text[:READ])
    return None if found is None else str(found.iso_code_639_1.name).lower()


def add_languages(record: Record, statistics: DataStatistics) -> None:
    """Add the languages of a row to the statistics, if it is among the first `MOST` rows."""
    if statistics.languages.total() >= MOST or record.form == "tokens":
        return
    prompt = language_of(text_of(record.prompt))
    statistics.languages[prompt or UNKNOWN] += 1
    others = {language_of(text_of(response)) for response in record.responses} - {prompt, None}
    statistics.other_language += prompt is not None and bool(others)
