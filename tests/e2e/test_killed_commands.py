"""Commands that SIGKILL and SIGTERM stop at random moments: going on gives the bytes of an unbroken call."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
NUM_MOMENTS = 6
"""Times that a command is stopped twice in a row and then continued."""
WRITES = {
    "sample": ["s.jsonl"],
    "judge": ["j.jsonl"],
    "best-of-n": ["bon/winners.jsonl", "bon/best-of-n.json"],
    "compare": ["cmp/compare.json"],
    "sweep": ["sw/comparison.json", "sw/00-beta=0.1/model/model.safetensors", "sw/01-beta=0.5/model/model.safetensors"],
}
"""Command → files that do not depend on when and how often it was stopped."""


def commands_on(model: str, data: Path, prompts: Path) -> dict[str, list[list[str]]]:
    """Return the first call of each command, and the call that goes on."""
    few = ["--prompts", str(prompts), "--limit", "10"]
    short = ["--judge", "gold", "--max-new-tokens", "16"]
    steps = ["training.batch_size=8", "training.save_every=1", "model.precision=float32"]
    evaluation = ["evaluation.num_prompts=2", "evaluation.max_new_tokens=8"]
    sampling = ["sampling.max_new_tokens=16", "sampling.max_rows=8"]
    first = {
        "sample": ["sample", model, *few, "--n", "4", "--output", "s.jsonl", *sampling],
        "judge": ["judge", str(data), "--judge", "gold", "--output", "j.jsonl"],
        "best-of-n": ["best-of-n", model, *few, *short, "--n", "8", "--output", "bon"],
        "compare": ["compare", f"a={model}", f"b={model}", *few, *short, "--output", "cmp"],
        "sweep": [
            "sweep", "--model", model, "--data", str(data), "--objective", "dpo", "--output", "sw",
            "objective.beta=0.1,0.5", *steps, *evaluation,
        ],
    }  # fmt: skip
    return {name: [own, [*own, "--overwrite" if name == "judge" else "--resume"]] for name, own in first.items()}


def names(folder: Path) -> set[str]:
    """Return the files that a call leaves, besides its caches."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith(("cache/", "store/")) and "/checkpoints/" not in name}


def test_commands_that_are_stopped_go_on_to_the_same_bytes(model, data, prompts, tmp_path):
    commands = commands_on(model, data, prompts)
    ended = subprocess.run(
        [sys.executable, "-m", "support.killed_commands", tmp_path / "calls", str(NUM_MOMENTS), json.dumps(commands)],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    codes = dict(map(json.loads, ended.stdout.splitlines()))
    assert codes.keys() == WRITES.keys()
    for name, counts in codes.items():
        assert counts.keys() <= {"0", "-9", "143"}, f"{name} ended with {counts}: {ended.stderr}"
        assert counts["0"] >= NUM_MOMENTS, f"{name} could not be continued: {ended.stderr}"
    stopped = sum(sum(counts.values()) - counts["0"] for counts in codes.values())
    assert stopped >= len(codes) * NUM_MOMENTS, "most calls were stopped before their end"
    for name, files in WRITES.items():
        for k in range(NUM_MOMENTS):
            for file in files:
                ours, whole = (tmp_path / "calls" / f"{name}-{which}" / file for which in (k, "whole"))
                assert ours.read_bytes() == whole.read_bytes(), f"{name}, moment {k}: {file}"
            own, all_of = tmp_path / "calls" / f"{name}-{k}", tmp_path / "calls" / f"{name}-whole"
            assert names(own) == names(all_of), f"{name}, moment {k}"
            assert not [path for path in own.rglob(".*") if path.suffix in (".tmp", ".partial")], f"{name}, moment {k}"
