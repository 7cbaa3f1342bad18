"""Languages of prompts and responses, if the extra `languages` is installed."""

from importlib.util import find_spec
from typing import Any

from tiltlm.data.rows.records import Record
from tiltlm.data.stats.statistics import DataStatistics, text_of

MOST = 2000
"""Rows that are looked at, the first ones: a text takes about a millisecond."""
MIN_CHARACTERS = 40
"""In shorter texts a language cannot be told with certainty."""


class Languages:
    """Finds languages with lingua."""

    def __init__(self, detector: Any) -> None:
        """Use this detector, which has `detect_language_of(text)`."""
        self._detector = detector
        self._num = 0

    @classmethod
    def installed(cls) -> "Languages | None":
        """Return the detector of all languages; None without the extra `languages`."""
        if find_spec("lingua") is None:
            return None
        from lingua import LanguageDetectorBuilder

        builder = LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode()
        return cls(builder.build())

    def language_of(self, text: str) -> str:
        """Return the English name of a text's language; "unknown" if it is too short or unclear."""
        if len(text) < MIN_CHARACTERS:
            return "unknown"
        found = self._detector.detect_language_of(text)
        return "unknown" if found is None else str(found.name).capitalize()

    def add(self, record: Record, statistics: DataStatistics) -> None:
        """Add the languages of a row to the statistics, for the first `MOST` rows."""
        if self._num >= MOST or record.form == "tokens":
            return
        self._num += 1
        prompt = self.language_of(text_of(record.prompt))
        statistics.languages[prompt] += 1
        others = {self.language_of(text_of(response)) for response in record.responses}
        statistics.other_language += prompt != "unknown" and bool(others - {prompt, "unknown"})
