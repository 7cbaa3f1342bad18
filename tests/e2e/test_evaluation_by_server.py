"""Training runs whose evaluation samples a server draws: the weights before and after training, faults."""

import json

import pytest

from support.completions_server import serving_model
from support.errors import raises
from tiltlm.core import ConfigError, RunError

pytest.importorskip("openai")
LORA = {"model.lora.r": 4}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The client waits between its attempts; tests do not."""
    monkeypatch.setattr("openai._base_client.SyncAPIClient._sleep_for_retry", lambda self, **_: None)


def settings_of(data, **more):
    return {
        "data": data, "objective": "dpo", "beta": 0.5, "learning_rate": 1e-2, "batch_size": 16, "eval_fraction": 0.25,
        "model.precision": "float32", "progress": False, **more,
    }  # fmt: skip


def by_server(url: str, sync: str, kind: str = "vllm") -> dict[str, str]:
    return {"engine.name": url, "engine.sync": sync, "engine.server": kind}


def numbers(run) -> dict:
    report = json.loads((run.path / "report.json").read_text())
    return {name: report[name] for name in ("samples", "probability", "held_out")}


@pytest.mark.parametrize(("kind", "sync"), [("vllm", "full"), ("sglang", "lora")])
def test_a_report_by_a_server_is_that_of_the_own_sampler(train, model, data, tmp_path, kind, sync):
    """The server draws with our sampler and seeds, so each sample, and each number about them, is the same."""
    adapter = LORA if sync == "lora" else {}
    inside = train(tmp_path / "inside", **settings_of(data, **adapter))
    with serving_model(model, seeds=[0, 0, 0, 0]) as server:
        outside = train(tmp_path / "outside", **settings_of(data, **adapter, **by_server(server.url, sync, kind)))
        assert len(server.loaded) == 2, "weights before training, and after it"
    assert numbers(outside)["samples"] == numbers(inside)["samples"]
    assert numbers(outside) == numbers(inside)


def test_a_server_that_keeps_the_weights_before_training_is_found_out(train, model, data, tmp_path):
    """The policy is saved all the same, and the run goes on when the server takes weights."""
    with serving_model(model, drops_weights=True) as server:
        settings = settings_of(data, **by_server(server.url, "full"))
        with raises(RunError, "stale_weights", key="engine.sync", mentions=["before training"]):
            train(tmp_path / "run", **settings)
        assert (tmp_path / "run" / "model" / "model.safetensors").exists()
        server.drops_weights = False
        resumed = train(tmp_path / "run", **settings, resume=True)
    assert resumed.report.samples is not None


def test_a_missing_sample_is_an_error(train, model, data, tmp_path):
    with (
        serving_model(model, change=lambda choice, request: {**choice, "token_ids": []}) as server,
        raises(RunError, "samples_missing", key="engine.name"),
    ):
        train(tmp_path / "run", **settings_of(data, **by_server(server.url, "full")))


@pytest.mark.parametrize(
    ("engine", "code", "key"),
    [
        ({"engine.name": "generate_batch"}, "not_supported", "engine.name"),
        ({"engine.name": "http://127.0.0.1:1/v1"}, "needs_sync", "engine.sync"),
        (by_server("http://127.0.0.1:1/v1", "full") | {"engine.score": True}, "no_effect", "engine.score"),
        (by_server("http://127.0.0.1:1/v1", "full") | {"evaluation.num_prompts": 0}, "no_effect", "engine.name"),
        (by_server("http://127.0.0.1:1/v1", "lora"), "no_adapter", "engine.sync"),
        (by_server("http://127.0.0.1:1/v1", "full"), "sync_failed", "engine.sync"),
    ],
)
def test_an_engine_that_cannot_serve_a_run(train, data, tmp_path, engine, code, key):
    kind = RunError if code == "sync_failed" else ConfigError
    with raises(kind, code, key=key):
        train(tmp_path / "run", **settings_of(data, **engine))
