"""`tiltlm loop` under a launcher: two processes draw, read and train together, and end as one does."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiltlm
from support.errors import raises
from support.launching import CLI, launch
from tiltlm.core import ConfigError, RunError
from tiltlm.sampling.answers import read_answers
from tiltlm.sampling.engines.own import OwnEngine
from tiltlm.worlds import TextWorld

pytestmark = pytest.mark.slow
COMMON = {
    "loop.rounds": 2, "loop.prompts_per_round": 9, "sampling.max_new_tokens": 24, "training.learning_rate": 1e-3,
    "model.precision": "float32",
}  # fmt: skip
LOOPS = {
    "online_dpo": {"training.batch_size": 4},
    "ppo": {"training.batch_size": 3, "critic.value_learning_rate": 1e-2, "loop.kl_target": 0.1, "loop.kl_horizon": 9},
    "nash_md": {"training.batch_size": 9},
    "d2po": {"training.batch_size": 4, "learned_judge.labels": 3, "learned_judge.rate": 1e-3},
}
"""Preset → its settings: pairs, a critic with several steps a round, rivals of a mixture, a judge that learns."""

SHARDED = {
    "online_dpo": {},
    "nash_md": {"model.lora.r": 4},
    "grpo": {"training.batch_size": 3},
}
"""Preset → settings beside those of `LOOPS`: all weights and a stored reference, an adapter, a policy gradient."""


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in TextWorld().prompts("train")[:20]))
    return path


def command(preset, model, prompts, output, **settings) -> list[str]:
    named = ["loop", "--preset", preset, "--judge", "gold", "--model", model, "--data", str(prompts)]
    return [*CLI, *named, "--output", str(output), *(f"{key}={value}" for key, value in settings.items())]


def alone(preset, model, prompts, output, **settings):
    given = {**COMMON, **LOOPS.get(preset, {}), **settings}
    return tiltlm.loop(
        preset=preset, judge="gold", model=model, data=str(prompts), output=output, progress=False, **given
    )


@pytest.mark.parametrize(
    "preset", ["online_dpo", "d2po", *(pytest.param(name, marks=pytest.mark.long) for name in ("ppo", "nash_md"))]
)
def test_two_processes_end_as_one(model, prompts, tmp_path, preset):
    assert_same_loop(model, prompts, tmp_path, preset, {}, {})


@pytest.mark.long
@pytest.mark.parametrize("preset", SHARDED)
def test_two_processes_that_share_the_weights_end_as_one(model, prompts, tmp_path, preset):
    """Samples, samples of a mixture, ratios, the KL and the reference of examples come from a sharded model in step."""
    assert_same_loop(model, prompts, tmp_path, preset, SHARDED[preset], {"training.parallel": "shard"})


def assert_same_loop(model, prompts, tmp_path, preset, settings, in_both) -> None:
    expected = alone(preset, model, prompts, tmp_path / "one", **settings)
    both = tmp_path / "both"
    given = {**COMMON, **LOOPS.get(preset, {}), **settings, **in_both}
    ended = launch(command(preset, model, prompts, both, **given), tmp_path)
    assert ended.codes == [0, 0], ended.err
    assert "All rounds are done." in ended.out[0]
    assert ended.out[1] == ""
    assert {path.name for path in both.iterdir()} == {path.name for path in expected.path.iterdir()}
    for number, card in enumerate(expected.cards):
        folders = [folder / "rounds" / f"{number:04d}" for folder in (both, expected.path)]
        assert {path.name for path in folders[0].iterdir()} == {path.name for path in folders[1].iterdir()}
        found, other = (read_answers(folder / "samples.jsonl.gz") for folder in folders)
        assert [(row.id, row.answers) for row in found] == [(row.id, row.answers) for row in other]
        theirs = json.loads((folders[0] / "card.json").read_text())
        for name in ("num_examples", "dropped", "judgements", "sampled_tokens", "train_tokens", "num_steps", "labels"):
            assert theirs[name] == getattr(card, name), name
        assert theirs["kl"]["estimate"] == pytest.approx(card.kl.estimate, abs=1e-4)
        assert theirs["loss"] == pytest.approx(card.loss, abs=1e-5)
    models = [load_file(folder / "model" / "model.safetensors") for folder in (both, expected.path)]
    for name, tensor in models[1].items():
        torch.testing.assert_close(models[0][name], tensor, atol=1e-4, rtol=0, msg=name)


def test_two_processes_go_on_where_one_was(model, prompts, tmp_path, monkeypatch):
    """A loop of one process, stopped after one of three chunks of a round; by generate_batch each draws its share."""
    steady = {"training.warmup_ratio": 0.0, "training.schedule": "constant", "sampling.max_rows": 6}
    expected = alone("online_dpo", model, prompts, tmp_path / "whole", **steady).path
    calls, draw, run = [], OwnEngine.draw, tmp_path / "run"

    def stop_in_second_round(engine, *asked, **more):
        calls.append(asked)
        if len(calls) == 5:
            raise RunError("stopped", code="stopped")
        return draw(engine, *asked, **more)

    with monkeypatch.context() as patch, raises(RunError, "stopped"):
        patch.setattr(OwnEngine, "draw", stop_in_second_round)
        alone("online_dpo", model, prompts, run, **steady)
    (partial,) = (run / "rounds" / "0001").glob(".*.partial")
    assert len(partial.read_text().splitlines()) == 2, "the request and one chunk"
    more = {**COMMON, **LOOPS["online_dpo"], **steady}
    ended = launch([*command("online_dpo", model, prompts, run, **more), "--resume"], tmp_path)
    assert ended.codes == [0, 0], ended.err
    found, other = (read_answers(folder / "rounds" / "0001" / "samples.jsonl.gz") for folder in (run, expected))
    assert [(row.id, row.answers) for row in found] == [(row.id, row.answers) for row in other]
    assert not partial.exists()
    batched = {**more, "engine.name": "generate_batch"}
    ended = launch(command("online_dpo", model, prompts, tmp_path / "batched", **batched), tmp_path)
    assert ended.codes == [0, 0], ended.err
    rows = read_answers(tmp_path / "batched" / "rounds" / "0001" / "samples.jsonl.gz")
    assert len(rows) == 9
    assert all(len(row.answers) == 2 for row in rows)


def test_an_error_in_the_first_process_ends_both(model, prompts, tmp_path):
    judge = "{kind: verifier, function: 'operator:truediv'}"
    arguments = command("online_dpo", model, prompts, tmp_path / "run", **COMMON)
    arguments[arguments.index("gold")] = judge
    ended = launch(arguments, tmp_path)
    assert ended.codes == [1, 1]
    assert len(ended.errors()) == 1


def test_an_engine_that_runs_a_sharded_policy_by_itself_is_refused(model, prompts, tmp_path):
    settings = {"training.parallel": "shard", "engine.name": "generate_batch"}
    with raises(ConfigError, "not_supported", key="engine.name"):
        alone("online_dpo", model, prompts, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_sharded_loop_needs_several_processes(model, prompts, tmp_path):
    with raises(ConfigError, "needs_several_processes", key="training.parallel"):
        alone("online_dpo", model, prompts, tmp_path / "run", **{"training.parallel": "shard"})
