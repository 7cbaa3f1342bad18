"""Rules that check a response: a regular expression, a JSON schema, the right answer, the right number.

The score is 1 if the response is right and 0 if it is not. A row without a right answer is an error, never a 0.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from tiltlm.core.errors import ConfigError
from tiltlm.judging.digests import digest_of
from tiltlm.judging.judge import Item, Role, Score, Scorer
from tiltlm.judging.judge_settings import JudgeSettings
from tiltlm.storage.versions import is_installed

ANSWER = "answer"
"""Column of the right answer, if the settings name none."""

FENCED = re.compile(r"```[\w+-]*[ \t]*\n(.*?)```", re.DOTALL)
"""A block of code in Markdown."""
BOX = r"\boxed{"
"""What stands before a final answer in LaTeX."""
NUMBER = re.compile(
    r"(?P<sign>[-−+]?)\s*[$€£]?\s*"
    r"(?:\\[dt]?frac\{(?P<top>\d+)\}\{(?P<under>\d+)\}"
    r"|(?P<whole>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?P<power>[eE][-+]?\d+)?"
    r"(?:\s*/\s*(?P<divisor>\d+(?:\.\d+)?))?)"
)
"""A number: 1,000 · −2.5 · 1e-3 · 3/4 · \\frac{3}{4}."""
MAX_POWER = 300
"""Largest exponent of ten that is read."""


class Unreadable(Exception):
    """The row does not have what the rule needs."""


class Rule(Scorer):
    """A function of response and row as a scorer."""

    def __init__(self, name: str, role: Role, check: Callable[[Item], float], reads: tuple[str, ...], **facts: Any):
        """Make the scorer.

        Args:
            name: Its kind.
            role: Its role.
            check: Returns the score of a response, or raises `Unreadable`.
            reads: Columns of the row that `check` reads.
            **facts: Everything that its scores depend on.
        """
        self.name = name
        self.role = role
        self.reads = reads
        self.digest = digest_of(name, version=1, **facts)
        self._check = check

    def score(self, items: Iterable[Item]) -> Iterator[Score]:
        """Yield a score for each item, in order."""
        for item in items:
            try:
                yield Score(float(self._check(item)))
            except Unreadable as error:
                yield Score(None, error=str(error))


def right_answer(item: Item, column: str) -> str:
    """Return the right answer of a row as text.

    Raises:
        Unreadable: The row has none.
    """
    value = item.row.get(column)
    if value is None or value == "":
        raise Unreadable(f"the row has no value in its column {column!r}, which holds the right answer")
    return str(value)


def final_answer(response: str, pattern: re.Pattern[str] | None) -> str | None:
    r"""Return the part of a response that is its answer; None if there is none.

    With a pattern, it is the last match. Otherwise it is what stands in the last `\boxed{…}` or after the last `####`,
    else the whole response.
    """
    if pattern is not None:
        matches = list(pattern.finditer(response))
        return next((m[1] if m.re.groups and m[1] is not None else m[0] for m in matches[-1:]), None)
    boxed = last_box(response)
    if boxed is not None:
        return boxed
    return response.rpartition("####")[2]


def last_box(text: str) -> str | None:
    r"""Return what stands in the last `\boxed{…}`, with its own braces; None if there is none, or it does not end."""
    start = text.rfind(BOX)
    if start < 0:
        return None
    depth, start = 1, start + len(BOX)
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end]
    return None


def numbers(text: str) -> list[Fraction]:
    """Return all numbers of a text, exactly."""
    found = []
    for match in NUMBER.finditer(text):
        sign = -1 if match["sign"] in ("-", "−") and not _is_hyphen(text, match.start()) else 1
        if match["top"]:
            top, under = Fraction(match["top"]), Fraction(match["under"])
        else:
            power = int((match["power"] or "e0")[1:])
            if abs(power) > MAX_POWER:
                continue
            top = Fraction(match["whole"].replace(",", "")) * Fraction(10) ** power
            under = Fraction(match["divisor"] or 1)
        if under:
            found.append(sign * top / under)
    return found


def _is_hyphen(text: str, at: int) -> bool:
    """Return whether a dash joins two words, as in `2-3` or `covid-19`."""
    return at > 0 and text[at - 1].isalnum()


def same_number(found: Fraction, right: Fraction, tolerance: float) -> bool:
    """Return whether two numbers are equal within a tolerance, relative above 1 and absolute below."""
    return abs(found - right) <= Fraction(repr(tolerance)) * max(Fraction(1), abs(right))


def pattern_of(text: str) -> re.Pattern[str]:
    """Compile a regular expression.

    Raises:
        ConfigError: It is none.
    """
    try:
        return re.compile(text, re.DOTALL)
    except re.error as error:
        raise ConfigError(
            f"judge.pattern is {text!r}, which is no regular expression: {error}",
            code="wrong_type",
            key="judge.pattern",
        ) from error


def regex(settings: JudgeSettings, role: Role) -> Rule:
    """Make the rule that a regular expression is found in the response."""
    pattern = pattern_of(settings.pattern or "")
    return Rule("regex", role, lambda item: bool(pattern.search(item.response)), (), pattern=pattern.pattern)


def exact(settings: JudgeSettings, role: Role) -> Rule:
    """Make the rule that the answer equals the right one; white space at its ends and between words does not count."""
    column, pattern = settings.column or ANSWER, None if settings.pattern is None else pattern_of(settings.pattern)

    def check(item: Item) -> bool:
        right, found = right_answer(item, column), final_answer(item.response, pattern)
        return found is not None and found.split() == right.split()

    return Rule("exact", role, check, (column,), column=column, pattern=settings.pattern)


def numeric(settings: JudgeSettings, role: Role) -> Rule:
    """Make the rule that the last number of the answer equals the right one."""
    column, pattern = settings.column or ANSWER, None if settings.pattern is None else pattern_of(settings.pattern)

    def check(item: Item) -> bool:
        right = numbers(final_answer(right_answer(item, column), None) or "")
        if not right:
            raise Unreadable(f"the column {column!r} has no number: {item.row[column]!r}")
        answer = final_answer(item.response, pattern)
        found = numbers(answer) if answer is not None else []
        return bool(found) and same_number(found[-1], right[-1], settings.tolerance)

    facts = {"column": column, "pattern": settings.pattern, "tolerance": settings.tolerance}
    return Rule("numeric", role, check, (column,), **facts)


def json_schema(settings: JudgeSettings, role: Role) -> Rule:
    """Make the rule that the response, or its last block of code, is JSON that fits a schema.

    Raises:
        ConfigError: The package `jsonschema` is not installed, or the file is no schema.
    """
    if not is_installed("jsonschema"):
        raise ConfigError(
            "judge.kind=json_schema needs the package jsonschema: pip install 'tiltlm[verify]'",
            code="missing_package",
            key="judge.kind",
        )
    import jsonschema

    schema = _read_schema(str(settings.schema))
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ConfigError(
            f"judge.schema={settings.schema} is no JSON schema: {error.message}", code="wrong_type", key="judge.schema"
        ) from error
    validator = kind(schema)

    def check(item: Item) -> bool:
        blocks = FENCED.findall(item.response)
        try:
            value = json.loads(blocks[-1] if blocks else item.response)
        except (ValueError, RecursionError):
            return False
        return bool(validator.is_valid(value))

    return Rule("json_schema", role, check, (), schema=schema)


def _read_schema(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"judge.schema={path}: no such file", code="no_such_path", key="judge.schema") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"judge.schema={path} is not JSON: {error}", code="wrong_type", key="judge.schema") from error
