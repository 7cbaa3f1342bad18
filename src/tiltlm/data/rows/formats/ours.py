"""Formats whose columns have our names: our own, TRL's, Anthropic's transcripts, UltraFeedback in pairs."""

import hashlib
from typing import Any

from tiltlm.core.needs import Shape
from tiltlm.data.rows.formats.format import Format, Values, Writer, as_messages, extras, whole

JUDGED = frozenset({"id", "source", "scores", "ranks", "comparisons"})

ANY_SHAPE: tuple[Shape, ...] = ("pairs", "unpaired", "lists", "demonstrations")
RESPONSES = ("prompt", "chosen", "rejected", "completion", "completions", "label")
"""Roles of prompt and responses, in the order in which they are written."""
TRL_COLUMNS = frozenset({"id", "source", "tools", "chat_template_kwargs", "score_chosen", "score_rejected"})
"""What TRL's columns have room for, beside prompt and responses. TRL reads no scores, but they stand in its data."""
ALL_COLUMNS = frozenset(
    {
        *("id", "source", "weight", "system", "tools", "chat_template_kwargs", "score_chosen", "score_rejected"),
        *("offset", "preference", "ranks", "scores", "comparisons", "ref_chosen_logps", "ref_rejected_logps"),
        *("ref_logps", "tokens"),
    }
)


def _in_order(values: Values) -> Values:
    """Return the values with prompt and responses first."""
    return {**{role: values[role] for role in RESPONSES if role in values}, **values}


def _implicit(values: Values) -> Values:
    """Write a pair as two whole texts or conversations."""
    both = {role: whole(values["prompt"], values[role]) for role in ("chosen", "rejected")}
    return {**both, **{role: value for role, value in values.items() if role not in ("prompt", *both)}}


def _messages(values: Values) -> Values:
    """Write a prompt with its response as one conversation."""
    turns = whole(values["prompt"], as_messages(values["completion"]))
    return {"messages": turns, **{r: v for r, v in values.items() if r not in ("prompt", "completion")}}


def _ultrafeedback_binarized(values: Values) -> Values:
    """Write whole conversations beside the text of the first question, with its digest, as the hub has it."""
    question = _first_question(values["prompt"])
    both = {role: whole(values["prompt"], values[role]) for role in ("chosen", "rejected")}
    row: Values = {
        "prompt": question,
        "prompt_id": hashlib.sha256(question.encode("utf-8", "surrogatepass")).hexdigest(),
    }
    scores: Values = {role: values[role] for role in ("score_chosen", "score_rejected") if role in values}
    return {**row, **both, "messages": both["chosen"], **scores, **extras(values)}


def _first_question(prompt: list[dict[str, Any]]) -> str:
    """Return the text of the first question. Readers compare it with the conversation."""
    return next((str(turn["content"]) for turn in prompt if turn["role"] == "user"), "")


def _winner_loser(values: Values) -> Values:
    return {"prompt": values["prompt"], "winner": values["chosen"], "loser": values["rejected"], **extras(values)}


def _each(write: Writer, *shapes: Shape) -> dict[Shape, Writer]:
    return dict.fromkeys(shapes, write)


SAMPLED = (
    Format(
        "answers-of-tiltlm",
        "answers that tiltlm sampled, with token ids",
        frozenset({"prompt_ids", "completions_ids", "completions_ended", "engine", "untruncated"}),
        roles={"completions_ended": "ended"},
        only=JUDGED | {"prompt_ids", "completions_ids"},
    ),
    Format(
        "answers-of-tiltlm",
        "answers that tiltlm sampled",
        frozenset({"prompt", "completions", "engine", "untruncated"}),
        only=JUDGED | {"prompt", "completions", "system", "tools", "chat_template_kwargs"},
    ),
)

OURS = (
    Format("winner-loser", "the better and the worse response", frozenset({"winner", "loser"}),
           roles={"winner": "chosen", "loser": "rejected"}, writers=_each(_winner_loser, "pairs")),
    Format(
        "ultrafeedback-binarized",
        "UltraFeedback as the hub has it in pairs: conversations, messages and scores",
        frozenset({"prompt", "prompt_id", "chosen", "rejected", "messages"}),
        writers=_each(_ultrafeedback_binarized, "pairs"),
        holds=frozenset({"id", "source", "score_chosen", "score_rejected"}),
        form="turns",
        keeps_turn_keys=True,
    ),
    Format("tiltlm", "our own columns, of any shape", writers=_each(_in_order, *ANY_SHAPE), holds=ALL_COLUMNS,
           keeps_turn_keys=True),
    Format(
        "trl",
        "TRL with explicit prompts: pairs, unpaired rows, prompts with a completion",
        writers=_each(_in_order, "pairs", "unpaired", "demonstrations"),
        holds=TRL_COLUMNS,
        keeps_turn_keys=True,
    ),
    Format(
        "trl-chat",
        "the same as conversations",
        writers=_each(_in_order, "pairs", "unpaired", "demonstrations"),
        holds=TRL_COLUMNS,
        form="turns",
        keeps_turn_keys=True,
    ),
    Format(
        "trl-implicit",
        "TRL with the prompt inside chosen and rejected",
        writers=_each(_implicit, "pairs"),
        holds=TRL_COLUMNS,
        form="whole",
        is_implicit=True,
        keeps_turn_keys=True,
    ),
    Format("kto", "TRL's unpaired rows: prompt, completion, label", writers=_each(_in_order, "unpaired"),
           holds=TRL_COLUMNS, keeps_turn_keys=True),
    Format("prompt-completion", "TRL's prompts with a completion", writers=_each(_in_order, "demonstrations"),
           holds=TRL_COLUMNS, keeps_turn_keys=True),
    Format("messages", "conversations in one column, with or without label",
           writers=_each(_messages, "unpaired", "demonstrations"), holds=TRL_COLUMNS, form="turns",
           is_implicit=True, keeps_turn_keys=True),
    Format("hh", "Anthropic's transcripts: chosen and rejected", writers=_each(_implicit, "pairs"), form="transcript",
           is_implicit=True),
    Format("hh-messages", "Anthropic's transcripts as messages: chosen and rejected", writers=_each(_implicit, "pairs"),
           holds=TRL_COLUMNS, form="turns", is_implicit=True, keeps_turn_keys=True),
)  # fmt: skip
