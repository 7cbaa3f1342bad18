"""The codes of `tiltlm check`, what a rule and a finding are, and the code of each cause for which loading drops rows.

An error is a row that training leaves out, or that cannot mean what it says: turns out of order, a label that another
row contradicts. A warning is a row that trains, and may harm. A note is a fact worth knowing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tiltlm.data.accounting import CHANGES, LOSSES
from tiltlm.estimates.intervals import Interval

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
"""The most serious first."""

BIASED = 0.6
"""From this share on, a rule that reads only the length is too good (or below 1 − this, the shorter one wins)."""
FEW = 30
"""With fewer comparisons no bias is reported: chance alone goes beyond such limits."""

CODES: Mapping[str, str] = {
    "D01": "rows that cannot be read",
    "D02": "empty prompts and responses",
    "D03": "chosen and rejected are equal",
    "D04": "exact duplicates and opposite labels",
    "D05": "near duplicates",
    "D06": "prompts inside the responses",
    "D07": "turns of a conversation",
    "D08": "chat template and special tokens",
    "D09": "truncation",
    "D10": "length bias",
    "D11": "style bias",
    "D12": "labels, scores and sources",
    "D13": "training data in evaluation data",
    "D14": "languages",
    "D15": "unusual characters",
    "D16": "label noise under a model",
    "D17": "unusual sizes",
}
"""Every code, and what it is about."""


@dataclass(frozen=True)
class Rule:
    """One thing that a check finds."""

    key: str
    """Stable name in snake case."""
    code: str
    """A key of `CODES`."""
    level: Level
    cause: str
    """What was found, in a few words."""
    fix: str
    """What the user can do."""
    unit: str = "rows"
    """What is counted."""
    leaves_out: bool = False
    """True: `--fix` leaves these rows out."""

    def __post_init__(self) -> None:
        assert self.code in CODES, self.code


CODE_OF_CAUSE: Mapping[str, str] = {
    "malformed_json": "D01",
    "malformed_csv": "D01",
    "row_too_large": "D01",
    "damaged_file": "D01",
    "invalid_unicode": "D01",
    "wrong_type": "D01",
    "missing_value": "D01",
    "empty_response": "D02",
    "identical_responses": "D03",
    "no_common_prompt": "D06",
    "prompt_mismatch": "D06",
    "no_comparison": "D12",
    "score_tie": "D12",
    "soft_label": "D12",
    "no_response": "D07",
    "no_turns": "D07",
    "template_rewrites": "D08",
    "template_error": "D08",
    "boundary": "D08",
    "unknown_token": "D08",
    "wrong_end": "D08",
    "end_inside": "D08",
    "response_too_long": "D09",
    "prompt_too_long": "D09",
    "reference_of_other_tokens": "D09",
    "too_long": "D09",
}
"""Cause for which loading drops a row (`LOSSES`) → its code."""

NOT_OF_CHECKS = frozenset({"prompt_above_window", "ches_above_limit", "small_gap", "above_cap"})
"""Causes of sampling, of a model's states, of `data.comparisons` and of a source's cap, which no check reads."""

LOSS_RULES: Mapping[str, Rule] = {
    cause: Rule(
        cause,
        code,
        "warning" if code == "D09" else "error",
        LOSSES[cause].partition(";")[0],
        LOSSES[cause].partition("; ")[2] or "correct the rows",
        leaves_out=code != "D09",
    )
    for cause, code in CODE_OF_CAUSE.items()
}
"""The rule of each cause. Long rows are no defect: `data.max_length` decides, and `truncation_loss` is the error."""

_CHANGES: tuple[tuple[str, str, Level, str], ...] = (
    ("tools_left_out", "D08", "warning", "set data.chat_template to a template that writes tools"),
    ("boundary_merge", "D08", "note", "end prompts without white space, where this is not meant"),
    ("identical_comparison", "D03", "note", "delete one of the two responses"),
    ("tie", "D12", "note", "ties need no change"),
)
CHANGE_RULES: Mapping[str, Rule] = {
    cause: Rule(cause, code, level, CHANGES[cause].partition(";")[0], fix) for cause, code, level, fix in _CHANGES
}
"""The rule of each change that loading makes to a row it keeps. The others are seen by a check."""

FILE_RULES: Mapping[str, Rule] = {
    code: Rule(code, "D01", "error", cause, fix, unit="files")
    for code, cause, fix in (
        ("damaged", "the file is damaged, so what follows in it is unknown", "copy or download it again"),
        ("too_compressed", "the file becomes so large that it was made to fill the memory", "look where it comes from"),
        ("field_too_large", "a field is larger than data.max_row_mb", "close its quotes, or raise data.max_row_mb"),
        ("not_utf8", "the file is not UTF-8", "convert it with iconv"),
        ("duplicate", "the header names a column twice", "rename one of the columns"),
        ("no_rows", "the file has no rows", "name another file"),
    )
}
"""Codes of errors that end the reading of a file."""

COLUMN_RULE = Rule("columns", "D01", "error", "the columns cannot be read", "see the message", unit="data sets")
"""Columns that are unknown or contradict each other: no row can be read."""


@dataclass(frozen=True)
class Finding:
    """What a rule found in the data."""

    rule: Rule
    count: int
    of: int
    """What `count` is a share of, in the rule's unit."""
    examples: tuple[str, ...] = ()
    """Location and detail of the first few."""
    detail: str = ""
    """What else is known, as a sentence."""
    numbers: Mapping[str, Interval | float] = field(default_factory=dict)
    """Numbers by name."""

    @property
    def rate(self) -> float:
        """Count as a share."""
        return self.count / self.of if self.of else 0.0


def order_of(finding: Finding) -> tuple[int, str, str]:
    """Return what findings are sorted by: level, code, key."""
    return LEVELS.index(finding.rule.level), finding.rule.code, finding.rule.key
