"""Labels as pairs that training reads: one row an item, and what is known of it beside the label."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tiltlm.data.labels.rules import Labels
from tiltlm.data.labels.votes import NO_CHOICE, TIE, A, B, VotedItem, Votes


def label_rows(votes: Votes, labels: Labels) -> list[dict[str, Any]]:
    """Return the pairs that get a label, sorted by id. The answer that the label prefers is chosen.

    Each row has `metadata`: the number of votes of each kind, and what a labelling project knows of the pair. Training
    notes that column and does not use it.
    """
    counts = votes.counts().astype(int)
    bad = votes.counts(votes.is_bad.astype(np.float64)).astype(int)[:, TIE]
    rows = []
    for k, item in enumerate(votes.items):
        p = float(labels.p[k])
        if np.isnan(p):
            continue
        first, second = (A, B) if p >= 0.5 else (B, A)
        answers = (item.a, item.b)
        kinds = {"chosen": counts[k, first], "rejected": counts[k, second], "tie": counts[k, TIE], "both_bad": bad[k]}
        texts = {"system": item.system, "prompt": item.prompt, "chosen": answers[first], "rejected": answers[second]}
        rows.append(
            {
                "id": item.id,
                **{name: _plain(text) for name, text in texts.items() if text not in (None, "") or name == "chosen"},
                "preference": max(p, 1 - p),
                **({"source": item.source} if item.source else {}),
                "metadata": {"votes": {name: int(n) for name, n in kinds.items()}, **_facts(item, first)},
            }
        )
    return rows


def _facts(item: VotedItem, first: int) -> dict[str, Any]:
    """Return what is known of an item, by chosen and rejected; `first` is the chosen answer, `A` or `B`."""
    found: dict[str, Any] = {}
    if item.decision != NO_CHOICE:
        found["adjudicated"] = True
    if item.facts is None:
        return found

    def by_role(of_answers: tuple[Any, Any]) -> dict[str, Any]:
        both = {"chosen": of_answers[first], "rejected": of_answers[1 - first]}
        return {role: value for role, value in both.items() if value}

    facts = item.facts
    if any(facts.models):
        found["models"] = by_role(facts.models)
    if any(facts.sampling):
        found["sampling"] = by_role((dict(facts.sampling[A]), dict(facts.sampling[B])))
    if any(facts.strengths):
        found["strength"] = by_role((list(facts.strengths[A]), list(facts.strengths[B])))
    if facts.guidelines:
        found["guidelines"] = list(facts.guidelines)
    return found


def _plain(content: Any) -> Any:
    return list(content) if isinstance(content, tuple) else content


def vote_rows(votes: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a vote from rows of a project's view `vote_row`, in the form that `tiltlm agreement` reads.

    A repeat stands before the vote that it repeats: of two votes of one annotator on one item, the last one counts.
    """
    rows = []
    for row in sorted(votes, key=lambda row: (row["pair_key"], row["annotator"], not row["is_repeat"])):
        content = {name: json.loads(row[name]) for name in ("prompt", "system", "a", "b")}
        rows.append(
            {
                "id": row["pair_key"],
                **({"system": content["system"]} if content["system"] else {}),
                "prompt": content["prompt"],
                "answer_a": content["a"],
                "answer_b": content["b"],
                **({"source": row["source"]} if row["source"] else {}),
                "annotator": row["annotator"],
                "vote": row["choice"],
                "left": row["left"],
                "is_repeat": bool(row["is_repeat"]),
                **{name: row[name] for name in FURTHER},
                "models": {"a": row["model_a"], "b": row["model_b"]},
            }
        )
    return rows


FURTHER = ("strength", "reason", "note", "dwell_ms", "server_time", "guideline_version", "ui_version", "is_random")
"""Columns of a vote that are written as they are."""
