"""Turn rows into records: a prompt and its responses as text, turns or token ids, with labels, ranks or scores.

A record is the last form before tokens; `tiltlm.data.tokens.length_limit` turns it into an `Example`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Literal

from tiltlm.core.example import Comparison
from tiltlm.data.accounting import Defect, excerpt
from tiltlm.data.files.text_files import Row
from tiltlm.data.rows import cells
from tiltlm.data.rows.cells import Content, TokenContent
from tiltlm.data.rows.columns import ColumnRoles
from tiltlm.data.rows.pretokenised import read_tokens
from tiltlm.data.rows.prompts import (
    INSTRUCTIONS,
    is_blank,
    join,
    move_shared_turns,
    split_conversation,
    split_pair,
    split_transcript,
    whole_conversation,
    wrapped,
)

Form = Literal["text", "turns", "tokens"]


@dataclass(frozen=True)
class Record:
    """One checked row. Fields have the meaning they have in `tiltlm.core.example.Example`."""

    location: str
    id: str
    prompt: Content
    """Text, turns or token ids; empty if the row has no prompt."""
    responses: tuple[Content, ...]
    """All in the same form as the prompt."""
    comparisons: tuple[Comparison, ...] = ()
    labels: tuple[bool, ...] = ()
    ranks: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    ref_logps: tuple[float, ...] = ()
    """Reference log-probability of each response, summed, in nats."""
    weight: float = 1.0
    system: str = ""
    """Text of the system turn that the prompt gets when text is wrapped as turns."""
    tools: tuple[dict[str, Any], ...] = ()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    entry: int = 0
    """`Row.entry` of its row."""
    changes: tuple[str, ...] = ()
    """Keys of `tiltlm.data.accounting.CHANGES`."""

    @property
    def form(self) -> Form:
        """The form of the prompt and the responses."""
        if isinstance(self.prompt, TokenContent):
            return "tokens"
        return "text" if isinstance(self.prompt, str) else "turns"

    def as_chat(self) -> "Record":
        """Return a record of text as turns: the prompt becomes the user's, each response the assistant's."""
        assert isinstance(self.prompt, str)
        prompt, responses = wrapped(self.prompt, [str(response) for response in self.responses], self.system)
        return replace(self, prompt=prompt, responses=responses, system="")

    @property
    def prompt_key(self) -> str:
        """A key of the prompt, or of the responses if there is none. Rows with equal keys are held out together."""
        if isinstance(self.prompt, TokenContent):
            return json.dumps(self.prompt.ids)
        if self.prompt:
            return self.prompt if isinstance(self.prompt, str) else json.dumps(self.prompt, sort_keys=True, default=str)
        return json.dumps(self.responses, sort_keys=True, default=str)


def to_record(row: Row, schema: ColumnRoles, *, every_turn: bool = False) -> Record:
    """Check a row and read it by the roles of its columns.

    Args:
        row: A row of a file.
        schema: Shape and roles of the data.
        every_turn: Split demonstrations before their first assistant turn, so that all of them are learned.

    Raises:
        Defect: The row cannot be used.
    """
    if row.defect:
        raise row.defect
    values = schema.values(row.values)
    if values.get("prompt", "") is None:  # a missing column is allowed: the prompt may be part of the responses
        raise Defect("missing_value", "prompt is null")
    values = {role: value for role, value in values.items() if value is not None}
    if schema.is_tokenised:
        values = read_tokens(values)
    read = {"pairs": _pair, "unpaired": _unpaired, "lists": _list, "demonstrations": _demonstration}[schema.shape]
    record = read(values, {"location": row.location, **_common(row, values)}, every_turn)
    for k, response in enumerate(record.responses):
        if is_blank(response):
            raise Defect("empty_response", f"{_name(schema, k)} is {excerpt(response)}")
    return _with_system(record)


def to_prompt(row: Row, schema: ColumnRoles) -> Record:
    """Read the prompt of a row as a record without responses.

    Args:
        row: A row of a file.
        schema: What `detect_prompts` found.

    Raises:
        Defect: The row has no prompt that can be read.
    """
    if row.defect:
        raise row.defect
    values = {role: value for role, value in schema.values(row.values).items() if value is not None}
    common = {"location": row.location, **_common(row, values)}
    if "prompt_ids" in values:
        return Record(prompt=read_tokens(values)["prompt"], responses=(), **common)
    if "messages" in values and "prompt" not in values:
        turns = cells.content("messages", values["messages"])
        if isinstance(turns, tuple) and turns and turns[-1]["role"] != "assistant":
            return _with_system(Record(prompt=turns, responses=(), **common))
    try:  # responses may hold the prompt, or turns of it
        read = _pair if "chosen" in schema.roles else _demonstration
        record = replace(read(values, common, False), responses=(), comparisons=())
    except Defect:
        if "prompt" not in values:
            raise
        record = Record(prompt=_prompt(values), responses=(), **common)
    if not record.prompt or (isinstance(record.prompt, str) and not record.prompt.strip()):
        raise Defect("missing_value", "the prompt is empty")
    return _with_system(record)


def _with_system(record: Record) -> Record:
    """Return a conversation with the text of the column `system` as its first turn. Text keeps it in `system`."""
    if not record.system or not isinstance(record.prompt, tuple):
        return record
    turn = {"role": "system", "content": record.system}
    if record.prompt and record.prompt[0]["role"] in INSTRUCTIONS:
        if record.prompt[0]["content"].strip() != record.system:
            raise Defect("wrong_type", "the column `system` and the conversation have different system turns")
        return replace(record, system="")
    return replace(record, prompt=(turn, *record.prompt), system="")


def _name(schema: ColumnRoles, k: int) -> str:
    return ("chosen", "rejected")[k] if schema.shape == "pairs" else f"response {k}"


def _common(row: Row, values: Mapping[str, Any]) -> dict[str, Any]:
    tools = cells.structure("tools", values.get("tools", []), list)
    return {
        "id": str(values.get("id", row.location)),
        "weight": cells.at_least_zero("weight", values["weight"]) if _given(values, "weight") else 1.0,
        "entry": row.entry,
        "source": row.source or str(values.get("source") or row.origin),
        "system": cells.text("system", values.get("system", "")).strip(),
        "tools": tuple(tools),
        "template_kwargs": cells.structure("chat_template_kwargs", values.get("chat_template_kwargs", {}), dict),
    }


def _given(values: Mapping[str, Any], role: str) -> bool:
    """Return True if the row has this value. An empty CSV cell is no value."""
    return role in values and values[role] != ""


def _required(values: Mapping[str, Any], role: str) -> Any:
    if role not in values:
        raise Defect("missing_value", f"{role} is missing")
    return values[role]


def _response(values: Mapping[str, Any], role: str) -> Content:
    if role not in values:
        raise Defect("empty_response", f"{role} is null or missing")
    return cells.content(role, values[role])


def _prompt(values: Mapping[str, Any]) -> Content:
    return cells.content("prompt", _required(values, "prompt"))


def _pair(values: Mapping[str, Any], common: dict[str, Any], _: bool) -> Record:
    chosen, rejected = _response(values, "chosen"), _response(values, "rejected")
    if chosen == rejected:
        raise Defect("identical_responses", excerpt(chosen))
    wholes = _wholes(values, (chosen, rejected))
    if wholes:
        prompt, *responses = split_pair(wholes[0], wholes[1])
    else:
        prompt, *responses = _answers(_prompt(values), ("chosen", "rejected"), (chosen, rejected))
    comparison = Comparison(
        0,
        1,
        preference=_preference(values),
        offset=cells.number("offset", values["offset"]) if _given(values, "offset") else 0.0,
    )
    return Record(
        prompt=prompt,
        responses=tuple(responses),
        comparisons=(comparison,),
        scores=_both(values, "score_chosen", "score_rejected"),
        ref_logps=_both(values, "ref_chosen_logps", "ref_rejected_logps"),
        **common,
    )


def _wholes(values: Mapping[str, Any], responses: Sequence[Content]) -> list[Content]:
    """Return the responses with their prompts if all are whole conversations, which repeat it; else an empty list."""
    if "prompt" not in values:
        return list(responses)
    prompt = _prompt(values)
    wholes = [whole_conversation(prompt, response) for response in responses]
    return [whole for whole in wholes if whole is not None] if None not in wholes else []


def _answers(prompt: Content, names: Sequence[str], responses: Sequence[Content]) -> tuple[Content, ...]:
    """Return a prompt, then its responses in the same form. Turns that all responses share are in the prompt."""
    prompts, answers = zip(*(join(prompt, response) for response in responses), strict=True)
    if len({type(p) for p in prompts}) > 1:
        raise Defect("wrong_type", f"some of {', '.join(names)} are text, others are conversations")
    if any(p != prompts[0] for p in prompts):
        raise Defect("no_common_prompt", f"the prompts of {', '.join(names)} differ")
    return move_shared_turns(prompts[0], answers)


def _both(values: Mapping[str, Any], chosen: str, rejected: str) -> tuple[float, ...]:
    if not _given(values, chosen) and not _given(values, rejected):
        return ()
    return tuple(cells.number(role, _required(values, role)) for role in (chosen, rejected))


def _preference(values: Mapping[str, Any]) -> float:
    """Return the soft label p = P(chosen ≻ rejected). For votes [a, b] it is a / (a + b)."""
    if _given(values, "votes"):
        if _given(values, "preference"):
            raise Defect("wrong_type", "both preference and votes are given; give one of them")
        a, b = (cells.at_least_zero("votes", v) for v in cells.items("votes", values["votes"], 2))
        if a + b == 0:
            raise cells.wrong_type("votes", values["votes"], "two numbers with a sum above 0")
        return a / (a + b)
    return cells.probability("preference", values["preference"]) if _given(values, "preference") else 1.0


def _unpaired(values: Mapping[str, Any], common: dict[str, Any], _: bool) -> Record:
    prompt, response = _prompt_and_response(values)
    ref = (cells.number("ref_logps", values["ref_logps"]),) if _given(values, "ref_logps") else ()
    label = cells.label("label", _required(values, "label"))
    changes = ("minus_one",) * str(values["label"]).strip().startswith("-")
    return Record(prompt=prompt, responses=(response,), labels=(label,), ref_logps=ref, changes=changes, **common)


def _demonstration(values: Mapping[str, Any], common: dict[str, Any], every_turn: bool) -> Record:
    if "text" in values and "prompt" not in values:
        whole = cells.content("text", values["text"])
        if isinstance(whole, str):
            return Record(prompt="", responses=(whole,), **common)
        values = {**values, "messages": whole}
    prompt, response = _prompt_and_response(values)
    if every_turn and isinstance(prompt, tuple) and isinstance(response, tuple):
        prompt, response = split_conversation(prompt + response, first=True)
    return Record(prompt=prompt, responses=(response,), **common)


def _prompt_and_response(values: Mapping[str, Any]) -> tuple[Content, Content]:
    """Read one response and its prompt from `prompt` and `completion`, `messages`, or a transcript in `completion`."""
    role = "messages" if "messages" in values else "completion"
    response = _response(values, role)
    if not (wholes := _wholes(values, [response])):
        return join(_prompt(values), response)
    (response,) = wholes
    assert not isinstance(response, TokenContent), "token ids have a column of prompts"
    if isinstance(response, str):
        return split_transcript(response)
    return split_conversation(response)


def _list(values: Mapping[str, Any], common: dict[str, Any], _: bool) -> Record:
    completions = [cells.content("completions", completion) for completion in _completions(values)]
    prompt, *responses = _answers(_prompt(values), ["completions"], completions)
    k = len(responses)
    ranks = tuple(_rank(r) for r in cells.each(values, "ranks", k))
    scores = tuple(cells.number("scores", s) for s in cells.each(values, "scores", k))
    comparisons = _explicit(values["comparisons"], k) if "comparisons" in values else implied_comparisons(ranks, scores)
    distinct = tuple(c for c in comparisons if responses[c.chosen] != responses[c.rejected])
    changes = ["identical_comparison"] * (len(distinct) < len(comparisons))
    if (ranks or scores) and len(comparisons) < k * (k - 1) // 2:
        changes.append("tie")
    if not (ranks or scores or comparisons):
        raise Defect("missing_value", "the row has no ranks, scores or comparisons")
    ref = tuple(cells.number("ref_logps", r) for r in cells.each(values, "ref_logps", k))
    return Record(
        prompt=prompt,
        responses=tuple(responses),
        comparisons=distinct,
        ranks=ranks,
        scores=scores,
        ref_logps=ref,
        changes=tuple(changes),
        **common,
    )


def _completions(values: Mapping[str, Any]) -> list[Any]:
    completions = cells.items("completions", _required(values, "completions"))
    if not completions or any(c is None for c in completions):
        raise Defect("empty_response", f"completions is {excerpt(completions)}")
    return completions


def _rank(value: object) -> int:
    rank = cells.number("ranks", value)
    if rank != int(rank):
        raise cells.wrong_type("ranks", value, "a whole number, where 1 is best")
    return int(rank)


def _explicit(value: object, k: int) -> tuple[Comparison, ...]:
    """Read `[[winner, loser], …]` or `[[winner, loser, weight], …]`; both are positions in `completions`."""
    comparisons = []
    for item in cells.items("comparisons", value):
        entry = cells.items("comparisons", item)
        if len(entry) not in (2, 3):
            raise cells.wrong_type("comparisons", item, "[winner, loser] or [winner, loser, weight]")
        winner, loser = (cells.number("comparisons", index) for index in entry[:2])
        if winner == loser or {winner, loser} - set(range(k)):
            raise cells.wrong_type("comparisons", item, f"a pair of different positions from 0 to {k - 1}")
        weight = cells.at_least_zero("comparisons", entry[2]) if len(entry) == 3 else 1.0
        if weight > 0:
            comparisons.append(Comparison(int(winner), int(loser), weight=weight))
    return tuple(comparisons)


def implied_comparisons(ranks: tuple[int, ...], scores: tuple[float, ...]) -> tuple[Comparison, ...]:
    """Compare all responses of different rank or score two by two, with equal weight. Ties give no comparison."""
    values = scores or tuple(-r for r in ranks)
    ordered = [(i, j) if values[i] > values[j] else (j, i) for i, j in combinations(range(len(values)), 2)]
    return tuple(Comparison(i, j) for i, j in ordered if values[i] != values[j])
