"""torchrun on one host and on two: the run of one process, restarts that resume, and a cable that is cut."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiltlm
from support.launching import free_port, steps_of, wait_until
from support.namespaces import ADDRESSES, two_hosts
from tiltlm.distributed.launched import OWN_STORE

pytestmark = pytest.mark.long
LIMIT = 8
SETTINGS = {
    "objective": "dpo", "learning_rate": 1e-3, "num_epochs": 2, "batch_size": 7, "eval_fraction": 0,
    "training.max_tokens": 128, "training.save_every": 3, "model.precision": "float32", "evaluation.num_prompts": 0,
}  # fmt: skip
LONG = SETTINGS | {"num_epochs": 12}


def torchrun(options: list[str], model, data, output: Path, settings: dict) -> list[str]:
    """Return a command that serves the first start and every restart."""
    train = ["train", "--model", model, "--data", str(data), "--output", str(output), "--resume-if-exists"]
    values = [f"{key}={value}" for key, value in settings.items()]
    return [sys.executable, "-m", "torch.distributed.run", *options, "-m", "tiltlm", *train, *values]


@contextmanager
def started(commands: list[list[str]], folder: Path):
    """Start commands with their stderr in files; end them and all that they started with the block."""
    folder.mkdir(exist_ok=True)
    environment = os.environ | {
        "TILTLM_RANK_TIMEOUT": str(LIMIT),
        "TILTLM_STORE": str(folder / "store"),
        OWN_STORE: "1",
    }
    files = [folder / f"stderr-{i}.txt" for i in range(len(commands))]
    processes = []
    for command, file in zip(commands, files, strict=True):
        with file.open("w") as stream:
            processes.append(
                subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)
            )
    try:
        yield processes, files
    finally:
        for process in processes:
            for group in {process.pid, *workers_of(process.pid)}:
                try:
                    os.killpg(group, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            process.wait()


def workers_of(pid: int) -> list[int]:
    """Return the processes that a process started: the workers of torchrun, each in a session of its own."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def has_all_steps(run: Path) -> bool:
    """Return whether each step of the run is recorded once, and the model is saved."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [record["step"] for record in records if "loss" in record]
    return steps == list(range(1, len(steps) + 1)) and (run / "model" / "model.safetensors").exists()


def assert_equal_weights(found: Path, expected: Path) -> None:
    weights, others = (load_file(run / "model" / "model.safetensors") for run in (found, expected))
    assert weights.keys() == others.keys()
    for name, tensor in others.items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-5, rtol=0, msg=name)


@pytest.fixture(scope="module")
def alone(model, data, tmp_path_factory):
    """Return the run of one process."""
    output = tmp_path_factory.mktemp("alone") / "run"
    tiltlm.train(model=model, data=data, output=output, progress=False, **SETTINGS)
    return output


def test_torchrun_restarts_and_the_run_resumes(model, data, tmp_path, alone):
    """A worker is killed at its fourth step; torchrun starts all again with the same command."""
    run = tmp_path / "run"
    options = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    with started([torchrun(options, model, data, run, SETTINGS)], tmp_path / "out") as ((process,), (stderr,)):
        wait_until(lambda: steps_of(run) >= 4 or process.poll() is not None)
        os.kill(workers_of(process.pid)[-1], signal.SIGKILL)
        assert process.wait(timeout=240) == 0, stderr.read_text()[-3000:]
        assert "resuming after step" in stderr.read_text(), stderr.read_text()[-3000:]
    assert has_all_steps(run)
    assert_equal_weights(run, alone)


@pytest.fixture(scope="module")
def hosts():
    try:
        with two_hosts() as found:
            yield found
    except OSError as error:
        pytest.skip(f"two hosts need the program ip and the right to make network namespaces: {error}")


def on_both(hosts, model, data, run: Path, settings: dict) -> list[list[str]]:
    """Return the command of each host; the run directory is on a disk that both see."""
    port = free_port()
    commands = []
    for i, address in enumerate(ADDRESSES):
        options = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "7"]
        # A namespace has the name of this machine, which does not tell where the store is.
        options += ["--rdzv-conf", f"is_host={int(i == 0)}", "--local-addr", address]
        options += ["--rdzv-endpoint", f"{ADDRESSES[0]}:{port}"]
        device = ["env", f"GLOO_SOCKET_IFNAME={hosts.devices[i]}"]
        commands.append([*hosts.prefix(i), *device, *torchrun(options, model, data, run, settings)])
    return commands


def test_two_hosts_end_in_the_run_of_one_process(hosts, model, data, tmp_path, alone):
    run = tmp_path / "run"
    with started(on_both(hosts, model, data, run, SETTINGS), tmp_path / "out") as (processes, files):
        for process, file in zip(processes, files, strict=True):
            assert process.wait(timeout=240) == 0, file.read_text()[-3000:]
    assert has_all_steps(run)
    assert_equal_weights(run, alone)


def test_a_cut_cable_ends_both_sides_and_a_restart_resumes(hosts, model, data, tmp_path):
    run = tmp_path / "run"
    named = re.compile(r"^error: .*rank (\d) \(process \d+ on ", re.MULTILINE)
    with started(on_both(hosts, model, data, run, LONG), tmp_path / "first") as (processes, files):
        wait_until(lambda: steps_of(run) >= 4 or any(p.poll() is not None for p in processes), 240)
        hosts.cut()
        try:
            wait_until(lambda: all("error: " in file.read_text() for file in files), LIMIT + 60)
        finally:
            hosts.mend()
    print(*(file.read_text()[-3000:] for file in files), sep="\n----\n")
    lost = [{int(rank) for rank in named.findall(file.read_text())} for file in files]
    assert sorted(map(sorted, lost)) == [[0], [1]], lost
    taken = steps_of(run)
    with started(on_both(hosts, model, data, run, LONG), tmp_path / "second") as (processes, files):
        for process, file in zip(processes, files, strict=True):
            assert process.wait(timeout=300) == 0, file.read_text()[-3000:]
        assert any("resuming after step" in file.read_text() for file in files)
    assert has_all_steps(run)
    assert steps_of(run) > taken
