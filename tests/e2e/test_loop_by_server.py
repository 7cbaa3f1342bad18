"""Loops whose samples an engine that is not exact draws: weights that are really loaded from files, probes, faults."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import tiltlm
from support.completions_server import load, scores, serving_model
from support.errors import events, has_event, raises
from support.fake_server import Say
from tiltlm.core import ConfigError, RunError
from tiltlm.online.rounds import seed_of
from tiltlm.sampling.answers import read_answers
from tiltlm.worlds import TextWorld

pytest.importorskip("openai")
WORLD = TextWorld()
SHORT = {
    "loop.rounds": 2,
    "loop.prompts_per_round": 8,
    "max_new_tokens": 24,
    "max_rows": 8,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "progress": False,
}
SEEDS = [seed_of(f"round {number}", 0) for number in range(3)]
LORA = {"model.lora.r": 4, "learning_rate": 1e-2}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The client waits between its attempts; tests do not."""
    monkeypatch.setattr("openai._base_client.SyncAPIClient._sleep_for_retry", lambda self, **_: None)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in WORLD.prompts("train")[:20]))
    return path


def run(model, prompts, output, preset="online_dpo", **more):
    given = {"judge": "gold", **SHORT, **more}
    return tiltlm.loop(preset=preset, model=model, data=str(prompts), output=output, **given)


def drawn(folder: Path, number: int):
    return read_answers(folder / "rounds" / f"{number:04d}" / "samples.jsonl.gz")


def facts(folder: Path, number: int) -> dict:
    return json.loads((folder / "rounds" / f"{number:04d}" / "engine.json").read_text())


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
@pytest.mark.parametrize("sync", ["full", "lora"])
def test_a_loop_by_a_server_is_the_loop_in_process(model, prompts, tmp_path, kind, sync):
    """The server draws with our sampler and the seeds of the loop: samples, and so the trained weights, are the same."""
    settings = LORA if sync == "lora" else {}
    inside = run(model, prompts, tmp_path / "inside", **settings)
    with serving_model(model, seeds=SEEDS) as server:
        engine = {"engine.name": server.url, "engine.sync": sync, "engine.server": kind}
        outside = run(model, prompts, tmp_path / "outside", **settings, **engine)
    for number in range(2):
        for a, b in zip(drawn(inside.path, number), drawn(outside.path, number), strict=True):
            assert [ids.tolist() for ids in a.token_ids] == [ids.tolist() for ids in b.token_ids]
            assert (b.engine, b.exact) == ("server", False)
            assert b.logps == pytest.approx(a.logps, abs=1e-3)
            assert [own.sum() for own in b.behaviour_token_logps] == pytest.approx(b.logps, abs=1e-3)
    assert weights(inside.path) == weights(outside.path)
