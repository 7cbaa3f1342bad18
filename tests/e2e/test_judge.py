"""From sampled answers through a judge to a trained policy; nothing is judged twice."""

import json
import math

import pytest
from typer.testing import CliRunner

import tiltlm
from support.errors import raises
from tiltlm.cli.main import app
from tiltlm.core import ConfigError, DataError, RunError
from tiltlm.data import DataSettings
from tiltlm.data.files.sources import read_rows
from tiltlm.worlds import TextWorld

pytestmark = pytest.mark.usefixtures("blank_figures")
WORLD = TextWorld()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TILTLM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def answers(model, tmp_path_factory):
    """Four samples of the bundled model for each of 24 prompts, as a file with the columns of answers."""
    from tiltlm.recipes.prepare import encoder_of
    from tiltlm.sampling import SamplingSettings, sample

    policy = tiltlm.load_policy(model)
    encoder, prompts = encoder_of(policy), WORLD.prompts("train")[:24]
    drawn = sample(
        policy.module, [encoder.prompt_ids(text) for text in prompts], 4, SamplingSettings(32), seed=1,
        end_token_ids=policy.end_token_ids,
    )  # fmt: skip
    rows = [
        {"id": f"a{i}", "prompt": text, "completions": [encoder.plain_text(s.token_ids) for s in own]}
        for i, (text, own) in enumerate(zip(prompts, drawn, strict=True))
    ]
    return write(tmp_path_factory.mktemp("answers") / "answers.jsonl", rows)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rewards(row):
    return [WORLD.reward(row["prompt"], text) for text in row["completions"]]


def judge(data, output, **settings):
    return tiltlm.judge(data=data, output=output, **{"judge": "gold", "unaudited": True, **settings})


def test_scores_are_added_and_the_file_trains(answers, model, tmp_path):
    result = judge(answers, tmp_path / "judged.jsonl")
    rows = read(result.path)
    assert [row["scores"] for row in rows] == [rewards(row) for row in read(answers)]
    assert [{**row, "scores": 0} for row in rows] == [{**row, "scores": 0} for row in read(answers)]
    assert (result.num_calls, result.counts) == (96, {"scored": 96})
    assert list(result.to_pandas()["score"]) == [score for row in rows for score in row["scores"]]
    assert repr(result).startswith("Judged: 24 rows by gold")
    run = tiltlm.train(
        model=model, data=result.path, objective="dpo", output=tmp_path / "run", max_steps=2, batch_size=8,
        eval_fraction=0,
    )  # fmt: skip
    assert run.training.num_steps == 2


def test_judging_again_asks_nothing(answers, tmp_path):
    first = judge(answers, tmp_path / "first.jsonl")
    second = judge(answers, tmp_path / "second.jsonl")
    assert (first.num_calls, second.num_calls) == (96, 0)
    assert second.path.read_bytes() == first.path.read_bytes()
    compared = judge(answers, tmp_path / "compared.jsonl", comparisons="all")
    assert compared.num_calls == 0, "the comparisons are of the same scores"


def test_comparisons_of_a_list_are_soft_labels_that_train(answers, model, tmp_path):
    result = judge(answers, tmp_path / "judged.jsonl", comparisons="all", scale=2.0)
    by_id = {row["id"]: row for row in read(answers)}
    for row in read(result.path):
        gold = rewards(by_id[row["id"]])
        assert "scores" not in row
        sums = {}
        for winner, loser, weight in row["comparisons"]:
            assert weight == pytest.approx(1 / (1 + math.exp((gold[loser] - gold[winner]) / 2.0)))
            pair = frozenset((winner, loser))
            sums[pair] = sums.get(pair, 0) + weight
        assert list(sums.values()) == pytest.approx([1.0] * len(sums))
    score = tiltlm.score(model=model, data=result.path, objective="dpo", reference="initial")
    assert score["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_hard_labels_leave_ties_out(answers, tmp_path):
    result = judge(answers, tmp_path / "judged.jsonl", comparisons="all", soft=False)
    by_id = {row["id"]: row for row in read(answers)}
    for row in read(result.path):
        gold = rewards(by_id[row["id"]])
        assert all(weight == 1 and gold[winner] > gold[loser] for winner, loser, weight in row["comparisons"])


@pytest.mark.parametrize(("rule", "num"), [("random:2", 2), ("random:99", 6)])
def test_random_pairs(answers, tmp_path, rule, num):
    result = judge(answers, tmp_path / "one.jsonl", comparisons=rule)
    table = result.to_pandas()
    distinct = {f"answers.jsonl:{i}": len(set(row["completions"])) for i, row in enumerate(read(answers), start=1)}
    full = [name for name, k in distinct.items() if k == 4]
    assert len(full) > 10
    assert all((table["row"] == name).sum() == num for name in full)
    again = judge(answers, tmp_path / "two.jsonl", comparisons=rule)
    assert again.path.read_bytes() == result.path.read_bytes()


def test_best_and_worst(answers, tmp_path):
    result = judge(answers, tmp_path / "judged.jsonl", comparisons="best_worst")
    by_id = {row["id"]: row for row in read(answers)}
    for row in read(result.path):
        gold = rewards(by_id[row["id"]])
        winner, loser, _ = row["comparisons"][0]
        assert (gold[winner], gold[loser]) == (max(gold), min(gold))
    assert [note.code for note in result.notes if note.code == "selection_bias"] == ["selection_bias"]
    equal = sum(len(set(rewards(row))) == 1 for row in read(answers))
    assert result.num_dropped == equal


def test_pairs_get_a_preference_or_scores(data, model, tmp_path):
    preferred = judge(data, tmp_path / "preferred.jsonl", comparisons="all")
    for row in read(preferred.path):
        gap = WORLD.reward(row["prompt"], row["chosen"]) - WORLD.reward(row["prompt"], row["rejected"])
        assert row["preference"] == pytest.approx(1 / (1 + math.exp(-gap)))
    scored = judge(data, tmp_path / "scored.jsonl")
    assert all(row["score_chosen"] > row["score_rejected"] for row in read(scored.path))
    for file in (preferred.path, scored.path):
        assert tiltlm.score(model=model, data=file, objective="dpo", reference="initial")["num_examples"] == 64


def test_a_panel_labels_pairs(data, tmp_path):
    panel = {"kind": "panel", "judges": ["gold", "length"], "combine": "worst"}
    result = judge(data, tmp_path / "judged.jsonl", judge=panel)
    assert result.counts["ok"] + result.counts.get("tie", 0) == 64
    assert result.to_pandas()["disagreement"].max() > 0.4


def test_the_record_says_who_judged_and_how(answers, tmp_path):
    result = judge(answers, tmp_path / "judged.jsonl", role="held_out", unaudited=False)
    record = json.loads((tmp_path / "judged.judge.json").read_text())
    assert record["schema"] == "tiltlm.judged/1"
    assert (record["judge"]["digest"], record["judge"]["role"]) == (result.digest, "held_out")
    assert record["judge"]["audited"] is False
    assert record["counts"] == {"scored": 96}


def test_failed_judgements_are_never_numbers(answers, tmp_path):
    rows = read(answers)
    rows[3]["prompt"] = "a prompt of another world"
    some = write(tmp_path / "some.jsonl", rows)
    result = judge(some, tmp_path / "judged.jsonl")
    assert (result.counts["error"], result.num_dropped, len(result.rows)) == (4, 1, 23)
    assert [row["id"] for row in read(result.dropped_path)] == ["a3"]
    for row in rows[:6]:
        row["prompt"] = f"{row['id']}, of another world"
    many = write(tmp_path / "many.jsonl", rows)
    with raises(RunError, "too_many_errors", key="--accept-errors"):
        judge(many, tmp_path / "refused.jsonl")
    assert not (tmp_path / "refused.jsonl").exists()
    assert len(judge(many, tmp_path / "accepted.jsonl", accept_errors=True).rows) == 18


def test_a_limit_stops_and_the_same_command_goes_on(answers, tmp_path):
    with raises(RunError, "budget_reached", key="--max-calls"):
        judge(answers, tmp_path / "judged.jsonl", max_calls=50)
    assert not (tmp_path / "judged.jsonl").exists()
    estimate = judge(answers, None, dry_run=True)
    assert (estimate.num_judgements, estimate.num_calls, estimate.cost) == (96, 46, 0.0)
    assert judge(answers, tmp_path / "judged.jsonl").num_calls == 46


@pytest.mark.parametrize(
    ("settings", "error", "code", "key"),
    [
        ({"judge": "length", "unaudited": False}, ConfigError, "no_audit", "judge.audit"),
        ({"comparisons": "some"}, ConfigError, "unknown_name", "--comparisons"),
        ({"comparisons": "all", "both_orders": False}, ConfigError, "one_order", "judge.both_orders"),
        ({"soft": False}, ConfigError, "no_effect", "judge.soft"),
        ({"role": "judge"}, ConfigError, "unknown_name", "--role"),
        ({"max_calls": 0}, ConfigError, "not_positive", "--max-calls"),
        ({"output": "x.csv"}, ConfigError, "unknown_file_format", "output"),
        ({"output": None}, ConfigError, "missing_setting", "--output"),
        ({"judge": "golden"}, ConfigError, "unknown_name", "judge.kind"),
        ({"max_length": 12}, ConfigError, "no_effect", "data.max_length"),
    ],
)
def test_refusals(answers, tmp_path, monkeypatch, settings, error, code, key):
    monkeypatch.chdir(tmp_path)
    with raises(error, code, key=key):
        judge(answers, **{"output": tmp_path / "judged.jsonl", **settings})


def test_an_output_is_replaced_only_if_asked(answers, tmp_path):
    output = tmp_path / "judged.jsonl"
    output.write_text("mine")
    with raises(ConfigError, "output_exists", key="--output"):
        judge(answers, output)
    assert output.read_text() == "mine"
    assert len(judge(answers, output, overwrite=True).rows) == 24


def test_single_responses_are_scored_and_not_compared(tmp_path):
    row = {"prompt": WORLD.prompts("train")[0], "completion": " Hello.", "metadata": {"of": "me"}}
    data = write(tmp_path / "single.jsonl", [row])
    assert read(judge(data, tmp_path / "judged.jsonl").path)[0]["metadata"] == {"of": "me", "score": 0.0}
    with raises(DataError, "wrong_data_shape", key="judge.kind"):
        judge(data, tmp_path / "compared.jsonl", comparisons="all")


def test_the_command(answers, tmp_path):
    settings = tmp_path / "judge.yaml"
    settings.write_text("judge: {kind: gold}\n")
    output = tmp_path / "judged.jsonl"
    arguments = ["judge", str(answers), "--judge", str(settings), "--output", str(output)]
    refused = CliRunner().invoke(app, [text if text != str(settings) else "length" for text in arguments])
    assert refused.exception.code == "no_audit"
    limited = CliRunner().invoke(app, [*arguments, "--max-calls", "5"])  # a rule needs no audit
    assert limited.exception.code == "budget_reached"
    done = CliRunner().invoke(app, [*arguments, "--comparisons", "random:1", "judge.soft=false", "judge.scale=2.0"])
    assert done.exit_code == 0, done.output
    assert str(output) in done.stdout
    assert len(read(output)[0]["comparisons"]) == 1
    assert json.loads((tmp_path / "judged.judge.json").read_text())["judge"]["scale"] == 2.0


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_every_format_of_answers_is_written_and_read_again(answers, tmp_path, ending):
    plain = judge(answers, tmp_path / "plain.jsonl", comparisons="all")
    packed = judge(answers, tmp_path / f"packed{ending}", comparisons="all")
    assert (tmp_path / "packed.judge.json").exists()
    one, other = ([dict(row.values) for row in read_rows(DataSettings(str(made.path)))] for made in (plain, packed))
    for key in ("completions", "comparisons"):
        # Parquet holds columns of mixed kinds as JSON text, which the readers of training data read
        values = [json.loads(row[key]) if isinstance(row[key], str) else list(row[key]) for row in other]
        assert [json.loads(json.dumps(row[key])) for row in one] == json.loads(json.dumps(values, default=list))
