"""Files of AlpacaEval and Arena-Hard, as these write them, and back."""

import json

from support.answered import Lengths, Says, row, system
from support.errors import raises
from tiltlm.core import DataError
from tiltlm.evaluation.answers.benchmark_files import (
    read_outputs,
    read_questions,
    write_alpaca_annotations,
    write_alpaca_outputs,
    write_arena_answers,
    write_arena_judgements,
)
from tiltlm.evaluation.answers.contests import hold_contests
from tiltlm.evaluation.answers.systems import align, prompt_key


def written(path, rows):
    path.write_text("".join(json.dumps(line) + "\n" for line in rows), encoding="utf-8")
    return path


def test_alpaca_eval_outputs(tmp_path):
    path = tmp_path / "model_outputs.json"
    outputs = [{"dataset": "koala", "instruction": "Why?", "output": "Because.", "generator": "m", "datasplit": "eval"}]
    path.write_text(json.dumps(outputs))
    (found,) = read_outputs(path)
    assert (found.prompt, found.answers, found.model, found.category) == ("Why?", ("Because.",), "m", "koala")
    write_alpaca_outputs(tmp_path / "again.json", [found], "m")
    assert json.loads((tmp_path / "again.json").read_text()) == [
        {key: value for key, value in outputs[0].items() if key != "datasplit"}
    ]


def test_alpaca_eval_annotations_call_the_baseline_the_first(tmp_path):
    aligned = align([system("model", {"p": "longer"}), system("baseline", {"p": "short"})])
    rows = {(name, prompt): answer for (name, _, prompt), answer in aligned.rows.items()}
    write_alpaca_annotations(tmp_path / "annotations.json", hold_contests(aligned, Lengths()), rows, "length")
    (found,) = json.loads((tmp_path / "annotations.json").read_text())
    assert (found["generator_1"], found["output_1"]) == ("baseline", "short")
    assert (found["generator_2"], found["output_2"], found["preference"]) == ("model", "longer", 2.0)


def test_arena_hard_of_version_0_1_needs_the_questions(tmp_path):
    questions = written(
        tmp_path / "question.jsonl", [{"question_id": "q1", "category": "hard", "turns": [{"content": "Why?"}]}]
    )
    choices = [{"index": 0, "turns": [{"content": "Because.", "token_len": 2}]}]
    answers = written(
        tmp_path / "m.jsonl",
        [{"question_id": "q1", "answer_id": "a", "model_id": "m", "choices": choices, "tstamp": 1.0}],
    )
    (found,) = read_outputs(answers, read_questions(questions))
    assert (found.prompt, found.answers, found.model, found.category) == ("Why?", ("Because.",), "m", "hard")
    with raises(DataError, code="unknown_question", key="prompts"):
        read_outputs(answers)


def test_arena_hard_of_version_2_there_and_back(tmp_path):
    write_arena_answers(tmp_path / "m.jsonl", [row("Why?", "Because.", identity="u1")], "m")
    (line,) = [json.loads(text) for text in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert line["messages"][-1] == {"role": "assistant", "content": {"answer": "Because."}}
    (found,) = read_outputs(tmp_path / "m.jsonl")
    assert (found.id, found.prompt, found.answers, found.model) == ("u1", "Why?", ("Because.",), "m")


def test_arena_hard_judgements_have_the_baseline_first_and_then_the_model(tmp_path):
    judge = Says(lambda a, b: "left_strong" if a == "better" else "right")
    aligned = align([system("model", {"p": "better"}), system("baseline", {"p": "worse"})])
    write_arena_judgements(tmp_path / "j.jsonl", hold_contests(aligned, judge), "says")
    (found,) = [json.loads(text) for text in (tmp_path / "j.jsonl").read_text().splitlines()]
    assert [game["score"] for game in found["games"]] == ["B>A", "A>>B"]
    assert (found["model"], found["baseline"], found["judge"]) == ("model", "baseline", "says")


def test_our_own_answers(tmp_path):
    (found,) = read_outputs(written(tmp_path / "a.jsonl", [{"prompt": "p", "completions": ["x", "y"]}]))
    assert (prompt_key(found.prompt), found.answers) == (prompt_key("p"), ("x", "y"))
