"""Data of other trainers: LLaMA-Factory (Alpaca, ShareGPT), axolotl, OpenRLHF, and OpenAI's fine-tuning."""

from collections.abc import Callable, Mapping
from typing import Any

from tiltlm.data.rows import cells
from tiltlm.data.rows.formats.format import (
    Format,
    Values,
    as_messages,
    extras,
    mapping,
    one_message,
    required,
    whole,
    without,
)

SCORES = frozenset({"score_chosen", "score_rejected"})


def _read_history(values: Values) -> Values:
    """Put the earlier turns of an Alpaca row, pairs of an instruction and its answer, before the prompt."""
    rest, history = without(values, "history"), values.get("history")
    if history is None or history == "" or rest.get("prompt") is None:
        return rest
    turns: list[dict[str, str]] = []
    for item in cells.items("history", history):
        asked, answered = cells.items("history", item, 2)
        turns.append({"role": "user", "content": cells.text("history", asked)})
        turns.append({"role": "assistant", "content": cells.text("history", answered)})
    if not turns:
        return rest
    return {**rest, "prompt": [*turns, {"role": "user", "content": cells.text("prompt", rest["prompt"])}]}


def _alpaca(answers: Mapping[str, str]) -> Callable[[Values], Values]:
    """Return what writes a row of Alpaca. Earlier turns are its history.

    Args:
        answers: Role → column of what the row has beside its prompt.
    """

    def write(values: Values) -> Values:
        prompt, history = values["prompt"], []
        if not isinstance(prompt, str):
            *earlier, last = prompt
            texts = [turn["content"] for turn in earlier]
            prompt, history = last["content"], [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
        row = {"instruction": prompt, "input": "", **{column: values[role] for role, column in answers.items()}}
        return {**row, **({"history": history} if history else {}), **extras(values, ("system",))}

    return write


SHAREGPT = {"user": "human", "assistant": "gpt", "tool": "observation"}


def _sharegpt_turn(message: Mapping[str, Any]) -> dict[str, Any]:
    return {"from": SHAREGPT.get(message["role"], message["role"]), "value": message["content"]}


def _write_sharegpt_pairs(values: Values) -> Values:
    answers = {role: _sharegpt_turn(one_message(values[role])) for role in ("chosen", "rejected")}
    return {"conversations": [_sharegpt_turn(m) for m in values["prompt"]], **answers, **_sharegpt_extras(values)}


def _write_sharegpt(values: Values) -> Values:
    turns = [_sharegpt_turn(m) for m in whole(values["prompt"], as_messages(values["completion"]))]
    tag = {"kto_tag": values["label"]} if "label" in values else {}
    return {"conversations": turns, **tag, **_sharegpt_extras(values)}


def _sharegpt_extras(values: Values) -> Values:
    return extras(values, ("tools",))


def _read_axolotl(values: Values) -> Values:
    """Read axolotl's chat_template.default: `messages` is the prompt, unless it repeats the chosen conversation."""
    rest, messages = without(values, "messages"), values.get("messages")
    return rest if messages is None or messages == values.get("chosen") else {**rest, "prompt": messages}


def _write_axolotl(values: Values) -> Values:
    answers = {role: one_message(values[role]) for role in ("chosen", "rejected")}
    return {"messages": values["prompt"], **answers, **extras(values)}


def _renamed(columns: Mapping[str, str]) -> Callable[[Values], Values]:
    """Return what writes text under other names.

    Args:
        columns: Role → column.
    """

    def write(values: Values) -> Values:
        return {**{column: values.get(role, "") for role, column in columns.items()}, **extras(values)}

    return write


def _write_openrlhf(values: Values) -> Values:
    both = {role: whole(values["prompt"], as_messages(values[role])) for role in ("chosen", "rejected")}
    names = {"score_chosen": "chosen_score", "score_rejected": "rejected_score"}
    scores = {column: values[role] for role, column in names.items() if role in values}
    return {**both, **scores, **extras(values)}


OPENAI = frozenset(
    {"input", *(f"{which}_{what}" for which in ("preferred", "non_preferred") for what in ("output", "completion"))}
)
"""Columns of OpenAI's data. The guide speaks of outputs, the reference of completions."""


def _read_openai(values: Values) -> Values:
    """Read OpenAI's preference data: the input has messages and tools, and each output is a list of messages."""
    given = mapping("input", required("input", values))
    read = {
        "prompt": required("input", given, "messages"),
        "chosen": values.get("preferred_output", values.get("preferred_completion")),
        "rejected": values.get("non_preferred_output", values.get("non_preferred_completion")),
    }
    tools = {"tools": given["tools"]} if given.get("tools") else {}
    rest = {role: value for role, value in values.items() if role not in OPENAI}
    return {**rest, **read, **tools}


def _write_openai(values: Values) -> Values:
    tools = {"tools": values["tools"]} if values.get("tools") else {}
    outputs = {
        "preferred_output": as_messages(values["chosen"]),
        "non_preferred_output": as_messages(values["rejected"]),
    }
    return {"input": {"messages": values["prompt"], **tools}, **outputs, **extras(values)}


TRAINERS = (
    Format(
        "openai",
        "OpenAI's preference fine-tuning",
        frozenset({"input", "preferred_output", "non_preferred_output"}),
        takes=OPENAI,
        adds=frozenset({"prompt", "chosen", "rejected", "tools"}),
        reader=_read_openai,
        writers={"pairs": _write_openai},
        holds=frozenset({"id", "source", "tools"}),
        form="turns",
        keeps_turn_keys=True,
    ),
    Format(
        "openai",
        "OpenAI's preference fine-tuning, as its reference names the columns",
        frozenset({"input", "preferred_completion", "non_preferred_completion"}),
        takes=OPENAI,
        adds=frozenset({"prompt", "chosen", "rejected", "tools"}),
        reader=_read_openai,
    ),
    Format(
        "sharegpt",
        "ShareGPT, as LLaMA-Factory reads it: conversations, with chosen and rejected or kto_tag",
        frozenset({"conversations", "chosen", "rejected"}),
        roles={"conversations": "prompt"},
        writers={"pairs": _write_sharegpt_pairs, "unpaired": _write_sharegpt, "demonstrations": _write_sharegpt},
        holds=frozenset({"id", "source", "tools"}),
        form="turns",
    ),
    Format("sharegpt", "ShareGPT's conversations", frozenset({"conversations"})),
    Format(
        "axolotl",
        "axolotl's chat_template.default: messages, chosen, rejected",
        frozenset({"messages", "chosen", "rejected"}),
        absent=frozenset({"prompt", "question", "instruction", "query"}),
        takes=frozenset({"messages"}),
        adds=frozenset({"prompt"}),
        reader=_read_axolotl,
        writers={"pairs": _write_axolotl},
        form="turns",
    ),
    Format(
        "axolotl-intel",
        "axolotl's chatml.intel: system, question, chosen, rejected",
        frozenset({"system", "question", "chosen", "rejected"}),
        writers={
            "pairs": _renamed({"system": "system", "prompt": "question", "chosen": "chosen", "rejected": "rejected"})
        },
        holds=frozenset({"id", "source", "system"}),
        form="text",
    ),
    Format(
        "axolotl-icr",
        "axolotl's chatml.icr: system, input, chosen, rejected",
        frozenset({"system", "input", "chosen", "rejected"}),
        absent=frozenset({"prompt", "question", "instruction", "query"}),
        roles={"input": "prompt"},
        writers={
            "pairs": _renamed({"system": "system", "prompt": "input", "chosen": "chosen", "rejected": "rejected"})
        },
        holds=frozenset({"id", "source", "system"}),
        form="text",
    ),
    Format(
        "alpaca",
        "Alpaca: an instruction and its input, with the row in a template",
        frozenset({"instruction", "input", "output", "text"}),
        roles={"input": "prompt_input"},
        remarks=frozenset({"text"}),
    ),
    Format(
        "alpaca",
        "Alpaca, as LLaMA-Factory reads it: an instruction and its input, with output or chosen and rejected",
        frozenset({"instruction", "input"}),
        roles={"input": "prompt_input"},
        takes=frozenset({"history"}),
        reader=_read_history,
        writers={
            "pairs": _alpaca({"chosen": "chosen", "rejected": "rejected"}),
            "unpaired": _alpaca({"completion": "output", "label": "kto_tag"}),
            "demonstrations": _alpaca({"completion": "output"}),
        },
        holds=frozenset({"id", "source", "system"}),
        form="history",
    ),
    Format(
        "openrlhf",
        "OpenRLHF: chosen and rejected conversations, with scores",
        frozenset({"chosen", "rejected", "chosen_score", "rejected_score"}),
        absent=frozenset({"prompt", "question", "instruction", "query"}),
        writers={"pairs": _write_openrlhf},
        holds=frozenset({"id", "source"}) | SCORES,
        form="turns",
        is_implicit=True,
        keeps_turn_keys=True,
    ),
)
