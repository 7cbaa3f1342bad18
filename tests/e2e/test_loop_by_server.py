"""Loops whose samples an engine that is not exact draws: weights that are really loaded from files, probes, faults."""

import json
import math
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tiltlm
from support.completions_server import completion, load, serving_model
from support.errors import has_event, raises
from support.fake_server import Say
from tiltlm.cli.main import app
from tiltlm.core import ConfigError, RunError
from tiltlm.online.rounds import seed_of
from tiltlm.sampling.answers import read_answers
from tiltlm.worlds import TextWorld

pytest.importorskip("openai")
WORLD = TextWorld()
SHORT = {
    "loop.rounds": 2,
    "loop.prompts_per_round": 4,
    "max_new_tokens": 16,
    "max_rows": 4,
    "batch_size": 2,
    "learning_rate": 1e-3,
    "progress": False,
}
SEEDS = [seed_of(f"round {number}", 0) for number in range(3)]
PAIRS = {"preset": "online_dpo", "loop.n": 4, "examples.rule": "best_worst", "correction.kind": "none"}
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


@pytest.mark.parametrize(
    ("kind", "sync"),
    [
        ("vllm", "full"),
        ("sglang", "lora"),
        pytest.param("vllm", "lora", marks=pytest.mark.slow),
        pytest.param("sglang", "full", marks=pytest.mark.slow),
    ],
)
def test_a_loop_by_a_server_is_the_loop_in_process(model, prompts, tmp_path, kind, sync):
    """The server draws with our sampler and the seeds of the loop: samples, and so trained weights, are the same."""
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


def served(url: str, sync: str = "full") -> dict:
    return {"engine.name": url, "engine.sync": sync}


@pytest.fixture(scope="module")
def inside(model, prompts, tmp_path_factory):
    """Return the loop in process."""
    return run(model, prompts, tmp_path_factory.mktemp("loops") / "inside")


def test_what_a_server_is_told_in_a_round(model, prompts, tmp_path):
    """Weights before the draws, whole before they are loaded; two versions stay; every request says its version."""
    with serving_model(model) as server:
        found = run(model, prompts, tmp_path / "run", **served(server.url), **{"loop.rounds": 3})
        assert server.routes == ["/pause?mode=wait", "/collective_rpc", "/reset_prefix_cache", "/resume"] * 3
        salts = [request["cache_salt"] for request in server.draws]
        assert [folder.name for folder in server.loaded] == list(dict.fromkeys(salts))
        assert len(set(salts)) == 3
        assert {path.name for path in (found.path / "sync").glob("tiltlm-*")} == {*salts[4:]}
        assert all(request["model"] == "tiny" for request in server.draws)
    assert [facts(found.path, k)["version"] for k in range(3)] == list(dict.fromkeys(salts))


def test_an_adapter_has_a_new_name_and_path_each_round(model, prompts, tmp_path):
    with serving_model(model) as server:
        found = run(model, prompts, tmp_path / "run", **LORA, **served(server.url, "lora"))
        load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
        assert server.routes == [load, load, unload]
        assert [r["model"] for r in server.draws] == [folder.name for folder in server.loaded for _ in range(4)]
        assert list(server.adapters) == [server.loaded[1].name]
    assert (server.loaded[1] / "adapter_model.safetensors").exists()
    assert not (server.loaded[1] / "model.safetensors").exists()
    assert len(found.cards) == 2


@pytest.mark.parametrize(("sync", "rate"), [("full", 1e-5), ("lora", 1e-3)])
def test_weights_of_the_round_before_are_caught(model, prompts, tmp_path, sync, rate):
    """Also where a round changes log-probabilities by far less than the difference that rounding may have."""
    settings = {**(LORA if sync == "lora" else {}), "learning_rate": rate}
    with serving_model(model, drops_weights=True) as server:
        with raises(RunError, "stale_weights", key="engine.sync", mentions=["round 0"]):
            run(model, prompts, tmp_path / "run", **settings, **served(server.url, sync))
        server.drops_weights = False
        server.loaded.clear()
        server.adapters.clear()
        server.models[:] = ["tiny"]
        run(model, prompts, tmp_path / "run", **settings, **served(server.url, sync), resume=True)


def test_the_noise_of_other_kernels_is_no_staleness(model, prompts, tmp_path, caplog):
    with serving_model(model, noise=0.01) as server:
        found = run(model, prompts, tmp_path / "run", learning_rate=1e-5, **served(server.url))
    assert found.cards[1].probe == pytest.approx(0.01, rel=1e-3)
    assert not has_event(caplog, "engine_differs")
    with serving_model(model, noise=0.03) as server:
        run(model, prompts, tmp_path / "other", **served(server.url), **{"loop.rounds": 1})
    assert has_event(caplog, "engine_differs")
    with serving_model(model, noise=0.2) as server, raises(RunError, "other_weights", mentions=["probe", "dtype"]):
        run(model, prompts, tmp_path / "third", **served(server.url), **{"loop.rounds": 1})


def test_another_model_is_refused_before_anything_is_drawn(model, prompts, tmp_path):
    other = run(model, prompts, tmp_path / "other", learning_rate=3e-2).path / "model"
    settings = {"engine.sync": "none", "loop.rounds": 1}
    with serving_model(other) as server:
        with raises(RunError, "other_weights", key="engine.name", mentions=["--resume"]):
            run(model, prompts, tmp_path / "run", **{"engine.name": server.url}, **settings)
        assert not server.draws
    with serving_model(model) as server:
        found = run(model, prompts, tmp_path / "run", **{"engine.name": server.url}, **settings, resume=True)
        assert server.routes == []
    assert found.cards[0].probe < 1e-4


def test_a_server_that_starts_anew_in_the_middle_is_caught(model, prompts, inside, tmp_path):
    """It has the weights before training then. What it drew since is not kept; the rest goes on as if unbroken."""

    restarts = []

    def restarted(request, number):
        if len(server.draws) > 4 + 2 and not restarts:  # in the second batch of the second round
            restarts.append(number)
            server.policy = load(model)

    with serving_model(model, seeds=SEEDS) as server:
        server.fault = restarted
        with raises(RunError, "stale_weights"):
            run(model, prompts, tmp_path / "run", **served(server.url))
        partial = tmp_path / "run" / "rounds" / "0001" / ".samples.jsonl.gz.partial"
        assert len(partial.read_text().splitlines()) == 2, "the request, and the first batch"
        server.fault = lambda request, number: None
        found = run(model, prompts, tmp_path / "run", **served(server.url), resume=True)
    assert weights(found.path) == weights(inside.path)


@pytest.mark.parametrize("status", [pytest.param(402, marks=pytest.mark.slow), 500])
def test_a_server_that_fails_in_the_middle_ends_the_loop_and_it_goes_on(model, prompts, inside, tmp_path, status):
    """No sample is drawn twice, and the end is that of an unbroken loop."""
    done = 4 + 3

    def broken(request, number):
        return (
            Say(status, {"error": {"message": "no credit"}})
            if len(server.draws) > done and request in server.draws
            else None
        )

    with serving_model(model, seeds=SEEDS) as server:
        server.fault = broken
        engine = [f"engine.name={server.url}", "engine.sync=full"]
        settings = [f"{key}={value}" for key, value in SHORT.items() if key != "progress"]
        command = ["loop", "--preset", "online_dpo", "--model", model, "--data", str(prompts), "--judge", "gold"]
        command += ["--output", str(tmp_path / "run"), *settings, *engine]
        ended = CliRunner().invoke(app, command)
        assert ended.exit_code == 1
        assert f"status {status}" in str(ended.exception)
        kept = 4 + 2
        server.fault = lambda request, number: None
        before = len(server.draws)
        assert CliRunner().invoke(app, [*command, "--resume"]).exit_code == 0
        assert len(server.draws) - before == 8 - kept
    assert weights(tmp_path / "run") == weights(inside.path)


def test_a_kill_while_weights_are_written_leaves_no_half_folder(model, prompts, inside, tmp_path, monkeypatch):
    """The marker is missing, so the folder is written again."""

    class Killed(BaseException):
        """The process is gone."""

    def killed(path, value):
        raise Killed

    with serving_model(model, seeds=SEEDS) as server:
        with monkeypatch.context() as patch:
            patch.setattr("tiltlm.recipes.engines.policy_folders.write_json", killed)
            with pytest.raises(Killed):
                run(model, prompts, tmp_path / "run", **served(server.url))
        assert not server.loaded
        (half,) = (tmp_path / "run" / "sync").glob("tiltlm-*")
        (half / "model.safetensors").write_bytes(b"half")
        found = run(model, prompts, tmp_path / "run", **served(server.url), resume=True)
    assert weights(found.path) == weights(inside.path)


@pytest.mark.parametrize("fault", ["nan", "fewer"])
def test_what_a_server_does_not_give_is_asked_again_twice_and_then_counted(model, prompts, tmp_path, fault):
    """One prompt gets no good answer, and the round goes on without it."""
    victim: list[list[int]] = []

    def is_hit(request):
        if "prompt" in request and "prompt_logprobs" not in request and not victim:
            victim.append(request["prompt"])
        return request.get("prompt") in victim and "prompt_logprobs" not in request

    def spoiled(choice, request):
        logps = choice["logprobs"]["token_logprobs"]
        spoils = fault == "nan" and is_hit(request)
        return {**choice, "logprobs": {"token_logprobs": [*logps[:-1], math.nan]}} if spoils else choice

    def fewer(request, number):
        return Say(*completion()) if fault == "fewer" and is_hit(request) else None

    with serving_model(model, change=spoiled, fault=fewer) as server:
        settings = {**served(server.url), "loop.rounds": 1, "loop.n": 2}
        found = run(model, prompts, tmp_path / "run", **settings)
        assert [r["n"] for r in server.draws if r["prompt"] == victim[0]] == [2, 2, 2]
    cause = "fewer_choices" if fault == "fewer" else "bad_logps"
    assert found.cards[0].missing == {cause: 2}
    assert found.cards[0].num_samples == 6
    assert facts(found.path, 0)["missing"] == [{cause: 2}]
    page = json.loads((found.path / "loop.json").read_text())
    assert "2 samples are missing" in next(c["text"] for c in page["cautions"] if c["key"] == "not_exact")


def test_prompts_with_fewer_samples_than_a_rule_needs_are_counted(model, prompts, tmp_path):
    """One choice of a pair is bad, so its prompt has one sample, which is no pair; advantages take what there is."""

    def spoiled(choice, request):
        hits = (request["prompt"] == server.draws[0]["prompt"] and request["n"] == 1) or choice["token_ids"][0] % 2
        return {**choice, "finish_reason": "abort"} if hits else choice

    with serving_model(model, change=spoiled) as server:
        found = run(model, prompts, tmp_path / "run", **served(server.url), **{"loop.rounds": 1})
    card = found.cards[0]
    alone = sum(len(row.answers) == 1 for row in drawn(found.path, 0))
    assert alone == card.dropped.get("missing_sample", 0)
    assert card.missing == {"not_finished": 8 - card.num_samples}
    assert card.num_samples < 8


@pytest.mark.parametrize("engine", ["generate_batch", "server"])
def test_a_policy_gradient_is_corrected_by_what_the_engine_says(model, prompts, tmp_path, caplog, engine):
    """The server draws from a distribution that is a little flatter: c = π/μ is on the card and in the files."""
    settings = {"preset": "grpo", "loop.n": 4, "loop.rounds": 2, "correction.kind": "token_truncate"}
    settings |= {"correction.high": 1.05}

    def flatter(choice, request):
        logps = [logp - 0.01 for logp in choice["logprobs"]["token_logprobs"]]
        return {**choice, "logprobs": {"token_logprobs": logps}}

    with serving_model(model, change=flatter) if engine == "server" else nullcontext() as server:
        given = served(server.url) if server else {"engine.name": "generate_batch"}
        found = run(model, prompts, tmp_path / "run", **settings, **given)
    assert not has_event(caplog, "no_correction")
    shift = 0.01 if engine == "server" else 0.0
    for number, card in enumerate(found.cards):
        assert (card.engine, card.exact, card.missing) == (engine, False, {})
        assert card.mismatch == pytest.approx(shift, abs=1e-4)
        assert card.effective == pytest.approx(1, abs=1e-4)
        for row in drawn(found.path, number):
            drawn_as = [own.sum(dtype=float) + shift * len(own) for own in row.behaviour_token_logps]
            assert drawn_as == pytest.approx(row.logps, abs=1e-3)
    page = json.loads((found.path / "loop.json").read_text())
    assert "not_exact" in {caution["key"] for caution in page["cautions"]}
    assert "largest, nats" in (found.path / "loop.html").read_text()
    replayed = run(model, prompts, tmp_path / "again", replay=found.path, **given, **PAIRS)
    assert (replayed.cards[0].engine, replayed.cards[0].mismatch) == (engine, found.cards[0].mismatch)


def test_a_policy_gradient_without_a_correction_is_warned_of(model, prompts, tmp_path, caplog):
    settings = {"preset": "rloo", "loop.rounds": 1, "loop.n": 2}
    found = run(model, prompts, tmp_path / "run", **settings, **{"engine.name": "generate_batch"})
    assert has_event(caplog, "no_correction")
    assert found.cards[0].effective is None


def test_log_probabilities_far_from_those_of_the_policy_stop_the_round(model, prompts, tmp_path):
    """The server draws at another temperature than it was asked for, as one with a model file of its own may."""

    def hotter(choice, request):
        return {**choice, "logprobs": {"token_logprobs": [2 * p for p in choice["logprobs"]["token_logprobs"]]}}

    with serving_model(model, change=hotter) as server, raises(RunError, "other_weights", mentions=["first samples"]):
        run(model, prompts, tmp_path / "run", **served(server.url))
    assert not (tmp_path / "run" / "rounds" / "0000" / "verdicts.jsonl").exists()


def test_refills_are_corrected_and_counted_too(model, prompts, tmp_path):
    """No prompt of the first part is used, so the examples are those of the refill."""
    settings = {"preset": "grpo", "loop.n": 2, "loop.rounds": 1, "loop.refills": 1, "examples.rule": "mean"}
    settings |= {"correction.kind": "token_truncate", "engine.name": "generate_batch"}
    found = run(model, prompts, tmp_path / "run", **settings)
    parts = sorted((found.path / "rounds" / "0000").glob("samples*.gz"))
    assert len(facts(found.path, 0)["missing"]) == len(parts)
    assert found.cards[0].effective is not None


@pytest.mark.parametrize(
    ("settings", "code", "key"),
    [
        ({"engine.name": "http://127.0.0.1:1/v1"}, "missing_setting", "engine.sync"),
        ({"engine.name": "http://127.0.0.1:1/v1", "engine.sync": "lora"}, "no_adapter", "engine.sync"),
        ({"engine.name": "http://127.0.0.1:1/v1", "engine.score": True}, "no_effect", "engine.score"),
        ({"engine.name": "generate_batch", "engine.sync": "full"}, "no_effect", "engine.sync"),
        ({"engine.name": "generate_batch", "preset": "nash_md"}, "needs_own_engine", "engine.name"),
        ({"engine.name": "generate_batch", "preset": "bond"}, "needs_own_engine", "engine.name"),
        ({"correction.kind": "token_truncate", "preset": "rloo"}, "no_effect", "correction.kind"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_before_the_first_draw(model, prompts, tmp_path, settings, code, key):
    with raises(ConfigError, code, key=key):
        run(model, prompts, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_server_may_be_at_another_place_when_the_loop_goes_on(model, prompts, tmp_path):
    with serving_model(model) as server:
        server.fault = lambda request, number: Say(500) if server.draws else None
        with raises(RunError, "server_failed"):
            run(model, prompts, tmp_path / "run", **served(server.url))
    with serving_model(model) as other:
        assert len(run(model, prompts, tmp_path / "run", **served(other.url), resume=True).cards) == 2
    with raises(ConfigError, "other_run", key="engine.name"):
        run(model, prompts, tmp_path / "run", resume=True)
