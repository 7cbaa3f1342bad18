"""The benchmark for CUDA runs completely on a tiny model, so that mistakes are found without a GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "run.py"


@pytest.mark.slow
def test_the_tiny_benchmark_checks_and_times_everything(tmp_path):
    output = tmp_path / "results.json"
    command = [sys.executable, str(SCRIPT), "--tiny", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(output.read_text())
    assert results["correct"]
    assert all(record["right"] for record in results["correct"])
    found = {record["section"]: record for record in results["records"]}
    assert set(found) == {"peak", "step", "attention", "head", "sampling"}
    assert not [record for record in found.values() if "failed" in record]
    for system in ("shared", "packed", "padded", "plain loop, 1 part(s)", "shared, compiled"):
        assert found["step"][system]["seconds"] > 0
