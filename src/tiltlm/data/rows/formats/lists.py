"""Lists of responses with ranks, scores or ratings: Nectar, NeMo, UltraFeedback, distilabel, HelpSteer."""

from collections.abc import Mapping
from typing import Any

from tiltlm.data.accounting import Defect
from tiltlm.data.rows import cells
from tiltlm.data.rows.formats.format import (
    Format,
    Values,
    as_messages,
    extras,
    mapping,
    mappings,
    required,
    without,
)

HELPSTEER_COLUMNS = frozenset({"prompt", "response", "helpfulness"})
"""Columns of HelpSteer and HelpSteer2. Of the five attributes of a response, helpfulness is the score."""


def _read_nectar(values: Values) -> Values:
    """Read Nectar's answers, each with its rank, as `completions` and `ranks`."""
    answers = cells.items("answers", values.get("completions"))
    for answer in answers:
        if not isinstance(answer, Mapping) or not {"answer", "rank"} <= answer.keys():
            raise cells.wrong_type("answers", answer, "an answer with its rank: {answer: ..., rank: ...}")
    texts, ranks = [answer["answer"] for answer in answers], [answer["rank"] for answer in answers]
    source = values.get("source")
    named = {"source": ", ".join(map(str, source))} if isinstance(source, list) else {}
    return {**values, **named, "completions": texts, "ranks": ranks}


def _write_nectar(values: Values) -> Values:
    answers = [{"answer": c, "rank": r} for c, r in zip(values["completions"], values["ranks"], strict=True)]
    counts = {"num_responses": len(answers), "turns": values["prompt"].count("\n\nHuman:")}
    return {"prompt": values["prompt"], "answers": answers, **counts, **extras(values)}


def _read_nemo(values: Values) -> Values:
    """Read NeMo's completions, each with its rank, where the lowest rank is best."""
    ranked = mappings("completions", required("completions", values))
    read = {
        "prompt": values.get("context"),
        "completions": [item.get("completion") for item in ranked],
        "ranks": [item.get("rank") for item in ranked],
    }
    return {**without(values, "context", "completions"), **read}


def _write_nemo(values: Values) -> Values:
    ranked = [
        {"rank": rank - 1, "completion": as_messages(completion)}
        for rank, completion in zip(values["ranks"], values["completions"], strict=True)
    ]
    return {"context": values["prompt"], "completions": ranked, **extras(values)}


def _read_ultrafeedback(values: Values) -> Values:
    """Read UltraFeedback's completions. The score of one is its `overall_score`, else the mean of its ratings."""
    completions = mappings("completions", required("completions", values))
    read = {
        "prompt": values.get("instruction"),
        "completions": [completion.get("response") for completion in completions],
        "scores": [_overall_score(completion) for completion in completions],
    }
    return {**without(values, "instruction", "models", "correct_answers", "incorrect_answers"), **read}


def _overall_score(completion: Mapping[str, Any]) -> float:
    if completion.get("overall_score") is not None:
        return cells.number("overall_score", completion["overall_score"])
    annotations = mapping("annotations", required("completions", completion, "annotations"))
    ratings = [mapping(f"annotations.{name}", value).get("Rating") for name, value in annotations.items()]
    known = [cells.number("Rating", rating) for rating in ratings if rating not in (None, "N/A")]
    if not known:
        raise Defect("missing_value", "a completion has neither overall_score nor ratings")
    return sum(known) / len(known)


def _write_ultrafeedback(values: Values) -> Values:
    completions = [
        {"response": completion, "overall_score": score}
        for completion, score in zip(values["completions"], values["scores"], strict=True)
    ]
    return {"instruction": values["prompt"], "models": [], "completions": completions, **extras(values)}


def _write_distilabel(values: Values) -> Values:
    row = {"instruction": values["prompt"], "generations": values["completions"], "ratings": values["scores"]}
    system = {"system_prompt": values["system"]} if "system" in values else {}
    return {**row, **system, **extras(values)}


def _write_helpsteer(values: Values) -> Values:
    """Return a row whose response and helpfulness are lists; each response becomes a row of its own."""
    row = {"prompt": values["prompt"], "response": values["completions"], "helpfulness": values["scores"]}
    return {**row, **extras(values)}


LISTS = (
    Format(
        "nectar",
        "Nectar: answers with ranks",
        frozenset({"prompt", "answers", "num_responses", "turns"}),
        roles={"answers": "completions"},
        remarks=frozenset({"num_responses", "turns", "good_natured"}),
        adds=frozenset({"ranks"}),
        reader=_read_nectar,
        writers={"lists": _write_nectar},
        holds=frozenset({"ranks", "id", "source"}),
        form="transcript",
    ),
    Format(
        "nemo",
        "NeMo's preference data: completions with ranks",
        frozenset({"context", "completions"}),
        absent=frozenset({"ranks", "scores", "comparisons"}),
        takes=frozenset({"context", "completions"}),
        adds=frozenset({"prompt", "completions", "ranks"}),
        reader=_read_nemo,
        writers={"lists": _write_nemo},
        holds=frozenset({"ranks", "id", "source"}),
        form="turns",
        keeps_turn_keys=True,
    ),
    Format(
        "ultrafeedback",
        "UltraFeedback as it was annotated: completions with scores",
        frozenset({"instruction", "models", "completions"}),
        takes=frozenset({"instruction", "models", "completions", "correct_answers", "incorrect_answers"}),
        adds=frozenset({"prompt", "completions", "scores"}),
        reader=_read_ultrafeedback,
        writers={"lists": _write_ultrafeedback},
        holds=frozenset({"scores", "id", "source"}),
        form="text",
        loses="the models, and what annotators wrote about each response",
    ),
    Format(
        "helpsteer",
        "HelpSteer, HelpSteer2: the responses to a prompt in rows that follow each other, with scores",
        HELPSTEER_COLUMNS,
        roles={"response": "completions", "helpfulness": "scores"},
        remarks=frozenset({"correctness", "coherence", "complexity", "verbosity"}),
        writers={"lists": _write_helpsteer},
        holds=frozenset({"scores", "id", "source"}),
        form="text",
        rows_per_list=True,
    ),
    Format(
        "distilabel",
        "distilabel: generations with ratings",
        frozenset({"instruction", "generations", "ratings"}),
        remarks=frozenset({"rationales", "generation_models", "distilabel_metadata", "score_best"}),
        writers={"lists": _write_distilabel},
        holds=frozenset({"scores", "id", "source", "system"}),
        form="text",
    ),
)
