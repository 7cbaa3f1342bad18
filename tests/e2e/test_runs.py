"""`tiltlm runs` on real runs: in progress, killed, stopped, failed, finished; and two of them compared."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tiltlm
from support.errors import raises
from tiltlm.cli.main import app
from tiltlm.core import RunError


def tell(*arguments: object) -> str:
    """Return what a command prints."""
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_finished_run_is_listed_with_its_verdict(trained):
    (run,) = tiltlm.runs_list(trained.path)
    assert (run.state, run.kind, run.objective) == ("finished", "train", "dpo")
    assert run.sentence == trained.verdict
    assert run.step == trained.training.num_steps
    numbers = trained.to_pandas()
    for name in ("accuracy", "kl", "margin"):
        assert run.numbers[name].estimate == pytest.approx(numbers.loc[name, "estimate"])
        assert run.numbers[name].low == pytest.approx(numbers.loc[name, "low"])


def test_the_command_lists_without_a_name_and_by_its_name(trained):
    by_name = tell("runs", "list", trained.path)
    assert by_name == tell("runs", trained.path)
    assert str(trained.path) in by_name
    plain = json.loads(tell("runs", "--json", "--state", "finished", trained.path))
    assert plain["runs"][0]["path"] == str(trained.path)
    assert json.loads(tell("runs", trained.path, "--state=failed", "--json"))["runs"] == []
    assert "diff" in tell("runs", "--help")


def test_listing_imports_nothing_heavy(trained):
    code = (
        "import sys, tiltlm; tiltlm.runs_list(sys.argv[1]).summary();"
        "tiltlm.runs_diff(sys.argv[1], sys.argv[1]).summary();"
        "print({'torch', 'transformers', 'scipy', 'matplotlib', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, trained.path], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "set()", done.stderr


def test_two_runs_are_compared(trained, train, data, tmp_path):
    settings = {"data": data, "objective": "dpo", "learning_rate": 1e-3, "batch_size": 8, "eval_fraction": 0.25}
    other = train(tmp_path / "other", beta=0.1, num_epochs=1, **settings)
    found = tiltlm.runs_diff(trained.path, other.path)
    assert {"objective.beta", "training.num_epochs"} <= {one.key for one in found.settings}
    assert found.same == {"model": True, "reference": True, "data": True, "held-out data": True}
    assert found.versions == ()
    accuracy = next(one for one in found.results if one.name == "accuracy")
    assert accuracy.paired is not None
    page = tmp_path / "page.html"
    assert "objective.beta" in tell("runs", "diff", trained.path, other.path, "--html", page)
    assert page.read_text().count('<svg class="figure"') == len(found.curves)


def test_a_failed_run_says_its_error(train, data, tmp_path):
    with raises(RunError, "weights_not_finite"):
        train(tmp_path / "run", data=data, objective="dpo", learning_rate=1e38, warmup_ratio=0, eval_fraction=0.25)
    (run,) = tiltlm.runs_list(tmp_path)
    assert (run.state, run.code) == ("failed", "weights_not_finite")
    assert "training.learning_rate" in run.note


def wait_for(condition, process: subprocess.Popen) -> None:
    """Wait until a condition holds, at most a minute; the process must not end before."""
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_is_seen_running_stopped_and_killed(model, data, tmp_path):
    run = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "tiltlm", "train", "--model", model, "--data", str(data), "--objective", "dpo"),
        *("--output", str(run), "num_epochs=5000", "batch_size=8", "save_every=2", "evaluation.num_prompts=0"),
    ]

    def start(*more: str) -> subprocess.Popen:
        return subprocess.Popen([*command, *more], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    def seen():
        return next(iter(tiltlm.runs_list(tmp_path)), None)

    with start() as process:
        wait_for(lambda: (found := seen()) and found.step, process)
        assert seen().state == "running"
        assert str(process.pid) in seen().note
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    stopped = seen()
    assert (stopped.state, stopped.code) == ("stopped", "interrupted")
    assert stopped.resumable_at == stopped.step
    assert stopped.command == f"tiltlm train {run}/config.yaml --resume"
    with start("--resume") as process:
        wait_for(lambda: seen().state == "running" and seen().step >= stopped.step + 3, process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
    killed = seen()
    assert killed.state == "stopped"
    assert killed.code == ""
    assert killed.resumable_at >= stopped.resumable_at
    assert Path(run / "checkpoints" / f"step-{killed.resumable_at:08d}").exists()


def curves(folder: Path) -> dict[str, list[int]]:
    """Return the curves that TensorBoard shows of a run, with their steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {name: [point.step for point in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_has_the_curves_of_a_run_that_was_resumed(train, data, tmp_path):
    run = tmp_path / "run"
    settings = {"data": data, "objective": "dpo", "batch_size": 8, "eval_fraction": 0.25, "eval_every": 2}
    settings |= {"training.trackers": ["tensorboard"], "save_every": 2, "training.keep_checkpoints": 9}
    train(run, **settings, num_epochs=1)
    whole = curves(run)
    assert whole["train/loss"] == [1, 2, 3, 4, 5, 6]
    assert whole["eval/rewards/accuracies"] == [0, 2, 4, 6]
    for folder in ("step-00000004", "step-00000006"):  # as if the process had been killed after step 3
        shutil.rmtree(run / "checkpoints" / folder)
    train(run, **settings, num_epochs=1, resume=True)
    assert curves(run) == whole


def test_tensorboard_has_the_rounds_of_a_loop(model, data, tmp_path):
    settings = {"loop.rounds": 2, "loop.n": 2, "loop.prompts_per_round": 2, "data.limit": 4, "max_new_tokens": 2}
    settings |= {"model": model, "data": data, "judge": "length", "unaudited": True, "output": tmp_path / "loop"}
    tiltlm.loop(preset="raft", **settings, **{"training.trackers": ["tensorboard"]})
    found = curves(tmp_path / "loop")
    assert found["round/reward"] == found["round/kl_low"] == found["train/loss"] == [1, 2]
