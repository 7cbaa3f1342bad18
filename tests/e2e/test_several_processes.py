"""`tiltlm train` under a launcher: two processes write the run directory of one process; only rank 0 prints."""

import json
import re
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiltlm
from support.errors import raises
from support.launching import CLI, launch, wait_until
from tiltlm.core import ConfigError

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[1] / "support" / "several_runs.py"
FAILING = SCRIPT.with_name("failing_rank.py")
SETTINGS = {
    "objective": "dpo", "beta": 0.5, "learning_rate": 1e-3, "num_epochs": 2, "batch_size": 7, "eval_fraction": 0.25,
    "training.max_tokens": 128, "training.eval_every": 4, "training.save_every": 4, "model.precision": "float32",
    "evaluation.num_prompts": 2, "evaluation.num_samples": 2, "evaluation.max_new_tokens": 8,
}  # fmt: skip
BEST = {"training.best_metric": "eval_logps/chosen"}
"""The best weights come from an early step and are restored at the end."""
RUNS = {
    "replicate": {},
    "shard": {"training.parallel": "shard", **BEST},
    "lora": {"model.lora.r": 4},
    "lora shard": {"model.lora.r": 4, "training.parallel": "shard", "reference.cache": False},
}
"""Name → settings of the runs in two processes."""
ALIKE = {"replicate": "full", "shard": "best", "lora": "lora", "lora shard": "lora"}
"""Name → the run of one process that must be equal."""


def command(model, data, output: Path, **settings) -> list[str]:
    named = ["train", "--model", model, "--data", str(data), "--output", str(output)]
    return [*named, *(f"{key}={value}" for key, value in settings.items())]


@pytest.fixture(scope="module")
def together(model, data, tmp_path_factory):
    """Return the folder of the runs of two processes, and their outputs."""
    folder = tmp_path_factory.mktemp("together")
    commands = [command(model, data, folder / name, **SETTINGS, **own) for name, own in RUNS.items()]
    commands.append([*command(model, data, folder / "again", **SETTINGS, **RUNS["shard"]), "--resume"])
    (folder / "commands.json").write_text(json.dumps(commands))
    return folder, launch([SCRIPT, folder], folder)


@pytest.fixture(scope="module")
def alone(model, data, tmp_path_factory):
    """Return the folder of the runs of one process."""
    folder = tmp_path_factory.mktemp("alone")
    for name, own in {"full": {}, "best": BEST, "lora": {"model.lora.r": 4}}.items():
        tiltlm.train(model=model, data=data, output=folder / name, **SETTINGS, **own)
    return folder


def numbers(record: dict) -> dict:
    return {k: v for k, v in record.items() if "seconds" not in k}


def assert_same_run(found: Path, expected: Path) -> None:
    records, others = (
        [numbers(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (found, expected)
    )
    assert len(records) == len(others)
    for record, other in zip(records, others, strict=True):
        assert record.keys() == other.keys()
        for name in {"loss", "eval_loss"} & record.keys():
            assert record[name] == pytest.approx(other[name], rel=1e-5), (name, record["step"])
        assert record == pytest.approx(other, rel=1e-3, abs=1e-4)
    models = [load_file(folder / "model" / "model.safetensors") for folder in (found, expected)]
    assert models[0].keys() == models[1].keys()
    for name, tensor in models[1].items():
        torch.testing.assert_close(models[0][name], tensor, atol=1e-5, rtol=0, msg=name)
    assert {p.name for p in found.iterdir()} == {p.name for p in expected.iterdir()}


def flat(value, path="") -> dict:
    """Return the leaves of a JSON value by their path."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{path}/{key}").items()}
    if isinstance(value, list):
        return {k: v for i, item in enumerate(value) for k, v in flat(item, f"{path}/{i}").items()}
    return {path: value}


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_end_in_the_run_of_one(together, alone, name):
    assert_same_run(together[0] / name, alone / ALIKE[name])


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_write_the_report_of_one(together, alone, name):
    """All processes measure: held-out data, samples, where probability went. The facts are those of one process."""
    found, expected = (
        json.loads((folder / "report.json").read_text()) for folder in (together[0] / name, alone / ALIKE[name])
    )
    assert found.keys() == expected.keys()
    for part in ("held_out", "training_accuracy", "samples", "probability", "facts", "title", "data"):
        leaves, others = flat(found[part]), flat(expected[part])
        assert leaves.keys() == others.keys()
        for path, value in others.items():
            approximate = pytest.approx(value, rel=1e-3, abs=1e-4) if isinstance(value, float) else value
            assert leaves[path] == approximate, f"{part}{path}"


def test_the_best_weights_are_not_the_last(alone):
    """Otherwise the run `best` would not test that the best weights are restored."""
    best, last = (load_file(alone / name / "model" / "model.safetensors") for name in ("best", "full"))
    assert any(not torch.allclose(best[name], last[name], atol=1e-4) for name in best)


def test_only_rank_0_prints(together):
    _, ended = together
    assert ended.out[0].count("report  ") == len(RUNS) + 1
    assert "training.parallel=shard" in ended.err[0]
    assert ended.out[1] == ""
    assert ended.err[1] == ""


def test_each_process_computes_its_share_of_the_reference_once(together):
    """The line of the reference in log.txt has two numbers: sequences read from the store, sequences computed."""
    logs = [file.read_text() for file in together[0].glob("*/log.txt")]
    numbers = [pair for log in logs for pair in re.findall(r"reference: (\d+) sequences .* (\d+) computed", log)]
    assert ("0", "128") in numbers
    assert ("128", "0") in numbers


def test_shards_resume_exactly(together):
    """The checkpoint was written after an evaluation, when the weights of the root module were gathered."""
    folder, ended = together
    assert "step-00000012" in ended.err[0]
    assert_same_run(folder / "again", folder / "shard")


def test_an_error_in_one_process_ends_all_with_one_message(together):
    _, ended = together
    assert ended.codes == [1, 1], "\n".join(ended.err)
    assert ended.errors() == ["error: rank 1: only here"]


@pytest.mark.long
@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_an_error_while_one_process_draws_samples_ends_all_with_one_message(model, data, tmp_path, parallel):
    """The other process waits for the gathered samples or, with shards, inside a forward."""
    arguments = command(model, data, tmp_path / "run", **SETTINGS, **{"training.parallel": parallel})
    ended = launch([FAILING, *arguments], tmp_path)
    assert ended.codes == [1, 1], "\n".join(ended.err)
    assert ended.errors() == ["error: rank 1: only here, after DecodedBatch"]


def test_bad_input_ends_all_with_one_message(model, tmp_path):
    arguments = command(model, tmp_path / "no.jsonl", tmp_path / "run", objective="dpo")
    ended = launch([*CLI, *arguments], tmp_path)
    assert ended.codes == [2, 2]
    (message,) = ended.errors()
    assert "no.jsonl" in message
    assert ended.out == ["", ""]
    assert not (tmp_path / "run").exists()


def test_a_signal_to_one_process_stops_all_with_a_checkpoint(model, data, tmp_path):
    def stop(processes) -> None:
        metrics = tmp_path / "run" / "metrics.jsonl"
        wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") > 2, seconds=240)
        processes[-1].send_signal(signal.SIGTERM)

    arguments = command(model, data, tmp_path / "run", **{**SETTINGS, "num_epochs": 1000, "training.save_every": 10000})
    ended = launch([*CLI, *arguments], tmp_path, stop)
    assert ended.codes == [143, 143], "\n".join(ended.err)
    (message,) = ended.errors()
    assert "SIGTERM" in message
    assert list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.parametrize("call", ["quickstart", "score", "sweep"])
def test_commands_for_one_process_refuse_several(call, model, data, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    calls = {
        "quickstart": lambda: tiltlm.quickstart(output=tmp_path / "run"),
        "score": lambda: tiltlm.score(model=model, data=data, objective="sft"),
        "sweep": lambda: tiltlm.sweep(
            None, {"beta": [0.1, 1.0]}, model=model, data=data, objective="dpo", output=tmp_path / "run"
        ),
    }
    with raises(ConfigError, "several_processes", mentions=["2", f"tiltlm {call}"]):
        calls[call]()
    assert not (tmp_path / "run").exists()


def test_shards_need_several_processes(train, data, tmp_path):
    with raises(ConfigError, "needs_several_processes", key="training.parallel"):
        train(tmp_path / "run", data=data, objective="dpo", **{"training.parallel": "shard"})
    assert not (tmp_path / "run").exists()
