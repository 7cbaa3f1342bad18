"""What servers are told and asked beside draws, and what is made of replies that say no."""

from pathlib import Path

import pytest

from support.errors import raises
from support.fake_server import NO_ROUTE, Say, fake_server
from tiltlm.core.errors import ConfigError, RunError
from tiltlm.core.example import token_ids
from tiltlm.sampling import SamplingSettings
from tiltlm.sampling.engines import EngineSettings
from tiltlm.sampling.engines.server import ServerEngine, dialect_of

pytest.importorskip("openai")
GOOD = Say(body={"success": True})
IDS = token_ids([5, 6, 7])
FOLDER = Path("/models/0003")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The client waits between its attempts; tests do not."""
    monkeypatch.setattr("openai._base_client.SyncAPIClient._sleep_for_retry", lambda self, **_: None)


def told(kind: str, say, *said: Say) -> list[tuple[str, dict]]:
    """Let a dialect say something to a server with these replies, the last one again and again; return the requests."""
    with fake_server(lambda request, number: said[min(number, len(said) - 1)]) as server:
        say(dialect_of(EngineSettings(server.url, server=kind)))
    return [
        (r["path"], {name: value for name, value in r.items() if name not in ("path", "key")}) for r in server.requests
    ]


def test_vllm_loads_whole_weights_while_it_is_paused():
    requests = told("vllm", lambda dialect: dialect.load_weights(FOLDER), GOOD)
    reload = {"method": "reload_weights", "kwargs": {"weights_path": str(FOLDER)}}
    assert requests == [
        ("/pause?mode=wait", {}), ("/collective_rpc", reload), ("/reset_prefix_cache", {}), ("/resume", {}),
    ]  # fmt: skip


@pytest.mark.parametrize("prefix", [("vllm", "/v1"), ("sglang", "")])
def test_adapters_by_name_and_path(prefix):
    kind, root = prefix

    def both(dialect):
        dialect.load_adapter(FOLDER, "new")
        dialect.unload_adapter("old")

    assert told(kind, both, GOOD) == [
        (f"{root}/load_lora_adapter", {"lora_name": "new", "lora_path": str(FOLDER)}),
        (f"{root}/unload_lora_adapter", {"lora_name": "old"}),
    ]


def test_sglang_loads_whole_weights():
    body = {"model_path": str(FOLDER), "flush_cache": True}
    assert told("sglang", lambda dialect: dialect.load_weights(FOLDER), GOOD) == [("/update_weights_from_disk", body)]


@pytest.mark.parametrize(
    ("kind", "say", "replies", "mentions"),
    [
        ("vllm", "load_weights", [NO_ROUTE], ["/pause?mode=wait", "404", "Not Found", "VLLM_SERVER_DEV_MODE=1"]),
        ("vllm", "load_weights", [GOOD, Say(500, {"error": "shape"})], ["/collective_rpc", "500", "shape"]),
        ("vllm", "load_weights", [GOOD, GOOD, Say(body={"success": False})], ["/reset_prefix_cache", "False"]),
        ("vllm", "load_weights", [GOOD, GOOD, Say(body=b"")], ["/reset_prefix_cache"]),
        ("vllm", "load_adapter", [Say(400, {"message": "rank 64"})], ["400", "rank 64", "--max-lora-rank", "--resume"]),
        ("sglang", "load_weights", [Say(body={"success": False, "message": "no such file"})], ["no such file"]),
        ("sglang", "load_adapter", [NO_ROUTE], ["/load_lora_adapter", "404", "--enable-lora"]),
    ],
)
def test_a_server_that_refuses_weights_is_quoted(kind, say, replies, mentions):
    arguments = (FOLDER,) if say == "load_weights" else (FOLDER, "new")
    with raises(RunError, "sync_failed", key="engine.sync", mentions=mentions):
        told(kind, lambda dialect: getattr(dialect, say)(*arguments), *replies)


def entries(*logps) -> Say:
    known = [None, *({str(token): {"logprob": p}, "9": {"logprob": -0.1}} for token, p in zip((6, 7), logps))]  # noqa: B905
    return Say(body={"choices": [{"prompt_logprobs": known}]})


def pairs(*logps, ids=(5, 6, 7)) -> Say:
    return Say(body={"meta_info": {"input_token_logprobs": [[p, k, None] for p, k in zip(logps, ids, strict=True)]}})


@pytest.mark.parametrize(
    ("kind", "reply"),
    [("vllm", entries(-1.5, -2.5)), ("sglang", pairs(None, -1.5, -2.5)), ("vllm", entries(-1.5, None))],
)
def test_scores_are_those_of_the_tokens_that_were_sent(kind, reply):
    def ask(dialect):
        found.extend(dialect.score(IDS, "m", "s"))

    found: list = []
    ((_, body),) = told(kind, ask, reply)
    assert found in ([-1.5, -2.5], [-1.5, None])
    expected = {"prompt": [5, 6, 7], "cache_salt": "s", "model": "m"} if kind == "vllm" else {"logprob_start_len": 0}
    assert {name: body[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("kind", "reply"),
    [
        ("vllm", entries(-1.5)),
        ("vllm", Say(body={"choices": [{"text": "x"}]})),
        ("vllm", Say(body={"choices": []})),
        ("vllm", Say(body=[1])),
        ("sglang", pairs(-1.5, -2.5, ids=(6, 7))),
        ("sglang", Say(body={"text": "x"})),
    ],
)
def test_a_server_without_scores_of_prompts_is_refused(kind, reply):
    other = "sglang" if kind == "vllm" else "vllm"
    with raises(RunError, "no_prompt_logps", key="engine.server", mentions=[f"engine.server={other}"]):
        told(kind, lambda dialect: dialect.score(IDS, "m", ""), reply)


def test_an_sglang_server_draws_by_its_own_route():
    """Tokens are those that have a log-probability; the reply to one answer is no list."""

    def reply(request, number):
        tokens = [[-0.5, 8, None], [-0.25, 2, None]]
        said = {"text": "", "meta_info": {"finish_reason": {"type": "stop"}, "output_token_logprobs": tokens}}
        n = request["sampling_params"]["n"]
        return Say(body=said if n == 1 else [said] * n)

    with fake_server(reply) as server:
        engine = ServerEngine.connect(EngineSettings(server.url, server="sglang"), None, "")
        for n in (1, 3):
            ((*own,),) = engine.draw([IDS], n, SamplingSettings(8, top_k=4), seed=0, end_token_ids=[2]).answers
            assert [answer.token_ids.tolist() for answer in own] == [[8, 2]] * n
            assert all(answer.ended for answer in own)
    request = server.requests[0]
    assert request["input_ids"] == [5, 6, 7]
    assert request["return_logprob"]
    assert "lora_path" not in request
    knobs = request["sampling_params"]
    assert (knobs["top_k"], knobs["top_p"], knobs["stop_token_ids"], knobs["no_stop_trim"]) == (4, 1.0, [2], True)
    assert "sampling_seed" not in knobs


def test_tokens_of_an_answer_keep_their_log_probabilities():
    from support.completions_server import choice, completion, serving

    with serving(lambda body, _: completion(choice([4, 2], [-1.5, -0.25]))) as server:
        engine = ServerEngine.connect(EngineSettings(server.url), None, "")
        ((answer,),) = engine.draw([IDS], 1, SamplingSettings(8), seed=0, end_token_ids=[2]).answers
        ((hot,),) = engine.draw([IDS], 1, SamplingSettings(8, temperature=2), seed=0, end_token_ids=[2]).answers
    assert answer.behaviour_token_logps.tolist() == [-1.5, -0.25]
    assert hot.behaviour_token_logps is None, "nobody said whether they are those of the draw"


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"sync": "lora", "model": "m"}, "engine.model"),
        ({"server": "sglang", "model": "m"}, "engine.model"),
    ],
)
def test_settings_without_effect(settings, key):
    with raises(ConfigError, "no_effect", key=key):
        EngineSettings("http://127.0.0.1:1/v1", **settings)
