"""Loops on the plane of KL and reward: every number is that of a card, and nothing is drawn for them."""

import json

import pytest
from typer.testing import CliRunner

import tiltlm
from support.errors import raises
from tiltlm.cli.main import app
from tiltlm.core import ConfigError
from tiltlm.judging import JudgeSettings
from tiltlm.recipes.studies.finished_loops import FinishedLoop, common_judge, pleasing
from tiltlm.worlds import TextWorld

pytestmark = pytest.mark.usefixtures("blank_figures", "own_cache")

SHORT = {
    "loop.rounds": 3,
    "loop.prompts_per_round": 8,
    "max_new_tokens": 24,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "progress": False,
}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in TextWorld().prompts("train")[:24]))
    return path


@pytest.fixture(scope="module")
def loops(model, prompts, tmp_path_factory):
    """Return two loops: one judged by length with the gold judge held out, one judged by the gold judge."""
    folder = tmp_path_factory.mktemp("loops")
    given = {"preset": "online_dpo", "model": model, "data": str(prompts), **SHORT}
    by_length = tiltlm.loop(
        judge={"kind": "length", "scale": 5.0}, held_out_judge="gold", unaudited=True, output=folder / "length", **given
    )
    return by_length, tiltlm.loop(judge="gold", output=folder / "gold", **given)


def test_the_judge_is_one_that_all_loops_have(loops):
    gold, length = JudgeSettings("gold"), JudgeSettings("length", scale=5.0)

    def loop(**judges):
        return FinishedLoop("loop", {}, None, loops[0].path, judges)

    assert common_judge([loop(reward=length, held_out=gold), loop(reward=gold)]) == gold
    assert common_judge([loop(reward=length, held_out=gold), loop(reward=length)]) == JudgeSettings("length")
    with raises(ConfigError, "other_judge", key="config"):
        common_judge([loop(reward=length), loop(reward=gold)])
    assert pleasing([loop(reward=gold)], gold) == ()
    assert pleasing([loop(reward=length), loop(held_out=length)], length) == ("loop",)


def test_every_point_is_a_card(loops, tmp_path):
    by_length, _ = loops
    found = tiltlm.frontier(by_length.path, output=tmp_path / "one", progress=False)
    (curve,) = found.plane.loops
    assert (found.plane.judge, curve.score, found.plane.base, found.plane.points) == ("gold", "held_out", None, ())
    assert [point.reward for point in curve.points] == [card.held_out for card in by_length.cards]
    assert [point.kl for point in curve.points] == [card.kl for card in by_length.cards]
    spent = [card.sampled_tokens for card in by_length.cards]
    assert [point.sampled_tokens for point in curve.points] == [0, spent[0], spent[0] + spent[1]]
    assert [point.judgements for point in curve.points] == [0, 16, 32]
    table = found.to_pandas()
    assert table["round"].tolist() == [0, 1, 2]
    assert table["reward"].tolist() == [card.held_out.estimate for card in by_length.cards]
    assert not (tmp_path / "one" / "answers").exists()
    twin = json.loads((tmp_path / "one" / "frontier.json").read_text())
    assert twin["loops"][0]["points"][2]["kl"]["estimate"] == pytest.approx(by_length.cards[2].kl.estimate)
    assert "highest reward" in repr(found)


def test_beside_the_frontier_of_the_same_judge(loops, prompts, tmp_path):
    """The gold judge is held out in one loop and trains the other; as a rule it is right by definition."""
    arguments = ["frontier", *(str(loop.path) for loop in loops), "--judge", "gold", "--prompts", str(prompts)]
    arguments += ["--pool", "64", "--limit", "12", "--output", str(tmp_path / "out"), "--markdown"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    twin = json.loads((tmp_path / "out" / "frontier.json").read_text())
    assert [(curve["name"], curve["score"]) for curve in twin["loops"]] == [("length", "held_out"), ("gold", "reward")]
    assert twin["base"]["low"] < loops[0].cards[0].held_out.high
    assert (twin["points"], twin["same_judge"], len(twin["best_of_n"]["ns"])) == ([], [], 7)
    assert "| round 2 |" in (tmp_path / "out" / "frontier.md").read_text()


def test_beside_a_trained_run(loops, model, prompts, tmp_path):
    data = tmp_path / "pairs.jsonl"
    corpus = TextWorld().corpus(0, 24)
    rows = [{"prompt": r["prompt"], "chosen": r["completion"], "rejected": " Go away now!"} for r in corpus]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = tiltlm.train(
        model=model, data=str(data), objective="dpo", output=tmp_path / "run", progress=False,
        **{"training.max_steps": 1, "training.learning_rate": 1e-4, "evaluation.num_prompts": 0},
    )  # fmt: skip
    found = tiltlm.frontier(
        [loops[1].path, run.path], judge="gold", prompts=str(prompts), n=2, pool=8, limit=6, max_new_tokens=24,
        output=tmp_path / "out", progress=False,
    )  # fmt: skip
    assert [curve.name for curve in found.plane.loops] == ["gold"]
    assert len(found.plane.points) == 1


def test_refusals(loops, prompts, tmp_path):
    by_length, by_gold = (loop.path for loop in loops)
    given = {"output": tmp_path / "out", "progress": False}
    with raises(ConfigError, "other_judge", key="judge"):
        tiltlm.frontier([by_length, by_gold], judge="length", prompts=str(prompts), **given)
    with raises(ConfigError, "missing_setting", key="prompts"):
        tiltlm.frontier(by_gold, judge="gold", **given)
    with raises(ConfigError, "no_effect", key="prompts"):
        tiltlm.frontier(by_gold, prompts=str(prompts), **given)
    with raises(ConfigError, "no_effect", key="n"):
        tiltlm.frontier(by_gold, judge="gold", prompts=str(prompts), n=2, **given)
    with raises(ConfigError, "no_effect", key="checkpoints"):
        tiltlm.frontier(by_gold, checkpoints=True, **given)


def test_a_loop_without_kl_is_refused(model, prompts, tmp_path):
    run = tiltlm.loop(
        preset="online_dpo", model=model, data=str(prompts), judge="gold", output=tmp_path / "hot",
        **{**SHORT, "loop.rounds": 1, "sampling.temperature": 1.3},
    )  # fmt: skip
    with raises(ConfigError, "no_kl", key="config"):
        tiltlm.frontier(run.path, output=tmp_path / "out", progress=False)
