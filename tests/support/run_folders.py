"""Run directories written by hand, as a run leaves them at some moment."""

import json
from pathlib import Path

import yaml

CONFIG = {
    "model": {"path": "/models/tiny", "lora": None},
    "data": {"train": ["a/pairs.jsonl", "b/more.jsonl"]},
    "objective": {"name": "dpo", "beta": 0.1},
    "output": "somewhere",
    "training": {"num_epochs": 2, "max_steps": None},
}


def interval(mid: float) -> dict[str, float]:
    return {"estimate": mid, "low": mid - 0.1, "high": mid + 0.1, "level": 0.95, "n": 20}


REPORT = {
    "schema": "tiltlm.report/1",
    "verdict": {"word": "Yes", "sentence": "It ranks better."},
    "held_out": {"contrast": {"accuracy": {"after": interval(0.7)}, "margin": {"after": interval(1.0)}}},
    "samples": {"after": {"kl": interval(2.0), "length": interval(12)}},
}


def make_run(folder: Path, *, ending: dict | None = None, config=CONFIG, report: dict | None = None, steps: int = 4):
    """Write a run directory as a run leaves it."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"format": 1, "created": "2026-01-01T00:00:00+00:00"}))
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    records = [{"step": step, "epoch": step / 4, "loss": 0.5} for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if report is not None:
        (folder / "report.json").write_text(json.dumps(report))
    if ending is not None:
        (folder / "ended.json").write_text(json.dumps({"at": "2026-01-02T00:00:00+00:00", **ending}))
    return folder


def make_checkpoint(run: Path, step: int, size: int = 10) -> Path:
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "policy.safetensors").write_bytes(b"x" * size)
    (folder / "manifest.json").write_text(json.dumps({"files": {"policy.safetensors": {"size": 10, "sha256": ""}}}))
    return folder
