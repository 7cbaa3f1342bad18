"""Files of AlpacaEval and Arena-Hard: outputs of models, questions, and judgements, read and written.

AlpacaEval: `model_outputs.json`, a list of `instruction`, `output`, `generator`; `annotations.json` with `output_1` of
the baseline, `output_2` of the model and `preference` from 1 (baseline better) to 2 (model better).

Arena-Hard: `question.jsonl`; `model_answer/MODEL.jsonl`, version 0.1 with `question_id`, `model_id` and `choices`,
version 2 with `uid`, `model` and `messages`; `model_judgment/JUDGE/MODEL.jsonl` with two games, the baseline first and
then the model first.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tiltlm.core import DataError
from tiltlm.data.data_settings import DataSettings
from tiltlm.data.distinct_prompts import prompt_digest
from tiltlm.data.files.sources import read_rows
from tiltlm.data.files.text_files import Row
from tiltlm.evaluation.answers.contests import Contest, text_of
from tiltlm.sampling.answers import AnswerRow, to_answers
from tiltlm.storage.files import finite_json, write_text

ARENA_IDS = ("uid", "question_id")
SCORES = {"left_strong": "A>>B", "left": "A>B", "tie": "A=B", "right": "B>A", "right_strong": "B>>A"}
"""Outcome of a verdict → what Arena-Hard calls it."""


Questions = Mapping[str, tuple[str, Mapping[str, Any]]]
"""Id of a question → prompt and other columns."""


def read_outputs(path: str | Path, questions: Questions | None = None) -> list[AnswerRow]:
    """Read the outputs of a system: our own answer files, AlpacaEval's or Arena-Hard's.

    Args:
        path: The file.
        questions: Arena-Hard's questions by id (`read_questions`), which its answers of version 0.1 need.

    Raises:
        DataError: The file cannot be read, or an answer belongs to no question.
    """
    rows = []
    for row in read_rows(DataSettings(train=str(path))):
        if row.defect is not None:
            raise DataError(f"{row.location}: {row.defect.detail}", code=row.defect.code, row=row.location)
        rows.append(_to_answers(row, questions or {}))
    return rows


def _to_answers(row: Row, questions: Questions) -> AnswerRow:
    values = row.values
    if {"instruction", "output"} <= values.keys():
        return _alpaca(values)
    identity = next((str(values[name]) for name in ARENA_IDS if values.get(name)), None)
    if identity is not None and ("choices" in values or "messages" in values):
        return _arena(row, identity, questions)
    return to_answers(row)


def _alpaca(values: Mapping[str, Any]) -> AnswerRow:
    prompt, answer = str(values["instruction"]), str(values["output"] or "")
    category = values.get("dataset") or values.get("category")
    return AnswerRow(
        id=prompt_digest(prompt),
        prompt=prompt,
        answers=(answer,),
        ended=(True,),
        model=str(values.get("generator") or ""),
        row={"category": str(category)} if category else {},
    )


def _arena(row: Row, identity: str, questions: Questions) -> AnswerRow:
    values = row.values
    prompt, columns = questions.get(identity, ("", {}))
    if values.get("messages") is not None:
        turns = [turn for turn in values["messages"] if turn.get("role") != "system"]
        prompt = prompt or str(turns[0]["content"])
        answers = [turns[-1]["content"]]
    else:
        answers = [choice["turns"][-1]["content"] for choice in values["choices"]]
    if not prompt:
        raise DataError(
            f"{row.location}: this answer is to the question {identity}, which is not known; give the questions "
            "(--prompts question.jsonl)",
            code="unknown_question",
            key="prompts",
            row=row.location,
        )
    texts = tuple(str(answer["answer"] if isinstance(answer, Mapping) else answer) for answer in answers)
    model = str(values.get("model") or values.get("model_id") or "")
    return AnswerRow(identity, prompt, texts, (True,) * len(texts), model=model, row=columns)


def read_questions(path: str | Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Read Arena-Hard's questions: id → prompt and other columns. A file of another kind gives none."""
    found = {}
    for row in read_rows(DataSettings(train=str(path))):
        identity = next((str(row.values[name]) for name in ARENA_IDS if row.values.get(name)), None)
        turns = row.values.get("turns")
        prompt = turns[0]["content"] if isinstance(turns, list | tuple) and turns else row.values.get("prompt")
        if identity is not None and prompt:
            named = {key: row.values[key] for key in ("category", "cluster", "subcategory") if row.values.get(key)}
            found[identity] = (str(prompt), named)
    return found


def write_alpaca_outputs(path: Path, rows: Sequence[AnswerRow], name: str) -> None:
    """Write the first answer to each prompt as AlpacaEval's `model_outputs.json`."""
    plain = [
        {"dataset": row.category or "tiltlm", "instruction": text_of(row), "output": row.answers[0], "generator": name}
        for row in rows
    ]
    write_text(path, json.dumps(plain, indent=1, ensure_ascii=False) + "\n")


def write_alpaca_annotations(
    path: Path, contests: Sequence[Contest], rows: Mapping[tuple[str, str], AnswerRow], judge: str
) -> None:
    """Write contests as AlpacaEval's `annotations.json`; the second system is its baseline, `output_1`.

    Args:
        path: The file.
        contests: Contests of one pair of systems.
        rows: (system, prompt key) → answers.
        judge: Name of the judge.
    """
    plain = []
    for contest in contests:
        model, baseline = rows[contest.first, contest.prompt], rows[contest.second, contest.prompt]
        plain.append(
            {
                "dataset": contest.category or "tiltlm",
                "instruction": text_of(model),
                "generator_1": contest.second,
                "output_1": baseline.answers[0],
                "generator_2": contest.first,
                "output_2": model.answers[0],
                "annotator": judge,
                "preference": None if contest.value is None else 1 + contest.value,
            }
        )
    write_text(path, json.dumps(plain, indent=1, ensure_ascii=False) + "\n")


def write_arena_answers(path: Path, rows: Sequence[AnswerRow], name: str) -> None:
    """Write the first answer to each prompt as Arena-Hard's `model_answer` of version 2."""
    now = time.time()
    lines = [
        {
            "uid": row.id,
            "ans_id": f"{row.id}-{name}",
            "model": name,
            "messages": [
                {"role": "user", "content": text_of(row)},
                {"role": "assistant", "content": {"answer": row.answers[0]}},
            ],
            "tstamp": now,
            "metadata": {} if row.token_ids is None else {"token_len": len(row.token_ids[0])},
        }
        for row in rows
    ]
    write_text(path, "".join(json.dumps(finite_json(line), ensure_ascii=False) + "\n" for line in lines))


def write_arena_judgements(path: Path, contests: Sequence[Contest], judge: str) -> None:
    """Write the verdicts of a comparer as Arena-Hard's `model_judgment`; the second system is the baseline.

    Games without a verdict have the score null, which its scripts leave out.
    """
    lines = []
    for contest in contests:
        said = () if contest.pair is None else contest.pair.said
        by_first = {one.shown_first: one for one in said}
        games = [by_first.get(contest.second), by_first.get(contest.first)]
        lines.append(
            {
                "uid": contest.prompt_id,
                "category": contest.category,
                "judge": judge,
                "model": contest.first,
                "baseline": contest.second,
                "games": [
                    {
                        "score": None if game is None else SCORES.get(game.outcome),
                        "judgment": {"answer": "" if game is None else game.text},
                    }
                    for game in games
                ],
            }
        )
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
