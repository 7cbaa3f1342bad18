"""The loop: every number from its files, the same bytes after any stop, and presets that do what they say."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import tiltlm
from support.errors import raises
from support.killed_loops import PHASES
from tiltlm.cli.main import app
from tiltlm.core import ConfigError, Response, TiltError, Tree, pack_trees
from tiltlm.online.cards import reward_of
from tiltlm.online.presets import PRESETS
from tiltlm.sampling.answers import read_answers
from tiltlm.worlds import TextWorld

WORLD = TextWorld()
SHORT = {
    "loop.rounds": 3,
    "loop.prompts_per_round": 8,
    "max_new_tokens": 24,
    "max_rows": 8,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "progress": False,
}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in WORLD.prompts("train")[:20]))
    return path


def run(model, prompts, output, preset="online_dpo", **more):
    given = {"judge": "gold", **SHORT, **more}
    return tiltlm.loop(preset=preset, model=model, data=str(prompts), output=output, **given)


@pytest.fixture(scope="module")
def done(model, prompts, tmp_path_factory):
    return run(model, prompts, tmp_path_factory.mktemp("loops") / "run")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file that a loop promises to write again, by its path."""
    models = [*folder.glob("model/model.safetensors"), *folder.glob("judge/model/model.safetensors")]
    files = [*folder.glob("rounds/*/*"), *models, folder / "loop.json"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files if not file.name.startswith(".")}


def test_every_number_of_a_round_follows_from_its_files(done):
    for number, card in enumerate(done.cards):
        folder = done.path / "rounds" / f"{number:04d}"
        rows = read_answers(folder / "samples.jsonl.gz")
        verdicts = {one["id"]: one["scores"] for one in lines(folder / "verdicts.jsonl")}
        scores = {row.id: [WORLD.reward(row.prompt, text) for text in row.answers] for row in rows}
        assert verdicts == scores
        assert card.reward.estimate == pytest.approx(np.mean(list(scores.values())))
        assert card.sampled_tokens == sum(len(ids) for row in rows for ids in row.token_ids)
        assert card.prompt_tokens == sum(len(row.prompt_ids) for row in rows)
        assert card.forward_tokens == sum(
            len(row.prompt_ids) + sum(len(ids) - 1 for ids in {ids.tobytes(): ids for ids in row.token_ids}.values())
            for row in rows
        ), "once for the KL; the reference is the first policy, so it has read them already"
        assert card.cost == 0.0
        examples = lines(folder / "examples.jsonl")
        decided = {key for key, (a, b) in scores.items() if a != b}
        same = {row.id for row in rows if row.token_ids[0].tolist() == row.token_ids[1].tolist()}
        assert {example["id"] for example in examples} == decided - same
        for example in examples:
            ((chosen, _, p, _),) = example["comparisons"]
            gap = example["scores"][chosen] - example["scores"][1 - chosen]
            assert p == pytest.approx(1 / (1 + np.exp(-gap)))
        assert sum(card.dropped.values()) + card.num_examples == card.num_prompts == 8


def test_the_ledger_adds_up(done):
    """Trained tokens are those of the recorded steps, operations follow from tokens, and every phase has its time."""
    (*_, last) = lines(done.path / "metrics.jsonl")
    assert sum(card.train_tokens for card in done.cards) == last["num_tokens"]
    module = tiltlm.load_policy(str(done.path / "model")).module
    weights = sum(p.numel() for p in module.parameters())
    assert module.get_output_embeddings().weight is module.get_input_embeddings().weight
    for card in done.cards:
        read = card.prompt_tokens + card.sampled_tokens + card.forward_tokens
        assert card.flops == weights * (2 * read + 6 * card.train_tokens)
    phases = [(line["round"], line["phase"]) for line in lines(done.path / "ledger.jsonl")]
    assert sorted(phases) == sorted((k, name) for k in range(3) for name in ("judge", "measure", "sample", "train"))
    page = (done.path / "loop.html").read_text()
    assert f"{sum(card.train_tokens for card in done.cards):,}" in page


def test_the_kl_is_to_the_policy_before_the_first_round(done, model):
    """The samples of the last round, scored by the model as it is on the disk."""
    rows = read_answers(done.path / "rounds" / "0002" / "samples.jsonl.gz")
    loaded = tiltlm.load_policy(model)
    trees = [Tree(row.prompt_ids, tuple(map(Response, row.token_ids))) for row in rows]
    with torch.no_grad():
        initial = loaded.module(pack_trees(trees)).seq_logps.tolist()
    drawn = [logp for row in rows for logp in row.logps]
    assert done.cards[2].kl.estimate == pytest.approx(np.mean(np.subtract(drawn, initial)), abs=1e-4)
    assert abs(done.cards[0].kl.estimate) < 1e-4
    assert abs(done.cards[2].kl.estimate) > 1e-3


def test_the_model_is_that_of_the_last_step_and_the_table_has_a_row_a_round(done, model):
    trained, before = (tiltlm.load_policy(str(path)).module.state_dict() for path in (done.path / "model", model))
    assert any(not torch.equal(trained[name], before[name]) for name in before)
    table = done.to_pandas()
    assert table.index.tolist() == [0, 1, 2]
    assert table["num_steps"].sum() == max(line["step"] for line in lines(done.path / "metrics.jsonl"))
    assert "3 rounds" in repr(done)


def test_rounds_take_other_prompts_until_all_were_asked(done):
    asked = [row.id for k in (0, 1) for row in read_answers(done.path / "rounds" / f"000{k}" / "samples.jsonl.gz")]
    assert len(set(asked)) == 16, "two rounds of 8 fit into 20 prompts"


def test_skipped_steps_are_counted_wherever_the_loop_is_described(model, prompts, tmp_path, monkeypatch):
    good = iter([False])
    monkeypatch.setattr("tiltlm.training.loop.is_good", lambda *_: next(good, True))
    looped = run(model, prompts, tmp_path / "run", **{"loop.rounds": 1})
    twin = json.loads((looped.path / "loop.json").read_text())
    assert twin["skipped"] == 1
    (caution,) = [one["text"] for one in twin["cautions"] if one["key"] == "skipped_steps"]
    assert caution in looped.summary()
    assert caution in (looped.path / "loop.html").read_text()
    steps = looped.cards[0].num_steps
    for file in ("model/README.md", "loop.html"):
        text = (looped.path / file).read_text()
        assert f"{steps} optimiser steps, 1 of them skipped" in text or f"{steps}, 1 of them skipped" in text, file


MORE = {
    "dapo": {"loop.refills": 0, "loop.past_rounds": 1, "correction.kind": "sequence_truncate"},
    "ppo": {"loop.kl_target": 0.1, "loop.kl_horizon": 8, "critic.value_learning_rate": 1e-2},
    "d2po": {"learned_judge.labels": 3, "learned_judge.rate": 1e-3, "learned_judge.epochs": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "num_kills"),
    [
        ("online_dpo", 5),
        *(
            pytest.param(*more, marks=pytest.mark.long)
            for more in (("rebel", 3), ("dapo", 4), ("bond", 3), ("ppo", 3), ("d2po", 6))
        ),
    ],
)
def test_a_loop_that_was_killed_goes_on_to_the_same_bytes(model, prompts, tmp_path, preset, num_kills):
    """SIGKILL at 24 calls over all phases, and at 6 moments. Checkpoints are saved every two rounds.

    REBEL's reference moves at each round, and its optimiser restarts; DAPO takes two steps a round, whose ratios need
    the policy of its beginning, and trains on the round before too; J-BOND's anchor is a moving average that draws
    samples too; PPO has a critic, and a KL coefficient that is steered; D2PO's judge buys labels and learns in each
    round.
    """
    given = {"preset": preset, "judge": "gold", "model": model, "data": str(prompts), **SHORT}
    given |= {"loop.save_every": 2, "loop.restarts": preset == "rebel"} | MORE.get(preset, {})
    del given["progress"]
    arguments = [str(tmp_path), str(num_kills), "1", json.dumps(given)]
    ended = subprocess.run(
        [sys.executable, "-m", "support.killed_loops", *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    calls = json.loads((tmp_path / "calls.json").read_text())
    assert set(calls) == set(PHASES) - ({PHASES[-1]} if preset in ("online_dpo", "rebel", "d2po") else set())
    expected = contents(tmp_path / "whole")
    for k in range(num_kills + 1):
        assert contents(tmp_path / f"run-{k}") == expected, k


LARGE = {"loop.rounds": 8, "loop.prompts_per_round": 64, "max_new_tokens": 32, "max_rows": 1024, "warmup_ratio": 0.0}
CHAT = {"self_rewarding", "constitutional"}
"""Presets that need a chat model; they have tests of their own."""
FURTHER = {"online_dpo", "gvpo", "rloo"}
"""Presets of which test_loop_acceptance.py asks more."""
ALIKE = {"cispo", "dapo", "dr_grpo", "gspo", "max_rl", "online_ipo"}
"""Presets that are grpo or online_dpo with another loss or other advantages."""
LENGTHS = {
    "online_ipo": (15, 4e-4),
    "rebel": (8, 2e-4),
    "iterative_dpo": (3, 1e-3),
    "reinforce": (15, 4e-4),
    "reinforce_pp": (12, 1e-3),
    "ppo": (15, 4e-4),
    "cispo": (6, 4e-4),
    "nash_md": (15, 4e-4),
    "a_star_po": (15, 4e-4),
    "bond": (15, 4e-4),
    "xpo": (8, 1e-3),
    "sppo": (8, 1e-3),
    "d2po": (10, 4e-4),
}
"""Rounds and learning rate of the presets for which six at 1e-3 are too few or too much."""


def gold_of_all(found, number):
    rows = read_answers(found.path / "rounds" / f"{number:04d}" / "samples.jsonl.gz")
    return reward_of({row.id: [WORLD.reward(row.prompt, text) for text in row.answers] for row in rows})


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset",
    [
        pytest.param(preset, marks=pytest.mark.long) if preset in ALIKE else preset
        for preset in sorted(PRESETS.keys() - CHAT - FURTHER)
    ],
)
def test_every_preset_moves_the_gold_reward_up(model, tmp_path, preset):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": text} for text in WORLD.prompts("train")]
    if preset in ("spin", "dno"):  # they learn from responses: the best of eight samples
        drawn = tiltlm.sample(model, WORLD.prompts("train"), n=8, max_new_tokens=32, progress=False)
        best = [max(row.answers, key=lambda text, row=row: WORLD.reward(row.prompt, text)) for row in drawn.rows]
        rows = [{"prompt": row.prompt, "completion": text} for row, text in zip(drawn.rows, best, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rounds, rate = LENGTHS.get(preset, (6, 1e-3))
    more = {"rft": {"examples.threshold": 3.5}, "d2po": {"learned_judge.rate": 1e-3}}.get(preset, {})
    if preset == "opd":
        more = {
            "reference.name": str(run(model, path, tmp_path / "teacher", "rloo", **LARGE, batch_size=64).path / "model")
        }
    batch_size = min(PRESETS[preset].settings["training"]["batch_size"], 64)
    settings = {**LARGE, **more, "loop.rounds": rounds, "learning_rate": rate, "batch_size": batch_size}
    judges = {"judge": None, "held_out_judge": "gold"} if preset in ("spin", "opd") else {}
    found = run(model, path, tmp_path / "run", preset, **settings, **judges)
    first, last = (card.held_out if judges else card.reward for card in (found.cards[0], found.cards[-1]))
    if preset == "d2po":  # the cards have the scores of bought pairs alone
        first, last = (gold_of_all(found, card.round) for card in (found.cards[0], found.cards[-1]))
    assert last.low > first.high, (first, last)


def test_the_page_has_every_round_and_says_what_may_be_wrong(done, model, prompts, tmp_path):
    page = (done.path / "loop.html").read_text()
    twin = json.loads((done.path / "loop.json").read_text())
    assert [card["round"] for card in twin["cards"]] == [0, 1, 2]
    assert all(f"round {k}" in page for k in range(3))
    assert [caution["key"] for caution in twin["cautions"]] == []
    by_length = run(
        model, prompts, tmp_path / "length", judge="length", unaudited=True, **{"loop.rounds": 1, "max_new_tokens": 4}
    )
    twin = json.loads((by_length.path / "loop.json").read_text())
    assert {caution["key"] for caution in twin["cautions"]} >= {"own_judge", "unaudited", "cut"}


def test_a_replay_trains_on_the_recorded_samples(done, tmp_path):
    """The same settings give the same losses and weights from the files alone; others train on the same samples."""
    config = str(done.path / "config.yaml")
    again = tiltlm.loop(config, replay=done.path, output=tmp_path / "again", progress=False)
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (again.path, done.path)]
    assert weights[0] == weights[1]
    assert [card.loss for card in again.cards] == [card.loss for card in done.cards]
    assert all(card.kl is None for card in again.cards), "the samples are those of another policy"
    other = tiltlm.loop(config, replay=done.path, output=tmp_path / "other", objective="ipo", progress=False)
    samples = [(folder / "rounds" / "0002" / "samples.jsonl.gz").read_bytes() for folder in (other.path, done.path)]
    assert samples[0] == samples[1]
    assert [card.loss for card in other.cards] != [card.loss for card in done.cards]
    with raises(ConfigError, "no_rounds", key="replay"):
        tiltlm.loop(config, replay=tmp_path, output=tmp_path / "none", progress=False)


def test_its_configuration_runs_again(done, tmp_path):
    again = tiltlm.loop(str(done.path / "config.yaml"), output=tmp_path / "again", progress=False)
    found, expected = contents(again.path), contents(done.path)
    assert found.keys() == expected.keys()
    assert all(found[name] == expected[name] for name in found if name != "loop.json"), "which names the preset"


def test_a_round_that_restarts_has_a_schedule_and_an_optimiser_of_its_own(model, prompts, tmp_path):
    """Rates begin anew, and the moments do: Adam's first step of a round moves each weight by the rate alone."""
    settings = {"loop.rounds": 2, "schedule": "linear", "warmup_ratio": 0.0, "batch_size": 8, "num_epochs": 2}
    rates, weights = {}, {}
    for restarts in (False, True):
        found = run(model, prompts, tmp_path / str(restarts), **settings, **{"loop.restarts": restarts})
        rates[restarts] = [line["learning_rate"] for line in lines(found.path / "metrics.jsonl")]
        weights[restarts] = (found.path / "model" / "model.safetensors").read_bytes()
    assert rates[False] == pytest.approx([1e-3 * k / 4 for k in (4, 3, 2, 1)])
    assert rates[True] == pytest.approx([1e-3, 5e-4, 1e-3, 5e-4])
    assert weights[True] != weights[False]


def test_a_held_out_judge_measures_and_does_not_train(done, model, prompts, tmp_path):
    found = run(model, prompts, tmp_path / "run", held_out_judge="length")
    assert (found.path / "model" / "model.safetensors").read_bytes() == (
        done.path / "model" / "model.safetensors"
    ).read_bytes()
    for number, card in enumerate(found.cards):
        rows = read_answers(found.path / "rounds" / f"{number:04d}" / "samples.jsonl.gz")
        assert card.held_out.estimate == pytest.approx(np.mean([len(text) for row in rows for text in row.answers]))
    assert found.to_pandas()["held_out"].notna().all()
    with raises(ConfigError, "same_judge"):
        run(model, prompts, tmp_path / "same", held_out_judge="gold")
    with raises(ConfigError, "not_supported", key="held_out_judge"):
        run(model, prompts, tmp_path / "panel", held_out_judge={"kind": "panel", "judges": ["gold", "length"]})


def test_a_judge_that_compares(model, prompts, tmp_path):
    """A panel of two scorers: the label of a pair is that of both orders, and there are no scores."""
    panel = {"kind": "panel", "judges": ["gold", "length"]}
    found = run(model, prompts, tmp_path / "run", judge=panel, unaudited=True, **{"loop.rounds": 1})
    assert found.cards[0].reward is None
    assert "–" in found.summary()
    verdicts = {one["id"]: one["pairs"] for one in lines(found.path / "rounds" / "0000" / "verdicts.jsonl")}
    for example in lines(found.path / "rounds" / "0000" / "examples.jsonl"):
        ((_, _, p, _),) = example["comparisons"]
        ((i, j, judged),) = verdicts[example["id"]]
        assert (i, j) == (0, 1)
        assert p == pytest.approx(max(judged, 1 - judged))
        assert "scores" not in example


def test_the_command_and_its_list(model, prompts, tmp_path):
    arguments = ["loop", "--preset", "raft", "--model", model, "--data", str(prompts), "--judge", "gold", "--output"]
    short = [f"{key}={value}" for key, value in SHORT.items() if key != "progress"]
    ran = CliRunner().invoke(app, [*arguments, str(tmp_path / "run"), *short])
    assert ran.exit_code == 0, ran.output
    assert "All rounds are done." in ran.stdout
    listed = CliRunner().invoke(app, ["loop", "--list"])
    assert listed.exit_code == 0
    assert all(name in listed.stdout for name in PRESETS)


@pytest.mark.parametrize(
    ("settings", "code", "key"),
    [
        ({"judge": None}, "missing_setting", "judge"),
        ({"judge": "length"}, "no_audit", "judge.audit"),
        ({"preset": "onlin_dpo"}, "unknown_name", "preset"),
        ({"loop.n": 3}, "too_many_samples", "loop.n"),
        ({"examples.rule": "best_worst", "loop.n": 1}, "too_few_samples", "loop.n"),
        ({"examples.rule": "best"}, "wrong_data_shape", "examples.rule"),
        ({"examples.rule": "versus_data"}, "no_effect", "judge"),
        ({"preset": "spin", "judge": None, "loop.n": 2}, "too_many_samples", "loop.n"),
        ({"temperature": 0}, "out_of_range", "sampling.temperature"),
        ({"training.early_stopping": 3, "best_metric": "eval_loss"}, "no_effect", "training.best_metric"),
        ({"loop.reference": "reset", "reference": "initial"}, "no_effect", "reference.name"),
        ({"reference.cache": False}, "no_effect", "reference.cache"),
        ({"preset": "rloo", "temperature": 0.9}, "not_own_distribution", "sampling.temperature"),
        ({"preset": "grpo", "top_p": 0.9}, "not_own_distribution", "sampling.top_p"),
        ({"preset": "grpo", "loop.n": 1}, "too_few_samples", "loop.n"),
        ({"preset": "grpo", "objective.name": "dpo"}, "wrong_data_shape", "examples.rule"),
        ({"preset": "opd", "judge": None}, "needs_teacher", "reference.name"),
        ({"preset": "opd", "judge": None, "objective": {"name": "dapo"}}, "zero_loss", "examples.rule"),
        ({"preset": "rft", "judge": None}, "missing_setting", "judge"),
        ({"preset": "spin", "judge": None, "shaping.length_penalty": 0.1}, "no_effect", "shaping"),
        ({"preset": "grpo", "examples.rate": 0.5}, "no_effect", "examples.rate"),
        ({"preset": "xpo", "rivals.n": 0, "loop.n": 2}, "wrong_rivals", "rivals.n"),
        ({"preset": "xpo", "rivals.mix": 0.5}, "wrong_rivals", "rivals.n"),
        ({"preset": "grpo", "rivals.n": 1}, "wrong_rivals", "rivals.n"),
        ({"preset": "spin", "judge": None, "objective": {"name": "rebel"}}, "needs_scores", "judge"),
        ({"preset": "bond", "rivals.n": 1}, "too_few_samples", "loop.n"),
        ({"rivals.mix": 0.5}, "no_effect", "rivals.mix"),
        ({"loop.rate": 0.1}, "no_effect", "loop.rate"),
        ({"stop.held_out_falls": True}, "no_effect", "stop.held_out_falls"),
        ({"preset": "rloo", "loop.past_rounds": 1}, "needs_correction", "loop.past_rounds"),
        (
            {"preset": "rloo", "loop.past_rounds": 1, "correction.kind": "token_truncate"},
            "needs_correction",
            "loop.past_rounds",
        ),
        (
            {"preset": "ppo", "loop.past_rounds": 1, "correction.kind": "sequence_mask"},
            "conflict",
            "loop.past_rounds",
        ),
        ({"preset": "ppo", "loop.reference": "reset"}, "not_supported", "loop.reference"),
        ({"preset": "grpo", "correction.kind": "token_truncate"}, "no_effect", "correction.kind"),
        ({"correction.kind": "sequence_mask", "loop.past_rounds": 1}, "no_effect", "correction.kind"),
        ({"preset": "grpo", "loop.kl_target": 1.0}, "no_effect", "loop.kl_target"),
        ({"preset": "grpo", "critic.value_learning_rate": 1e-3}, "no_effect", "critic.value_learning_rate"),
        ({"loop.kl_horizon": 100}, "no_effect", "loop.kl_horizon"),
        ({"loop.refills": 1}, "no_effect", "loop.refills"),
        ({"preset": "reinforce_pp", "loop.refills": 1}, "no_effect", "loop.refills"),
        ({"preset": "a_star_po", "loop.refills": 1}, "no_effect", "loop.refills"),
        (
            {"preset": "rloo", "loop.refills": 1, "loop.past_rounds": 1, "correction.kind": "sequence_mask"},
            "conflict",
            "loop.refills",
        ),
        (
            {"stop.held_out_falls": True, "held_out_judge": "length", "loop.save_every": 2},
            "conflict",
            "loop.save_every",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_draw(model, prompts, tmp_path, settings, code, key):
    given = {"preset": "online_dpo", "judge": "gold", **SHORT, **settings}
    with raises(ConfigError, code, key=key):
        tiltlm.loop(model=model, data=str(prompts), output=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_a_round_draws_other_prompts_for_those_without_a_signal(model, prompts, tmp_path, monkeypatch):
    """Every second prompt scores the same whatever is said: two batches of 4 give 4 prompts that teach something."""
    silent = WORLD.prompts("train")[:20:2]
    real = TextWorld.reward
    monkeypatch.setattr(TextWorld, "reward", lambda self, p, text: 1.0 if p in silent else real(self, p, text))
    monkeypatch.setenv("TILTLM_CACHE", str(tmp_path / "judgements"))
    settings = {"loop.prompts_per_round": 4, "loop.refills": 4, "loop.rounds": 2, "loop.n": 4}
    found = run(model, prompts, tmp_path / "run", "grpo", **settings)
    asked = []
    for number, card in enumerate(found.cards):
        folder = found.path / "rounds" / f"{number:04d}"
        files = [folder / "samples.jsonl.gz", *sorted(folder.glob("samples-*.jsonl.gz"))]
        drawn = [row.id for path in files for row in read_answers(path)]
        asked += drawn
        used = [one["id"] for one in lines(folder / "examples.jsonl")]
        texts = {row.id: row.prompt for path in files for row in read_answers(path)}
        assert card.num_prompts == len(drawn) == 4 * len(files)
        assert card.num_examples == len(used) <= 4
        assert not {texts[name] for name in used} & set(silent)
        assert sum(card.dropped.values()) + card.num_examples == card.num_prompts
        assert used == [name for name in drawn if name in used], "the first ones, in the order of the draw"
    assert found.cards[0].num_examples == 4
    assert len(set(asked[:20])) == len(asked[:20]), "no prompt comes twice in a pass over the data"


def test_the_best_round_is_kept_when_the_held_out_score_falls(model, prompts, tmp_path, monkeypatch):
    """The held-out judge likes 84 characters, and the judge that trains what is long; samples begin with 75."""
    settings = {"stop.held_out_falls": True, "loop.rounds": 12, "loop.prompts_per_round": 20, "batch_size": 20}
    monkeypatch.setattr(TextWorld, "reward", lambda self, prompt, text: -float(abs(len(text) - 84)))
    monkeypatch.setenv("TILTLM_CACHE", str(tmp_path / "judgements"))
    found = run(
        model, prompts, tmp_path / "run", "grpo", judge="length", held_out_judge="gold", unaudited=True,
        **settings, **{"training.keep_checkpoints": 1, "max_new_tokens": 24, "learning_rate": 3e-3},
    )  # fmt: skip
    assert found.stop.rule == "held_out_falls"
    best = max(found.cards, key=lambda card: card.held_out.estimate).round
    assert found.stop.best == best
    assert 0 < best < len(found.cards) - 1
    samples = read_answers(found.path / "rounds" / f"{best:04d}" / "samples.jsonl.gz")
    kept = tiltlm.load_policy(str(found.path / "model")).module
    trees = [Tree(row.prompt_ids, tuple(map(Response, row.token_ids))) for row in samples]
    with torch.no_grad():
        logps = kept(pack_trees(trees)).seq_logps.tolist()
    assert logps == pytest.approx([logp for row in samples for logp in row.logps], abs=1e-3)


def test_samples_of_the_round_before_are_weighed_by_the_policy_that_drew_them(model, prompts, tmp_path):
    """The effective number of samples of a round, from the log-probabilities in its files and in those before."""
    settings = {"loop.past_rounds": 1, "correction.kind": "sequence_mask", "correction.high": 3.0, "loop.rounds": 2}
    found = run(model, prompts, tmp_path / "run", "grpo", **settings)
    assert found.cards[0].effective == pytest.approx(1.0)
    folders = [found.path / "rounds" / f"000{k}" for k in range(2)]
    first, second = (np.load(folder / "old-logps.npy")[0].astype(float) for folder in folders)
    past = second[-len(first) :] - first
    rows = {row.id: row for row in read_answers(folders[0] / "samples.jsonl.gz")}
    lengths = [len(ids) for one in lines(folders[0] / "examples.jsonl") for ids in rows[one["id"]].token_ids]
    assert sum(lengths) == len(first)
    whole = np.array([part.sum() for part in np.split(past, np.cumsum(lengths)[:-1])])
    weights = np.concatenate(
        [np.ones(len(rows) and found.cards[1].num_examples * 8), np.exp(whole[whole <= np.log(3)])]
    )
    assert found.cards[1].effective == pytest.approx(weights.sum() ** 2 / (len(weights) * (weights**2).sum()))
    assert found.cards[1].effective < 1


def test_the_kl_coefficient_follows_from_the_cards(model, prompts, tmp_path):
    """β .05; a KL of 0 is a fifth below any target, and 8 samples are a whole horizon."""
    settings = {"loop.kl_target": 1e-4, "loop.kl_horizon": 8, "loop.rounds": 3}
    found = run(model, prompts, tmp_path / "run", "ppo", **settings)
    expected = 0.05
    for card in found.cards:
        assert card.kl_coef == pytest.approx(expected)
        expected *= 1 + np.clip(card.kl.estimate / 1e-4 - 1, -0.2, 0.2)
    free = run(model, prompts, tmp_path / "free", "ppo", **{"loop.rounds": 3})
    assert free.cards[0].kl_coef is None
    assert free.cards[0].loss == found.cards[0].loss
    assert free.cards[1].loss != found.cards[1].loss


def test_a_critic_learns_beside_the_policy_and_is_not_in_the_model(model, prompts, tmp_path):
    found = run(model, prompts, tmp_path / "run", "ppo", **{"critic.value_learning_rate": 0.05, "loop.rounds": 2})
    saved = tiltlm.load_policy(str(found.path / "model")).module
    assert saved.value_head is None
    numbers = np.load(found.path / "rounds" / "0001" / "old-logps.npy")
    assert numbers.shape[0] == 2
    assert (numbers[1] != 0).all(), "the values of the second round are no longer those of its beginning"


def test_the_schedule_covers_the_examples_of_earlier_rounds(model, prompts, tmp_path):
    """Rounds of 8, 16 and 16 examples in steps of 4: ten steps, and the rate falls to a tenth in the last of them."""
    settings = {"loop.past_rounds": 1, "schedule": "linear", "warmup_ratio": 0.0}
    found = run(model, prompts, tmp_path / "run", **settings)
    rates = [line["learning_rate"] for line in lines(found.path / "metrics.jsonl")]
    assert all(rate > 0 for rate in rates)
    assert rates == pytest.approx([1e-3 * (1 - k / 10) for k in range(len(rates))])


def test_stops(model, prompts, tmp_path):
    by_tokens = run(model, prompts, tmp_path / "tokens", **{"stop.sampled_tokens": 100})
    assert (len(by_tokens.cards), by_tokens.stop.rule) == (1, "sampled_tokens")
    by_judgements = run(model, prompts, tmp_path / "judged", **{"stop.judgements": 20})
    assert (len(by_judgements.cards), by_judgements.stop.rule) == (2, "judgements")
    empty = run(model, prompts, tmp_path / "empty", **{"examples.gap": 100.0, "stop.empty_rounds": 2})
    assert (len(empty.cards), empty.stop.rule) == (2, "empty_rounds")
    assert all(card.num_steps == 0 for card in empty.cards)


def test_the_page_says_that_a_loop_ended_in_its_warm_up(model, prompts, tmp_path):
    settings = {"stop.judgements": 32, "training.warmup_ratio": 0.1}
    cautions = {}
    for rounds in (100, 2):
        found = run(model, prompts, tmp_path / str(rounds), **{**settings, "loop.rounds": rounds})
        twin = json.loads((found.path / "loop.json").read_text())
        cautions[rounds] = {caution["key"] for caution in twin["cautions"]}
    assert "in_warmup" in cautions[100]
    assert "in_warmup" not in cautions[2]


def test_a_loop_goes_on_with_its_own_settings_only(model, prompts, tmp_path):
    steady = {"warmup_ratio": 0.0}
    run(model, prompts, tmp_path / "run", **{**steady, "loop.rounds": 1})
    for key, value in {"examples.soft": False, "loop.n": 4, "objective.beta": 0.3, "temperature": 0.7}.items():
        name = f"sampling.{key}" if key == "temperature" else key
        rule = {"examples.rule": "best_worst"} if key == "loop.n" else {}
        with raises(ConfigError, "other_run", key="examples.rule" if rule else name):
            run(model, prompts, tmp_path / "run", resume=True, **{**steady, "loop.rounds": 1, key: value, **rule})
    with raises(ConfigError, "other_run", key="judge.kind"):
        run(model, prompts, tmp_path / "run", resume=True, judge="length", unaudited=True, **steady)
    longer = run(model, prompts, tmp_path / "run", resume=True, **{**steady, "loop.rounds": 3})
    whole = run(model, prompts, tmp_path / "whole", **{**steady, "loop.rounds": 3})
    assert contents(longer.path) == contents(whole.path), "the rate is constant, so more rounds change none before"


def test_samples_are_kept_when_the_judge_fails_in_the_first_round(model, prompts, tmp_path):
    judge = {"kind": "verifier", "function": "operator:truediv"}  # called with three arguments, it raises
    with raises(TiltError, "judge_errors", key="judge"):
        run(model, prompts, tmp_path / "run", judge=judge)
    assert (tmp_path / "run" / "rounds" / "0000" / "samples.jsonl.gz").exists()
    assert not (tmp_path / "run" / "rounds" / "0000" / "verdicts.jsonl").exists()


def test_a_loop_is_not_continued_with_another_configuration_of_its_model(model, prompts, tmp_path):
    """The files of the model have changed in their place, so no setting differs."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    run(folder, prompts, tmp_path / "run", "grpo", **{"loop.rounds": 1})
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 777.0
    (folder / "config.json").write_text(json.dumps(config))
    with raises(ConfigError, "other_run", key="--resume", mentions=["rope_theta", "777"]):
        run(folder, prompts, tmp_path / "run", "grpo", resume=True, **{"loop.rounds": 1})
