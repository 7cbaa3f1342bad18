"""Checks of single rows: empty prompts, equal responses, turns, special tokens, characters."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from tiltlm.data.accounting import excerpt
from tiltlm.data.quality.checked_row import Check, CheckedRow, Mark
from tiltlm.data.quality.rules import Rule
from tiltlm.data.rows.cells import ROLES, Conversation, TokenContent
from tiltlm.data.rows.prompts import INSTRUCTIONS


class EmptyPrompts(Check):
    """D02: a prompt without text, in data that has prompts."""

    rules = (
        Rule(
            "empty_prompt",
            "D02",
            "warning",
            "the prompt is empty or only white space",
            "add the prompt, or delete the row; the response would follow the beginning token alone",
        ),
    )

    def see(self, row: CheckedRow) -> Iterator[Mark]:
        """Mark a row of pairs, lists or labels whose prompt is blank."""
        record = row.record
        is_demonstration = not (record.comparisons or record.labels or record.ranks or record.scores)
        if is_demonstration or isinstance(record.prompt, TokenContent):
            return
        said = [turn for turn in row.turns if turn["role"] not in INSTRUCTIONS]
        if not (row.prompt.strip() if isinstance(record.prompt, str) else said):
            yield Mark("empty_prompt", excerpt(row.prompt))


LONG_PROMPT = 20
"""Characters of a prompt that responses do not begin with by chance."""


class RepeatedPrompts(Check):
    """D06: responses that begin with the text of their prompt, so that it is there twice."""

    rules = (
        Rule(
            "prompt_in_responses",
            "D06",
            "error",
            "all responses begin with the text of the prompt, so the model sees it twice and learns to repeat it",
            "remove the prompt from the responses",
            leaves_out=True,
        ),
    )

    def see(self, row: CheckedRow) -> Iterator[Mark]:
        """Mark a row of text whose responses all begin with the prompt."""
        prompt = row.turns[-1]["content"].strip() if row.turns else row.prompt.strip()
        if len(prompt) >= LONG_PROMPT and all(text.lstrip().startswith(prompt) for text in row.responses):
            yield Mark("prompt_in_responses", excerpt(prompt))


def normalised(text: str) -> str:
    """Return a text in NFC with single spaces between words."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFC", text)).split())


class EqualResponses(Check):
    """D03: the responses of a comparison differ only in white space or in how their characters are composed."""

    rules = (
        Rule(
            "equal_after_normalisation",
            "D03",
            "error",
            "the compared responses differ only in white space or in the composition of characters",
            "delete the row: it has no preference between two texts",
            leaves_out=True,
        ),
    )

    def see(self, row: CheckedRow) -> Iterator[Mark]:
        """Mark a row if all its comparisons are of equal texts."""
        record = row.record
        if not row.comparisons or not all(row.responses) or has_calls(record.responses):
            return
        compared = {k for c in row.comparisons for k in (c.chosen, c.rejected)}
        texts = {k: normalised(row.responses[k]) for k in compared}
        if all(texts[c.chosen] == texts[c.rejected] for c in row.comparisons):
            yield Mark("equal_after_normalisation", excerpt(row.responses[row.comparisons[0].chosen]))


def has_calls(responses: Sequence[object]) -> bool:
    """Return whether a response calls tools, so that its text is not all of it."""
    return any("tool_calls" in turn for r in responses if isinstance(r, tuple) for turn in r)


class Turns(Check):
    """D07: the turns of a conversation."""

    rules = (
        Rule(
            "role_order",
            "D07",
            "error",
            "two turns of the same role follow each other, or a role is unknown",
            "join the turns, add the missing one, or correct the role; many chat templates refuse such a conversation",
            leaves_out=True,
        ),
        Rule(
            "system_not_first",
            "D07",
            "error",
            "a system turn stands after other turns",
            "move it to the start, or make it a turn of the user",
            leaves_out=True,
        ),
        Rule(
            "empty_turn",
            "D07",
            "error",
            "a turn of the prompt has no text",
            "add its text, or delete the row",
            leaves_out=True,
        ),
        Rule(
            "tool_pairing",
            "D07",
            "error",
            "a result of a tool follows no call, or a call has no result",
            "add the missing turn; the assistant's turn with `tool_calls` stands before those with the results",
            leaves_out=True,
        ),
    )

    def see(self, row: CheckedRow) -> Iterator[Mark]:
        """Mark what is wrong with the prompt's turns and the first turn after them, each rule once."""
        if not row.turns:
            return
        response = row.record.responses[0]
        after = response[:1] if isinstance(response, tuple) else ()
        turns = row.turns + after
        for key, place in turn_faults(turns, len(row.turns)).items():
            yield Mark(key, f"turn {place + 1} of {len(turns)}, role {turns[place]['role']}")


def turn_faults(turns: Conversation, num_prompt: int) -> dict[str, int]:
    """Return each rule that turns break, with the place of the first turn that breaks it.

    Args:
        turns: The prompt's turns, then the first turn of a response.
        num_prompt: How many of them are the prompt's. A response that continues the prompt's last turn is no fault.
    """
    found: dict[str, int] = {}
    before: str | None = None
    calls_open = False
    for place, turn in enumerate(turns):
        role = turn["role"]
        has_call = bool(turn.get("tool_calls"))
        continues = place == num_prompt and role == "assistant"
        if role in INSTRUCTIONS:
            if before is not None and before not in INSTRUCTIONS:
                found.setdefault("system_not_first", place)
        elif role == "tool":
            if not calls_open and before != "tool":
                found.setdefault("tool_pairing", place)
            calls_open = False
        elif role not in ROLES or (role == before and not continues):
            found.setdefault("role_order", place)
        if calls_open and role != "tool":
            found.setdefault("tool_pairing", place)
        calls_open = has_call if role == "assistant" else False
        if place < num_prompt and not has_call and not turn["content"].strip():
            found.setdefault("empty_turn", place)
        before = role
    return found


KNOWN_SPECIALS = re.compile(
    r"<\|(?:im_start|im_end|endoftext|end_of_text|begin_of_text|eot_id|start_header_id|end_header_id|assistant|user"
    r"|system|end|eom_id)\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<｜(?:User|Assistant|end▁of▁sentence)｜>"
)
"""Special tokens of widely used chat templates, for checks without a tokenizer."""


class SpecialTokens(Check):
    """D08: text of the prompt that the tokenizer reads as special tokens."""

    rules = (
        Rule(
            "special_in_text",
            "D08",
            "error",
            "the text of the prompt has special tokens of this tokenizer, so it can end a turn or begin another one",
            "remove them from the text; the chat template writes those that belong there",
            leaves_out=True,
        ),
        Rule(
            "template_in_text",
            "D08",
            "warning",
            "the text has special tokens of a chat template",
            "give the turns as `messages`, so that the template of your model writes them; --model says if they are "
            "special for its tokenizer",
        ),
    )

    def see(self, row: CheckedRow) -> Iterator[Mark]:
        """Mark a row whose prompt or responses have special tokens as text."""
        known = row.encoded is not None
        if known and row.turns:
            found = next((s for s in sorted(row.specials) if s in row.prompt), None)
            if found is not None:
                yield Mark("special_in_text", excerpt(found))
            return
        if known:
            return  # plain text may hold them on purpose, and a token inside a response is `end_inside`
        for text in (row.prompt, *row.responses):
            if ("<" in text or "[" in text) and (match := KNOWN_SPECIALS.search(text)):
                yield Mark("template_in_text", excerpt(match[0]))
                return


UNUSUAL = {
    "replacement_character": (
        re.compile("\ufffd"),
        "the text has the replacement character U+FFFD: an earlier program lost what stood there",
        "make the text again from its source, with the right encoding",
    ),
    "bidi_control": (
        re.compile("[\u202a-\u202e\u2066-\u2069]"),
        "the text has characters that change its direction, so it reads in another order than it is stored",
        "remove U+202A to U+202E and U+2066 to U+2069, unless they are meant",
    ),
    "zero_width": (
        re.compile("[\u200b\u2060\ufeff\u00ad]"),
        "the text has characters without width, which change its tokens and cannot be seen",
        "remove U+200B, U+2060, U+FEFF and U+00AD",
    ),
    "control_character": (
        re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"),
        "the text has control characters",
        "remove them; those from U+0080 to U+009F show that the text was read with a wrong encoding",
    ),
    "mixed_scripts": (
        re.compile("[A-Za-z][\u0400-\u04ff]|[\u0400-\u04ff][A-Za-z]"),
        "Latin and Cyrillic letters stand in one word, as with letters that only look alike",
        "write the word with letters of one script",
    ),
}
"""Rule → what it looks for, cause and fix."""


class Characters(Check):
    """D15: characters that are seldom meant."""

    rules = tuple(Rule(key, "D15", "warning", cause, fix) for key, (_, cause, fix) in UNUSUAL.items())

    def see(self, row: CheckedRow) -> Iterator[Mark]:
        """Mark each kind of character once per row."""
        texts = [("prompt", row.prompt), *((row.name(k), text) for k, text in enumerate(row.responses))]
        for key, (pattern, _, _) in UNUSUAL.items():
            for name, text in texts:
                if (key == "control_character" or not text.isascii()) and (match := pattern.search(text)):
                    yield Mark(key, f"{name}, character {match.start()}: {match[0]!a}")
                    break


CHECKS = (EmptyPrompts, RepeatedPrompts, EqualResponses, Turns, SpecialTokens, Characters)
