"""The recipes for clusters are linted, and run with stand-ins for the programs of a cluster."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from torch.distributed.run import get_args_parser

from support.launching import wait_until
from tiltlm.config.calls import COMMANDS
from tiltlm.config.resolve import draft
from tiltlm.recipes.run_settings import RunSettings

FOLDER = Path(__file__).parents[2] / "examples" / "cluster"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
MANIFEST = FOLDER / "kubernetes.yaml"


def named(path: Path) -> str:
    return path.name


STAND_INS = {
    "srun": 'shift\nexec "$@"\n',
    "scontrol": 'if [ "$1" = show ]; then echo localhost; else echo "$@" >> "$REQUESTS"; fi\n',
    "ssh": 'exec bash -c "$3"\n',
    "torchrun": 'printf "%s\\n" "$@" > "$REQUESTS.$$"\nexec "$PYTHON" "$STEP"\n',
}
"""Programs of a cluster; torchrun writes down its arguments and becomes the step of the test."""
JOB = {
    "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8",
}  # fmt: skip
ARGUMENTS = {"slurm.sh": ["train.yaml"], "ssh.sh": ["train.yaml", "host1", "host2"]}
WAITS = """
import pathlib, signal, sys
def stop(*_):
    pathlib.Path(sys.argv[0] + ".saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[0] + ".runs").touch()
signal.pause()
"""


def start(script: Path, step: str, folder: Path) -> subprocess.Popen:
    """Start a script with the stand-ins; `step` is the Python code that runs in place of training."""
    for name, body in STAND_INS.items():
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/usr/bin/env bash\n{body}")
        program.chmod(0o755)
    (folder / "step.py").write_text(step)
    given = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "REQUESTS": str(folder / "requests"),
        "STEP": str(folder / "step.py"), "PYTHON": sys.executable, **JOB,
    }  # fmt: skip
    return subprocess.Popen(["bash", script, *ARGUMENTS[script.name]], env=os.environ | given, start_new_session=True)


def calls_of(recipe: Path, folder: Path) -> list[list[str]]:
    """Return the arguments of each call of torchrun."""
    if recipe == MANIFEST:
        (job,) = (doc for doc in yaml.safe_load_all(recipe.read_text()) if doc["kind"] == "Job")
        return [job["spec"]["template"]["spec"]["containers"][0]["command"][1:]]
    with start(recipe, "", folder) as process:
        assert process.wait(timeout=60) == 0
    return [file.read_text().splitlines() for file in folder.glob("requests.*")]


@pytest.mark.parametrize("script", SCRIPTS, ids=named)
def test_shellcheck_finds_nothing(script):
    linter = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([linter, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_manifest_is_valid():
    version = kubernetes_validate.latest_version()
    documents = list(yaml.safe_load_all(MANIFEST.read_text()))
    assert {document["kind"] for document in documents} == {"Service", "Job"}
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)


def test_a_wrong_manifest_is_found():
    """Otherwise the test above could not fail."""
    (job,) = (doc for doc in yaml.safe_load_all(MANIFEST.read_text()) if doc["kind"] == "Job")
    job["spec"]["complections"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize(("recipe", "num"), [(FOLDER / "slurm.sh", 1), (FOLDER / "ssh.sh", 2), (MANIFEST, 1)])
def test_torchrun_gets_options_that_exist(recipe, num, tmp_path):
    calls = calls_of(recipe, tmp_path)
    assert len(calls) == num
    for call in calls:
        parsed = get_args_parser().parse_args(call)
        assert parsed.nnodes == "2"
        assert parsed.nproc_per_node == "8"
        assert parsed.rdzv_backend == "c10d"  # restarts by torchrun need it
        assert (parsed.module, parsed.training_script) == (True, "tiltlm")
        command, config, *options = parsed.training_script_args
        assert Path(config).name == "train.yaml"
        assert set(options) <= {f"--{name.replace('_', '-')}" for name in COMMANDS[command].parameters}


def test_the_configuration_is_accepted():
    settings = draft(RunSettings, FOLDER / "train.yaml").settings
    assert settings.training.parallel == "shard"
    assert Path(settings.output).is_absolute()


def test_slurm_saves_before_the_time_limit_and_queues_the_job_again(tmp_path):
    with start(FOLDER / "slurm.sh", WAITS, tmp_path) as job:
        wait_until(lambda: (tmp_path / "step.py.runs").exists())
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=60) == 143
    assert (tmp_path / "step.py.saved").exists()
    assert (tmp_path / "requests").read_text() == "requeue 77\n"


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_exit_code_is_that_of_the_run(name, tmp_path):
    with start(FOLDER / name, "raise SystemExit(2)", tmp_path) as process:
        assert process.wait(timeout=60) == 2
    assert not (tmp_path / "requests").exists()
