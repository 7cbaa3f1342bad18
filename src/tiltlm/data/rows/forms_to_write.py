"""Bring a record into the form that a format needs: text, turns or a transcript."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from tiltlm.data.rows.cells import Content, Conversation
from tiltlm.data.rows.formats.format import Format
from tiltlm.data.rows.losses import Losses, count_loss
from tiltlm.data.rows.prompts import ASSISTANT, HUMAN, is_transcript
from tiltlm.data.rows.records import Record


def in_form(record: Record, form: Format, losses: Losses) -> Record | None:
    """Return the record in the form that the format needs; None if that is impossible, which is counted."""
    if record.form == "tokens":
        if "tokens" not in form.holds:
            count_loss(losses, "tokens", record.location)
            return None
        return record
    if not form.keeps_turn_keys and (other := _other_keys(record)):
        count_loss(losses, "turn_keys", record.location, other)
        return None
    changed = _FORMED[form.form](record, form)
    if isinstance(changed, str):
        count_loss(losses, changed, record.location)
        return None
    if form.is_implicit and not _can_be_split(changed):
        count_loss(losses, "turns", record.location)
        return None
    return changed


def _other_keys(record: Record) -> str:
    """Return the keys of turns beside role and content, as text."""
    turns = [turn for content in (record.prompt, *record.responses) if isinstance(content, tuple) for turn in content]
    return ", ".join(sorted({str(key) for turn in turns for key in turn} - {"role", "content"}))


def _can_be_split(record: Record) -> bool:
    """Return whether the end of the prompt can be found in whole conversations."""
    if isinstance(record.prompt, str):
        return is_transcript(record.prompt) and not any(
            HUMAN in str(r) or ASSISTANT in str(r) for r in record.responses
        )
    if not record.prompt:
        return False
    turns = [response for response in record.responses if isinstance(response, tuple)]
    if len(turns) == 1:
        return len(turns[0]) == 1
    return all(turn["role"] != "user" for response in turns for turn in response)


def _as_turns(record: Record, _form: Format) -> Record | str:
    """Return text as turns, and turns as they are."""
    if record.form == "turns":
        return record
    return record.as_chat() if str(record.prompt).strip() else "no_prompt"


def _as_whole(record: Record, form: Format) -> Record | str:
    return record if isinstance(record.prompt, str) and is_transcript(record.prompt) else _as_turns(record, form)


def _as_text(record: Record, form: Format) -> Record | str:
    """Return turns as text if they are one question with one answer; with `history`, earlier turns may stand before."""
    if not isinstance(record.prompt, tuple):
        return record
    system, asked = _without_system(record.prompt)
    roles = [turn["role"] for turn in asked]
    is_chat = bool(roles) and roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    answers = [response for response in record.responses if isinstance(response, tuple)]
    if not is_chat or any(len(answer) != 1 for answer in answers) or (len(roles) > 1 and form.form != "history"):
        return "turns"
    texts: tuple[Content, ...] = tuple(str(answer[0]["content"]) for answer in answers)
    prompt: Content = str(asked[0]["content"]) if len(roles) == 1 else asked
    return replace(record, prompt=prompt, responses=texts, system=system)


def _without_system(prompt: Conversation) -> tuple[str, Conversation]:
    """Return the text of the system turn, "" if there is none, and the other turns."""
    if prompt and prompt[0]["role"] == "system":
        return str(prompt[0]["content"]), prompt[1:]
    return "", prompt


def _as_transcript(record: Record, _form: Format) -> Record | str:
    """Return text and turns as a transcript. A transcript stays as it is."""
    if isinstance(record.prompt, str):
        if is_transcript(record.prompt):
            return record
        if not record.prompt.strip():
            return "no_prompt"
        turns: Conversation = ({"role": "user", "content": record.prompt},)
        texts = [str(response) for response in record.responses]
        system = record.system
    else:
        assert isinstance(record.prompt, tuple), "token ids are refused before"
        system, turns = _without_system(record.prompt)
        answers = [response for response in record.responses if isinstance(response, tuple)]
        if any(len(answer) != 1 for answer in answers):
            return "turns"
        texts = [str(answer[0]["content"]) for answer in answers]
    names = {"user": HUMAN, "assistant": ASSISTANT}
    roles = [turn["role"] for turn in turns]
    is_chat = roles[:1] == ["user"] and roles[-1:] == ["user"] and {*roles} <= names.keys()
    written = [str(turn["content"]) for turn in turns] + texts
    if not is_chat or any(mark in text for text in written for mark in names.values()):
        return "turns"
    prompt = "".join(names[turn["role"]] + _after_mark(turn["content"]) for turn in turns) + ASSISTANT
    return replace(record, prompt=prompt, responses=tuple(map(_after_mark, texts)), system=system)


def _after_mark(text: str) -> str:
    """Return text as it follows `ASSISTANT`: after white space."""
    return text if text[:1].isspace() else f" {text}"


def _unchanged(record: Record, _form: Format) -> Record | str:
    return record


_FORMED: Mapping[str, Callable[[Record, Format], Record | str]] = {
    "any": _unchanged,
    "turns": _as_turns,
    "whole": _as_whole,
    "text": _as_text,
    "history": _as_text,
    "transcript": _as_transcript,
}
"""Form that a format needs → the function that returns a record in it, or the cause why there is none."""
