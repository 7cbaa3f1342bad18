"""Checks that need a tokenizer: what the length limit cuts, and whether the chat template can be used."""

from collections.abc import Iterable, Iterator
from typing import Self

from tiltlm.core.errors import DataError
from tiltlm.data.quality.checked_row import Check, CheckedRow, Mark, Marked
from tiltlm.data.quality.rules import Finding, Rule
from tiltlm.data.tokens.encoder import Encoder
from tiltlm.data.tokens.templates import UNRENDERABLE

MOST_LOST = 0.05
"""Share of the rows that the length limit may lose."""


class Truncation(Check):
    """D09: rows longer than the length limit, and what it takes from them."""

    rules = (
        Rule(
            "long_rows",
            "D09",
            "warning",
            "the row is longer than data.max_length",
            "raise data.max_length, or leave such rows out: data.truncation=drop",
        ),
        Rule(
            "truncation_loss",
            "D09",
            "error",
            f"the length limit loses more than {MOST_LOST:.0%} of the rows",
            "raise data.max_length, or shorten prompts and responses",
        ),
    )

    def __init__(self) -> None:
        self.num_rows = 0
        self.num_long = 0
        self.num_one_side = 0
        """Long rows of which some responses fit and others do not."""
        self.num_full_prompts = 0
        """Long rows whose prompt leaves no room for a response."""
        self.num_lost = 0

    def see(self, row: CheckedRow) -> Iterator[Mark]:
        """Count a row by what the limit does to it."""
        if row.encoded is None or row.max_length is None:
            return
        self.num_rows += 1
        room = row.max_length - len(row.encoded.prompt_ids)
        too_long = [length > room for length in row.lengths]
        self.num_lost += bool(row.lost)
        if any(too_long):
            self.num_long += 1
            self.num_one_side += not all(too_long)
            self.num_full_prompts += room < 1
            yield Mark("long_rows", f"{row.max_length - room} + {max(row.lengths)} tokens > {row.max_length}")

    def merge(self, later: Self, offset: int) -> None:
        """Add the counts of later rows."""
        del offset
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(later, name))

    def findings(self, marked: Marked) -> Iterable[Finding]:
        """Say how much the limit loses."""
        del marked
        if self.num_lost > MOST_LOST * self.num_rows:
            detail = (
                f"of {self.num_long} rows that are too long, {self.num_full_prompts} have a prompt that fills it, "
                f"and {self.num_one_side} are too long with one response only"
            )
            yield Finding(self.rule("truncation_loss"), self.num_lost, self.num_rows, detail=detail)


NO_TEMPLATE = Rule(
    "no_chat_template",
    "D08",
    "error",
    "the row is a conversation, and the tokenizer has no chat template",
    "set data.chat_template=FILE.jinja, or use plain text",
)
TEMPLATE_RULES = (
    NO_TEMPLATE,
    Rule(
        "template_unusable",
        "D08",
        "error",
        "the chat template cannot be used",
        "set data.chat_template",
        unit="templates",
    ),
    Rule(
        "no_generation_prompt",
        "D08",
        "warning",
        "the chat template does not open the assistant's turn, so a model does not know that it should answer",
        "set data.chat_template to a template that reads add_generation_prompt",
        unit="templates",
    ),
    Rule(
        "no_end_token",
        "D08",
        "warning",
        "the chat template writes no special token after a response, so the model's own end token is added there",
        "see that samplers stop at the model's end token",
        unit="templates",
    ),
    Rule(
        "template_writes_date",
        "D08",
        "note",
        "the chat template writes today's date, so tokens change every day",
        "set a fixed date in data.chat_template_kwargs (often date_string)",
        unit="templates",
    ),
)


def template_findings(encoder: Encoder) -> list[Finding]:
    """Return what is wrong with the chat template itself, whatever the rows."""
    rules = {rule.key: rule for rule in TEMPLATE_RULES}

    def found(key: str, detail: str = "") -> Finding:
        return Finding(rules[key], 1, 1, detail=detail)

    if not encoder.has_template:
        return []
    turns = ({"role": "user", "content": "?"},)
    try:
        template = encoder.template
        assert template is not None, "the encoder has one"
        end = template.end_token_id
        opened, closed = (template.render(turns, open_response=is_open) for is_open in (True, False))
    except DataError as error:
        return [found("template_unusable", str(error))]
    except UNRENDERABLE as error:
        return [found("template_unusable", str(error))]
    wrong = []
    if opened == closed:
        wrong.append(found("no_generation_prompt"))
    if end is None:
        wrong.append(found("no_end_token"))
    if template.writes_date:
        wrong.append(found("template_writes_date"))
    return wrong


CHECKS = (Truncation,)
