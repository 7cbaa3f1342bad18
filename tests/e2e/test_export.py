"""`tiltlm export`: a checkpoint becomes the folder that the run itself writes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import tiltlm
from support.errors import events, raises
from tiltlm.cli.main import app
from tiltlm.core import ConfigError, ModelError, RunError
from tiltlm.training.checkpoints.files import folder_of

SHORT = {"objective": "dpo", "learning_rate": 1e-2, "training.max_steps": 4, "training.save_every": 2,
         "evaluation.num_prompts": 0}  # fmt: skip
RUNS = {"full": {}, "lora": {"model.lora.r": 4}, "scorer": {"objective": "reward_model"}}


@pytest.fixture(scope="module")
def runs(model, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    for name, own in RUNS.items():
        tiltlm.train(model=model, data=data, output=folder / name, progress=False, **SHORT | own)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"}


@pytest.mark.parametrize("name", RUNS)
def test_the_last_checkpoint_is_the_model_of_the_run(runs, tmp_path, name):
    found = tiltlm.export(runs / name, tmp_path / "model", progress=False)
    assert contents(found.path) == contents(runs / name / "model")
    manifest = folder_of(runs / name / "checkpoints", 4) / "manifest.sha256"
    assert (found.step, found.digest) == (4, manifest.read_text().split()[0])
    if name != "scorer":
        AutoModelForCausalLM.from_pretrained(found.path)


def test_an_adapter_can_be_written_alone(runs, tmp_path):
    found = tiltlm.export(runs / "lora", tmp_path / "adapter", adapter=True, progress=False)
    assert contents(found.path) == contents(runs / "lora" / "adapter")
    with raises(ConfigError, "no_effect", key="--adapter"):
        tiltlm.export(runs / "full", tmp_path / "none", adapter=True, progress=False)
    assert not (tmp_path / "none").exists()


def test_an_earlier_step_has_its_own_weights(runs, tmp_path):
    found = tiltlm.export(runs / "full", tmp_path / "model", step=2, progress=False)
    weights = load_file(found.path / "model.safetensors")
    kept = load_file(folder_of(runs / "full/checkpoints", 2) / "policy.safetensors")
    last = load_file(runs / "full/model/model.safetensors")
    names = {name: f"model.{name}" for name in weights}
    assert all(torch.equal(tensor, kept[names[name]]) for name, tensor in weights.items())
    assert not all(torch.equal(tensor, last[name]) for name, tensor in weights.items())
    assert found.step == 2


def cut(runs: Path, folder: Path, name: str = "full") -> Path:
    """Return a copy of a run that was stopped before its end, and whose last checkpoint is damaged."""
    shutil.copytree(runs / name, folder)
    for other in ("model", "report.html", "report.json"):
        path = folder / other
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


def test_a_damaged_checkpoint_is_never_used(runs, tmp_path, caplog):
    run = cut(runs, tmp_path / "run")
    file = folder_of(run / "checkpoints", 4) / "policy.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with raises(RunError, "damaged", key="step", mentions=["step-00000004", "policy.safetensors"]):
        tiltlm.export(run, tmp_path / "none", step=4, progress=False)
    assert not (tmp_path / "none").exists()
    found = tiltlm.export(run, tmp_path / "model", progress=False)
    assert found.step == 2
    (skipped,) = events(caplog, "checkpoint_skipped")
    assert skipped.step == 4


def test_a_step_without_a_checkpoint_is_refused(runs, tmp_path):
    with raises(ConfigError, "no_checkpoint", key="step", mentions=["3", "2, 4"]):
        tiltlm.export(runs / "full", tmp_path / "none", step=3, progress=False)


def test_what_is_no_run_and_what_exists_are_refused(runs, tmp_path):
    with raises(ConfigError, "no_run", key="run"):
        tiltlm.export(tmp_path, tmp_path / "none", progress=False)
    with raises(ConfigError, "already_exists", key="output"):
        tiltlm.export(runs / "full", tmp_path, progress=False)
    run = cut(runs, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    with raises(ConfigError, "no_checkpoint", key="run"):
        tiltlm.export(run, tmp_path / "none", progress=False)


def test_an_adapter_on_another_base_is_refused(model, data, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(model, base)
    run = tiltlm.train(model=str(base), data=data, output=tmp_path / "run", progress=False, **SHORT | RUNS["lora"])
    weights = load_file(base / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, base / "model.safetensors", {"format": "pt"})
    with raises(ModelError, "other_model", key="model.path"):
        tiltlm.export(run.path, tmp_path / "none", progress=False)


def test_a_run_of_an_older_version_gets_the_chat_of_the_tokenizer(runs, tmp_path, caplog):
    run = cut(runs, tmp_path / "run")
    (run / "chat.json").unlink()
    found = tiltlm.export(run, tmp_path / "model", progress=False)
    assert events(caplog, "chat_unknown")
    ends = json.loads((found.path / "generation_config.json").read_text())["eos_token_id"]
    assert ends


def test_the_command_names_step_and_digest(runs, tmp_path):
    done = CliRunner().invoke(app, ["export", str(runs / "full"), str(tmp_path / "model"), "--step", "2"])
    assert done.exit_code == 0, done.output
    assert "after step 2" in done.output
    digest = (folder_of(runs / "full/checkpoints", 2) / "manifest.sha256").read_text().split()[0]
    assert digest in done.output
