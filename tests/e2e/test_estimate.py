"""`tiltlm estimate`: what it prints, its exit code, and its memory against a real run's."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

import tiltlm
from support.errors import raises
from tiltlm.core import ConfigError

ALLOWED = 0.15
"""Largest difference between estimated and measured memory, as a share of the measured."""
PAGE = Path(__file__).parents[2] / "docs" / "memory.md"
ADVISED = dict(re.findall(r"^(GLIBC_TUNABLES)=(\S+) tiltlm train", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
"""The variable that docs/memory.md advises for a CPU, and the estimate assumes."""
MEASURED = """
import json, os, sys
from pathlib import Path
import tiltlm
settings, peaks = json.loads(sys.argv[1]), Path(sys.argv[2])
tiltlm.train(None, progress=False, **settings)
(line,) = (row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
(peaks / os.environ.get("RANK", "0")).write_text(str(1024 * int(line.split()[1])))
"""


@pytest.fixture(scope="module")
def larger(model, tmp_path_factory):
    """A model of 14 million parameters with the tokenizer of the bundled one: its tensors are most of the memory."""
    folder = tmp_path_factory.mktemp("larger")
    source = Path(model)
    config = LlamaConfig.from_pretrained(
        source, hidden_size=384, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=6,
        num_key_value_heads=6,
    )  # fmt: skip
    config.head_dim = 64
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in source.iterdir():
        if file.name.startswith("tokenizer") or file.suffix == ".jinja":
            (folder / file.name).write_bytes(file.read_bytes())
    return str(folder)


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tiltlm", "estimate", *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_command_prints_a_verdict_memory_time_and_disk(model, data):
    done = run("--model", model, "--data", data, "--gpus", "2xH100", "training.parallel=shard", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["fits"]
    assert found["device"] == "H100"
    assert found["processes"] == 2
    assert sum(found["memory"]["parts"].values()) == found["memory"]["phases"]["train"]
    assert found["memory"]["peak"] == max(found["memory"]["phases"].values())
    assert not found["seconds"]["is_measured"]
    assert 0 < found["seconds"]["step"] < found["seconds"]["run"]
    assert found["disk"]["checkpoint"] == 3 * 4 * found["parameters"]["total"]


def test_a_run_that_does_not_fit_ends_with_1_and_is_explained(model, data, tmp_path):
    large = tmp_path / "large"
    LlamaConfig(hidden_size=8192, num_hidden_layers=2, intermediate_size=28_672).save_pretrained(large)
    source = Path(model)
    for file in source.iterdir():
        if file.name.startswith("tokenizer"):
            (large / file.name).write_bytes(file.read_bytes())
    (large / "model.safetensors").write_bytes(b"not read")
    found = tiltlm.estimate(model=str(large), gpus="RTX4090", tokens="30,20,20", progress=False, batch_size=4)
    assert found.exit_code == 1
    assert not found.fits
    assert "does not fit" in found.summary()
    for one in found.to_dict()["alternatives"]:
        assert one["peak"] <= found.to_dict()["memory"]["available"]


def test_lengths_beside_data_are_refused(model, data):
    with raises(ConfigError, code="no_effect", key="tokens"):
        tiltlm.estimate(model=model, data=str(data), tokens="1,2,3", progress=False)


def test_one_process_cannot_be_sharded(model):
    with raises(ConfigError, code="needs_several_processes", key="training.parallel"):
        tiltlm.estimate(model=model, progress=False, **{"training.parallel": "shard"})


CASES = {
    "one": (1, {}),
    "checkpointing": (1, {"model.gradient_checkpointing": True}),
    "lora": (1, {"model.lora": {"r": 8}}),
    "replicate": (2, {}),
    "shard": (2, {"training.parallel": "shard"}),
}


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads VmHWM")
@pytest.mark.parametrize("case", CASES)
def test_the_estimated_memory_is_that_of_a_real_run(larger, data, case, tmp_path):
    processes, own = CASES[case]
    settings = {
        "model": larger, "data": str(data), "objective": "dpo", "data.cache": False, "training.max_tokens": 2048,
        "training.max_steps": 3, "evaluation.num_prompts": 0, "model.precision": "float32", **own,
    }  # fmt: skip
    pairs = [f"{key}={json.dumps(value) if isinstance(value, dict) else value}" for key, value in settings.items()]
    done = run(*pairs, "--gpus", f"{processes}xcpu", "--json")
    assert done.returncode == 0, done.stderr
    estimated = json.loads(done.stdout)["memory"]["peak"]
    script, peaks = tmp_path / "measured.py", tmp_path / "peaks"
    script.write_text(MEASURED)
    peaks.mkdir()
    given = json.dumps(settings | {"output": str(tmp_path / "run"), "reference.store": str(tmp_path / "store")})
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | ADVISED
    subprocess.run([*start, str(script), given, str(peaks)], check=True, env=environment, capture_output=True)
    measured = max(int(path.read_text()) for path in peaks.iterdir())
    assert abs(estimated / measured - 1) <= ALLOWED, f"estimated {estimated:,}, measured {measured:,}"
