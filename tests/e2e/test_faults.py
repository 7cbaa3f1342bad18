"""Faults of disks, rights, packages and weights: one error of ours, early, and nothing left that blocks a retry."""

import errno
import json
import os
import shutil
import sys
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

import tiltlm
from support.errors import has_event, raises
from tiltlm.core import ConfigError, ModelError, NumericsError, RunError
from tiltlm.report import RunReport
from tiltlm.runs import RunDirectory
from tiltlm.training import Origin

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture
def refuse(model, data, tmp_path, monkeypatch):
    """Return a function that expects `tiltlm.train` to refuse before a model is loaded, leaving nothing behind."""
    for name in ("load_policy", "load_scorer", "load_data"):
        monkeypatch.setattr(f"tiltlm.recipes.prepare.{name}", lambda *_, **__: pytest.fail("it was loaded"))

    def run(code, key, kind=ConfigError, **settings):
        before = sorted(tmp_path.rglob("*"))
        given = {"model": model, "data": data, "objective": "dpo", "output": tmp_path / "run", **settings}
        with raises(kind, code, key=key):
            tiltlm.train(**given)
        assert sorted(tmp_path.rglob("*")) == before

    return run


@pytest.mark.parametrize("setting", ["output", "reference.store", "data.cache"])
@pytest.mark.parametrize("fault", ["below a file", "name too long", "no rights", "read-only"])
def test_a_folder_that_cannot_be_written(refuse, tmp_path, monkeypatch, setting, fault):
    (tmp_path / "file").touch()
    folders = {"below a file": tmp_path / "file/deep/run", "name too long": tmp_path / ("x" * 300)}
    if fault not in folders:  # tests may run as root, which has all rights
        number = {"no rights": errno.EACCES, "read-only": errno.EROFS}[fault]

        def refuse_file(dir):
            raise OSError(number, os.strerror(number), str(dir))

        monkeypatch.setattr("tiltlm.storage.files.tempfile.TemporaryFile", refuse_file)
        if setting != "output":
            monkeypatch.setattr("tiltlm.runs.directory.check_writable", lambda folder: None)
    objective = "simpo" if setting == "data.cache" else "dpo"  # without a reference there is no store
    refuse("not_writable", setting, objective=objective, **{setting: str(folders.get(fault, tmp_path / "new"))})


@pytest.mark.parametrize("unreadable", ["folder", "sweep"])
def test_an_output_folder_that_cannot_be_listed(model, data, tmp_path, monkeypatch, unreadable):
    def refuse_listing(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    (tmp_path / "run").mkdir()
    monkeypatch.setattr("tiltlm.runs.directory.os.listdir", refuse_listing)
    settings = {"model": model, "data": data, "objective": "dpo", "output": tmp_path / "run"}
    with raises(ConfigError, "not_writable", key="output"):
        if unreadable == "folder":
            tiltlm.train(**settings)
        else:
            tiltlm.sweep(None, {"beta": [0.1, 0.2]}, **settings)


@pytest.mark.parametrize(
    ("settings", "code", "key", "kind"),
    [
        ({"training.trackers": ["trackio"]}, "missing_dependency", "training.trackers", ConfigError),
        ({"training.trackers": ["wandb"]}, "missing_dependency", "training.trackers", ConfigError),
        ({"training.optimizer": "adamw_8bit"}, "missing_dependency", "training.optimizer", ConfigError),
        ({"reference": "base"}, "no_adapter", "reference.name", ConfigError),
        ({"reference": "initail"}, "unknown_name", "reference.name", ConfigError),
        ({"reference": "/no/such/model"}, "no_such_path", "reference.name", ModelError),
        ({"reference": "none"}, "needs_reference", "reference.name", ConfigError),
        ({"objective": "simpo", "reference": "initial"}, "no_effect", "reference.name", ConfigError),
        ({"eval_fraction": 0.0, "eval_every": 1}, "needs_held_out", "training.eval_every", ConfigError),
        ({"eval_fraction": 0.0, "best_metric": "eval_loss"}, "needs_held_out", "training.best_metric", ConfigError),
        ({"best_metric": "eval_rewards/accuracy"}, "unknown_name", "training.best_metric", ConfigError),
        (
            {"objective": "sft", "best_metric": "eval_rewards/margins"},
            "unknown_name",
            "training.best_metric",
            ConfigError,
        ),
        ({"model": "/no/such/model"}, "no_such_path", "model.path", ModelError),
    ],
    ids=lambda value: "-".join(f"{k}" for k in value) if isinstance(value, dict) else "",
)
def test_what_can_be_seen_before_loading(refuse, monkeypatch, settings, code, key, kind):
    for package in ("trackio", "wandb", "bitsandbytes"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    refuse(code, key, kind, **settings)


def test_a_sweep_checks_all_its_runs_before_the_first(model, data, tmp_path, monkeypatch):
    monkeypatch.setattr("tiltlm.recipes.studies.sweep.train", lambda *_, **__: pytest.fail("a run has started"))
    settings = {"model": model, "data": data, "objective": "dpo", "output": tmp_path / "sweep"}
    with raises(ConfigError, "no_adapter", key="reference.name"):
        tiltlm.sweep(None, {"reference.name": ["initial", "base"]}, **settings)
    assert not (tmp_path / "sweep").exists()
    with raises(ConfigError, "duplicate", key="objective.name"):
        tiltlm.sweep(None, ["objective=dpo,ipo"], **settings)


def test_a_sweep_with_a_run_that_failed_ends_with_exit_code_1(model, data, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RunError("the disk is full", code="not_writable")

    monkeypatch.setattr("tiltlm.recipes.studies.sweep.train", fail)
    settings = {"model": model, "data": data, "objective": "simpo", "output": tmp_path / "sweep", "progress": False}
    swept = tiltlm.sweep(None, {"beta": [1, 2]}, **settings)
    assert swept.exit_code == 1
    assert "the disk is full" in swept.summary()
    assert "--resume" in swept.summary()
    swept = replace(swept, runs=tuple(replace(run, report=RunReport("a run"), error="") for run in swept.runs))
    assert swept.exit_code == 0
    assert "--resume" not in swept.summary()


def test_a_run_that_never_began_does_not_block_the_next(train, data, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RunError("the tracker wants a login", code="tracker_failed")

    settings = {"data": data, "objective": "dpo", "max_steps": 1}
    with monkeypatch.context() as patch:
        patch.setattr("tiltlm.recipes.train.train_loop", fail)
        with raises(RunError, "tracker_failed"):
            train(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
    assert train(tmp_path / "run", **settings).training.num_steps == 1
    with monkeypatch.context() as patch:
        patch.setattr("tiltlm.recipes.train.train_loop", fail)
        with raises(RunError, "tracker_failed"):
            train(tmp_path / "run", **settings, resume=True)
    assert (tmp_path / "run/model/model.safetensors").exists(), "a run with records is never removed"


def test_a_disk_that_is_full_when_the_model_is_saved(train, data, tmp_path, monkeypatch):
    """Training is not lost: with space again, --resume takes no step and saves the model."""
    settings = {"data": data, "objective": "dpo", "max_steps": 2}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("tiltlm.recipes.train.save_policy", full)
        with raises(RunError, "not_writable", key="output", mentions=["--resume"]):
            train(tmp_path / "run", **settings)
    assert not (tmp_path / "run/model").exists()
    train(tmp_path / "run", **settings, resume=True)
    assert (tmp_path / "run/model/model.safetensors").exists()


def test_skipped_steps_are_counted_wherever_the_run_is_described(train, data, tmp_path, monkeypatch):
    good = iter([True, False, False])
    monkeypatch.setattr("tiltlm.training.loop.is_good", lambda *_: next(good, True))
    run = train(tmp_path / "run", data=data, objective="dpo", max_steps=4, batch_size=4, eval_fraction=0.25)
    report = json.loads((run.path / "report.json").read_text())
    assert report["skipped"] == run.report.skipped == 2
    (caution,) = [one for one in report["verdict"]["cautions"] if one["key"] == "skipped_steps"]
    assert caution["text"] in run.summary()
    assert caution["text"] in (run.path / "report.html").read_text()
    assert "4 steps of 4 examples, 2 of them skipped" in (run.path / "model/README.md").read_text()


DESCRIPTION = ("config.yaml", "versions.json", "data.json", "digests.json")


@pytest.mark.parametrize("written", range(len(DESCRIPTION)))
def test_a_run_killed_before_it_is_described_is_described_when_it_is_resumed(
    train, data, tmp_path, monkeypatch, written
):
    """The kill comes before one of the files that say what the run is."""
    settings = {"data": data, "objective": "dpo", "max_steps": 1, "eval_fraction": 0.0}

    class Killed(BaseException):
        pass

    def kill(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        for writer in ("write_text", "write_json"):
            original = getattr(RunDirectory, writer)

            def write(run, name, value, original=original):
                return kill() if name == DESCRIPTION[written] else original(run, name, value)

            patch.setattr(RunDirectory, writer, write)
        with pytest.raises(Killed):
            train(tmp_path / "run", **settings)
    assert not (tmp_path / "run" / DESCRIPTION[written]).exists()
    (tmp_path / "run/.writer.json").unlink(missing_ok=True)
    train(tmp_path / "run", **settings, resume=True)
    train(tmp_path / "whole", **settings)
    for name in DESCRIPTION:
        found, expected = ((tmp_path / run / name).read_text() for run in ("run", "whole"))
        assert found.replace(str(tmp_path / "run"), "RUN") == expected.replace(str(tmp_path / "whole"), "RUN")
    assert (tmp_path / "run/model/model.safetensors").stat().st_mode == (tmp_path / "run/config.yaml").stat().st_mode


def test_a_policy_that_cannot_be_measured_is_saved_and_reported(train, data, tmp_path, monkeypatch, caplog):
    from tiltlm.recipes import train as recipe

    def measure(*arguments, trained):
        if trained:
            raise NumericsError("pairs.jsonl:3: response 0 has reward nan", code="not_finite")
        return recipe_measure(*arguments, trained=trained)

    recipe_measure = recipe.measure_policy
    monkeypatch.setattr(recipe, "measure_policy", measure)
    run = train(tmp_path / "run", data=data, objective="dpo", max_steps=1, eval_fraction=0.25)
    assert has_event(caplog, "not_measured")
    assert "pairs.jsonl:3" in run.verdict
    assert "pairs.jsonl:3" in (run.path / "model/README.md").read_text()
    assert json.loads((run.path / "report.json").read_text())["failure"]
    assert (run.path / "model/model.safetensors").exists()
    assert (run.path / "report.html").exists()


@pytest.fixture(scope="module")
def finished(train, data, tmp_path_factory):
    """Return a finished run of an adapter, without a reference and with one, and its settings."""
    runs = {}
    for objective in ("simpo", "dpo"):
        path = tmp_path_factory.mktemp("runs") / objective
        settings = {"data": data, "objective": objective, "max_steps": 2, "eval_fraction": 0.0, "lora": {"r": 2}}
        train(path, **settings)
        runs[objective] = path, settings
    return runs


def with_rope(folder):
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 777.0
    (folder / "config.json").write_text(json.dumps(config))


def with_other_weights(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "mlp" in name)
    save_file({**weights, name: weights[name] + 0.01}, folder / "model.safetensors", {"format": "pt"})


def with_other_tokenizer(folder):
    """Exchange the ids of two words."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, other = ".", "!"
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("objective", "change", "mentions"),
    [
        ("simpo", {"model.lora.alpha": 64}, ["lora_alpha", "32", "64"]),
        ("simpo", {"model.lora.rslora": True}, ["use_rslora", "False", "True"]),
        ("simpo", {"model.lora.seed": 5}, ["adapter start"]),
        ("simpo", {"model.precision": "bf16"}, ["precision of products", "float32", "bf16"]),
        ("simpo", {"model.dtype": "bfloat16"}, ["model dtype", "float32", "bfloat16"]),
        ("simpo", with_rope, ["rope_theta", "777"]),
        ("simpo", with_other_weights, ["model weights"]),
        ("simpo", with_other_tokenizer, ["training data"]),
        ("simpo", "other rows", ["training data"]),
        ("simpo", {"training.batch_size": 3}, ["training.batch_size was 16 and is 3"]),
        ("dpo", {"model.lora.alpha": 64}, ["lora_alpha", "32", "64"]),
        ("dpo", with_rope, ["rope_theta", "777"]),
    ],
)
def test_a_resume_with_another_model_is_refused(
    train, model, data, finished, tmp_path, monkeypatch, objective, change, mentions
):
    monkeypatch.setattr("tiltlm.recipes.train.save", lambda *_: pytest.fail("the run went on"))
    path, settings = finished[objective]
    if change == "other rows":
        (tmp_path / "other.jsonl").write_text("".join(data.read_text().splitlines(keepends=True)[:-1]))
        change = {"data": tmp_path / "other.jsonl"}
    if callable(change):
        shutil.copytree(model, tmp_path / "other")
        change(tmp_path / "other")
        change = {"model": tmp_path / "other"}
    with raises(ConfigError, "other_run", key="--resume", mentions=mentions):
        train(path, **{**settings, **change}, resume=True)


def test_the_same_model_elsewhere_and_in_another_exact_layout_goes_on(train, model, finished, tmp_path):
    path, settings = finished["dpo"]
    shutil.copytree(path, tmp_path / "run")
    shutil.copytree(model, tmp_path / "moved")
    run = train(tmp_path / "run", **settings, model=tmp_path / "moved", **{"model.layout": "packed"}, resume=True)
    assert run.training.num_steps == 2
    assert "model.layout shared → packed" in (run.path / "log.txt").read_text()


def test_a_checkpoint_that_does_not_name_its_model_is_refused(train, finished, tmp_path, monkeypatch):
    """Checkpoints of earlier versions are so."""
    _, settings = finished["simpo"]
    with monkeypatch.context() as patch:
        patch.setattr("tiltlm.recipes.train.origin_of", lambda *_: Origin())
        train(tmp_path / "run", **settings)
    with raises(ConfigError, "old_checkpoint", key="--resume", mentions=[tiltlm.__version__]):
        train(tmp_path / "run", **settings, resume=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_model_with_one_bad_number_is_refused_by_its_parameter(model, data, tmp_path, bad):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name, tensor in weights.items() if "mlp" in name)
    weights[name] = weights[name].clone()
    weights[name].view(-1)[3] = bad
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with raises(ModelError, "weights_not_finite", key="model.path", mentions=[str(folder), name]):
        tiltlm.train(model=folder, data=data, objective="dpo", output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "generation_config.json")


@pytest.mark.parametrize("name", MODEL_FILES)
@pytest.mark.parametrize("fault", ["missing", "empty", "torn", "a folder", "no JSON"])
def test_a_model_folder_with_a_damaged_file(model, data, tmp_path, name, fault):
    """It is refused as a fault of the model, or trains where the file is not needed; nothing else is raised."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if fault == "a folder":
        (folder / name).mkdir()
    elif fault != "missing":
        torn = content[: len(content) // 2]
        (folder / name).write_bytes({"empty": b"", "torn": torn, "no JSON": b"[3]"}[fault])
    found = []
    for use in (lambda: tiltlm.preview(model=folder, data=data), lambda: tiltlm.load_policy(folder)):
        try:
            use()
        except ModelError as error:
            found.append(error)
    assert all(str(folder) in str(error) and error.key == "model.path" for error in found)
    assert found or name != "model.safetensors"
