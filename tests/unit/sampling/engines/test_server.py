"""A server as engine: token ids both ways, every knob sent, and what a server can do wrong."""

import gc
import math

import numpy as np
import pytest

from support.completions_server import choice, completion, serving
from support.errors import raises
from support.tiny_policies import make_policy
from tiltlm.core.errors import ConfigError, RunError
from tiltlm.core.example import Response, token_ids
from tiltlm.logprobs.plain import separate_logps
from tiltlm.sampling import SamplingSettings
from tiltlm.sampling.engines import EngineSettings
from tiltlm.sampling.engines import server as module
from tiltlm.sampling.engines.server import ServerEngine

pytest.importorskip("openai")

END = 2
PROMPTS = [token_ids([5, 6]), token_ids([7, 8, 9])]
GOOD = choice([4, 4, END], [-1.0, -0.5, -0.25])


def connect(server, policy=None, **settings) -> ServerEngine:
    return ServerEngine.connect(EngineSettings(server.url, **settings), policy, "")


def draw(engine, n=2, prompts=PROMPTS, **knobs):
    return engine.draw(prompts, n, SamplingSettings(8, **knobs), seed=3, end_token_ids=[END])


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The client waits between its attempts; tests do not."""
    monkeypatch.setattr("openai._base_client.SyncAPIClient._sleep_for_retry", lambda self, **_: None)


def test_prompts_go_as_token_ids_with_every_knob():
    with serving(lambda body, _: completion(*[GOOD] * body["n"])) as server:
        batch = draw(connect(server), temperature=0.7, top_k=5, top_p=0.9, min_p=0.1)
        assert [len(own) for own in batch.answers] == [2, 2]
        assert sorted(r["prompt"] for r in server.requests) == [p.tolist() for p in PROMPTS]
        assert len({r["seed"] for r in server.requests}) == 2
        expected = {
            "model": "tiny", "n": 2, "max_tokens": 8, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1,
            "repetition_penalty": 1.0, "logprobs": 0, "return_token_ids": True, "skip_special_tokens": False,
            "stop_token_ids": [END],
        }  # fmt: skip
        for request in server.requests:
            assert {name: request[name] for name in expected} == expected
        draw(connect(server))
        assert {(r["top_k"], r["top_p"], r["min_p"]) for r in server.requests[2:]} == {(-1, 1.0, 0.0)}


def test_answers_stand_beside_their_prompts_whatever_the_order_of_replies():
    def reply(body, _):
        return completion(choice([body["prompt"][0] + 10, END], [-1.0, -1.0]))

    with serving(reply) as server:
        prompts = [token_ids([i, 1]) for i in range(3, 23)]
        batch = draw(connect(server), n=1, prompts=prompts)
    assert [own[0].token_ids.tolist() for own in batch.answers] == [[i + 10, END] for i in range(3, 23)]


@pytest.mark.parametrize(
    ("knobs", "logprobs", "logp", "behaviour"),
    [
        ({}, "unknown", -1.75, -1.75),
        ({"temperature": 0.5}, "unknown", None, None),
        ({"temperature": 0.5}, "raw", -1.75, None),
        ({"temperature": 0.5}, "processed", None, -1.75),
        ({"top_p": 0.9}, "unknown", None, None),
        ({"temperature": 0}, "raw", -1.75, 0.0),
        ({"temperature": 0}, "unknown", None, 0.0),
    ],
)
def test_log_probabilities_are_taken_only_for_what_they_are(knobs, logprobs, logp, behaviour):
    with serving(lambda body, _: completion(GOOD)) as server:
        ((answer,),) = draw(connect(server, logprobs=logprobs), n=1, prompts=PROMPTS[:1], **knobs).answers
    assert (answer.logp, answer.behaviour_logp) == (logp, behaviour)


def test_a_local_model_scores_at_temperature_one():
    policy = make_policy()
    with serving(lambda body, _: completion(GOOD, choice([4, 9], [-1.0, -1.0], "length"))) as server:
        batch = draw(connect(server, policy), temperature=0.5)
    for prompt, own in zip(PROMPTS, batch.answers, strict=True):
        assert [answer.ended for answer in own] == [True, False]
        for answer in own:
            with policy.stock_attention():
                logps = separate_logps(policy.model, prompt, Response(answer.token_ids, ended=answer.ended))
            np.testing.assert_allclose(answer.logp, logps.sum().item(), atol=1e-4)


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (choice([4, END], [-1.0, math.nan]), "bad_logps"),
        (choice([4, END], [-1.0, None]), "bad_logps"),
        (choice([4, END], [-1.0]), "bad_logps"),
        (choice([4, END], None), "bad_logps"),
        (choice([4, END], [-1.0, 0.5]), "bad_logps"),
        (choice([], []), "no_tokens"),
        (choice([4, 4], [-1.0, -1.0]), "no_end_token"),
        (choice([4, 4], [-1.0, -1.0], "abort"), "not_finished"),
        (choice([4] * 9, [-1.0] * 9, "length"), "not_finished"),
    ],
)
def test_a_bad_choice_is_asked_again_twice_and_then_left_out_by_its_cause(bad, cause):
    with serving(lambda body, _: completion(*([GOOD] if body["n"] == 2 else []), bad)) as server:
        batch = draw(connect(server), prompts=PROMPTS[:1])
        assert [r["n"] for r in server.requests] == [2, 1, 1]
        assert len({r["seed"] for r in server.requests}) == 3
    assert [len(own) for own in batch.answers] == [1]
    assert batch.dropped == {cause: 1}


def test_a_choice_that_is_good_the_second_time_is_no_loss():
    def reply(body, number):
        return completion(choice([4, END], [-1.0, math.nan])) if number == 0 else completion(*[GOOD] * body["n"])

    with serving(reply) as server:
        batch = draw(connect(server), prompts=PROMPTS[:1])
    assert [len(own) for own in batch.answers] == [2]
    assert not batch.dropped


def test_fewer_choices_than_asked_are_counted():
    with serving(lambda body, number: completion(*[GOOD] * (body["n"] // 2))) as server:
        batch = draw(connect(server), n=8, prompts=PROMPTS[:1])
        assert [r["n"] for r in server.requests] == [8, 4, 2]
    assert [len(own) for own in batch.answers] == [7]
    assert batch.dropped == {"fewer_choices": 1}


def test_a_server_without_token_ids_is_refused():
    """It is not asked again: no further request would help."""
    with (
        serving(lambda body, _: completion(choice(None, [-1.0]))) as server,
        raises(ConfigError, "no_token_ids", key="engine.name", mentions=["return_token_ids"]),
    ):
        draw(connect(server), prompts=PROMPTS[:1])
    assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "requests"), [(400, 1), (401, 1), (402, 1), (429, 4), (500, 4)])
def test_what_may_pass_is_tried_again_and_what_cannot_is_not(status, requests):
    with (
        serving(lambda body, _: (status, {"error": {"message": "no"}})) as server,
        raises(RunError, "server_failed", mentions=[str(status)]),
    ):
        draw(connect(server), prompts=PROMPTS[:1])
    assert len(server.requests) == requests


def test_a_server_that_recovers_is_no_error():
    def reply(body, number):
        return (503, {}) if number == 0 else completion(*[GOOD] * body["n"])

    with serving(reply) as server:
        assert [len(own) for own in draw(connect(server), prompts=PROMPTS[:1]).answers] == [2]


def test_a_damaged_reply_is_asked_for_again():
    def reply(body, number):
        return (
            (200, b'{"id": "c", "choi') if body["prompt"] == [5, 6] or number == 0 else completion(*[GOOD] * body["n"])
        )

    with serving(reply) as server:
        batch = draw(connect(server))
    assert [len(own) for own in batch.answers] == [0, 2]
    assert batch.dropped == {"damaged_reply": 2}


def test_the_model_is_the_only_one_or_named():
    with serving(lambda body, _: completion(GOOD), models=("a", "b")) as server:
        with raises(ConfigError, "missing_setting", key="engine.model", mentions=["a, b"]):
            connect(server)
        draw(connect(server, model="b"), n=1)
        assert {r["model"] for r in server.requests} == {"b"}
    with raises(RunError, "server_failed", mentions=[server.url]):
        connect(server)


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    connection = module.dialect_of(EngineSettings("http://127.0.0.1:1/v1", key_variable="MY_KEY")).connection
    assert connection.client.api_key == "secret"


def test_connections_are_closed_with_their_engine():
    with serving(lambda body, _: completion(*[GOOD] * body["n"])) as server:
        engine = connect(server)
        draw(engine)
        client = engine.dialect.connection.client
        loop = [engine]
        loop.append(loop)
        del engine, loop
        gc.collect()
        assert client.is_closed(), "else the collector may drop the sockets before the client, with a warning"
