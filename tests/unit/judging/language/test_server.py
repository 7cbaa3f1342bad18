"""What may pass is asked again, what will not stops at once, and the key stays where it is."""

import gc

import pytest

from support.errors import raises
from support.fake_server import Say, asker, fake_server, written
from tiltlm.core import ConfigError, RunError
from tiltlm.distributed.position import HERE
from tiltlm.judging import Budget, JudgementCache, PairItem, cached
from tiltlm.judging.language.judges import PairwiseJudge
from tiltlm.judging.language.prices import Price
from tiltlm.judging.language.server import MAX_REPLY, Server, ServerSettings

PAIRS = [PairItem("p", str(k), "x") for k in range(6)]
FINE = written("Verdict: first")


def judged(reply, num=1, **settings):
    """Return verdicts, requests and waits."""
    with fake_server(reply) as server:
        model = asker(server.url, mode="regex", concurrency=1, **settings)
        return list(PairwiseJudge(model).compare(PAIRS[:num])), server.requests, model.clock.slept


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_what_may_pass_is_asked_again(status):
    (verdict,), requests, waits = judged(lambda _, k: FINE if k == 2 else Say(status, {"error": "busy"}))
    assert (verdict.outcome, verdict.attempt) == ("left", 3)
    assert len(requests) == 3
    assert waits == [0.5, 1.0], "the limit of the wait doubles; the test draws the longest"


def test_each_attempt_is_a_sign_of_life():
    """Other ranks wait for the one that asks, and a server may let it wait for minutes."""
    before = HERE.ticks
    judged(lambda _, k: FINE if k == 3 else Say(429, {"error": "busy"}))
    assert HERE.ticks >= before + 4


def test_the_server_says_how_long_to_wait():
    busy = [Say(429, {}, {"retry-after": "7"}), Say(429, {}, {"retry-after": "Thu, 01 Jan 1970 00:00:20 GMT"}), FINE]
    _, _, waits = judged(lambda _, k: busy[k])
    assert waits == [7.5, 21.0]


def test_a_wait_that_is_too_long_stops():
    with raises(RunError, "server_busy"):
        judged(lambda *_: Say(429, {}, {"retry-after": "3600"}))


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_what_will_not_pass_stops_at_once(status):
    with fake_server(lambda *_: Say(status, {"error": "no"})) as server:
        with raises(RunError, "server_refused", key="judge.url", mentions=[str(status)]):
            list(PairwiseJudge(asker(server.url, mode="regex")).compare(PAIRS))
        assert len(server.requests) == 1


def test_another_status_is_an_error_of_that_question():
    found, requests, _ = judged(lambda _, k: Say(400, {"error": "too long"}) if k == 1 else FINE, num=3)
    assert [v.outcome for v in found] == ["left", "error", "left"]
    assert len(requests) == 3


def test_a_server_that_is_down_ends_the_call_and_not_before():
    with fake_server(lambda *_: Say(500, {})) as server:
        model = asker(server.url, mode="regex", concurrency=1, attempts=2)
        verdicts = PairwiseJudge(model).compare(PAIRS)
        assert [next(verdicts).outcome for _ in range(4)] == ["error"] * 4
        with raises(RunError, "server_down"):
            next(verdicts)
        assert len(server.requests) == 5 * 2


def test_nobody_listening_is_an_error_too():
    with fake_server(lambda *_: FINE) as server:
        url = server.url
    with raises(RunError, "server_down"):
        list(PairwiseJudge(asker(url, mode="regex", attempts=1)).compare(PAIRS))


def test_a_reply_that_does_not_come_is_asked_for_again():
    (verdict,), requests, _ = judged(lambda _, k: Say(200, {}, wait=30) if k == 0 else FINE, timeout=0.2)
    assert (verdict.outcome, verdict.attempt, len(requests)) == ("left", 2, 2)


def test_a_reply_that_breaks_off_is_asked_for_again():
    (verdict,), requests, _ = judged(lambda _, k: Say(200, FINE.body, drops=k == 0))
    assert (verdict.outcome, verdict.attempt, len(requests)) == ("left", 2, 2)


@pytest.mark.parametrize("content", [b'{"choices": [{"mess', b"<html>", b"[" * 100_000])
def test_a_reply_that_is_no_json_is_an_error_and_not_paid_for_again(content):
    (verdict,), requests, _ = judged(lambda *_: Say(200, content))
    assert (verdict.outcome, len(requests)) == ("error", 1)


def test_a_reply_of_ten_megabytes_is_not_read():
    long = written("x" * 10_000_000 + "\nVerdict: first")
    (verdict,), requests, _ = judged(lambda *_: long)
    assert (verdict.outcome, len(requests)) == ("error", 1)
    assert f"{MAX_REPLY:,}" in verdict.error


def test_the_key_is_sent_and_never_shown(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-very-secret-1")
    echo = Say(400, {"error": "the key sk-very-secret-1 and Bearer abc.def are wrong"})
    (verdict,), (request,), _ = judged(lambda *_: echo, key_variable="MY_KEY")
    assert request["key"] == "Bearer sk-very-secret-1"
    assert "secret" not in str(verdict)
    assert "abc.def" not in str(verdict)
    with raises(RunError, "server_refused") as caught:
        judged(lambda *_: Say(401, {"error": "sk-very-secret-1"}), key_variable="MY_KEY")
    assert "secret" not in str(caught.value)


def test_a_server_elsewhere_needs_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with raises(ConfigError, "no_key", key="judge.key_variable"):
        Server(ServerSettings("https://api.example.org/v1", "judge-1"))
    for url in ("ftp://localhost/v1", "localhost:8000", "http://me:secret@localhost/v1"):
        with raises(ConfigError, "wrong_type", key="judge.url") as caught:
            Server(ServerSettings(url, "judge-1"))
        assert "secret" not in str(caught.value)


def test_after_a_stop_the_same_call_pays_only_for_the_rest(tmp_path):
    """Money runs out in the middle; the second call finds what was judged."""
    for number, allowed in enumerate([4, 100]):
        with (
            fake_server(lambda _, k, allowed=allowed: FINE if k < allowed else Say(402, {"error": "pay"})) as server,
            JudgementCache(tmp_path) as cache,
        ):
            model = asker(server.url, mode="regex", concurrency=1)
            model.digest = "the same model"  # the address has another port each time
            judge = cached(PairwiseJudge(model), cache)
            if number == 0:
                with raises(RunError, "server_refused"):
                    list(judge.compare(PAIRS))
                assert len(cache) == 4
            else:
                assert [(v.outcome, v.cached) for v in judge.compare(PAIRS)] == [("left", k < 4) for k in range(6)]
                assert len(server.requests) == 2


def test_a_limit_on_money_stops_before_the_next_call(tmp_path):
    with fake_server(lambda *_: FINE) as server, JudgementCache(tmp_path) as cache:
        budget = Budget(max_cost=250.0)
        model = asker(server.url, mode="regex", concurrency=1, price=Price(1e6, 0))
        with raises(RunError, "budget_reached", key="--max-cost"):
            list(cached(PairwiseJudge(model), cache, budget=budget).compare(PAIRS))
        assert (len(server.requests), budget.cost) == (3, 300.0)


def test_an_unknown_price_cannot_be_limited(tmp_path):
    with fake_server(lambda *_: FINE) as server, JudgementCache(tmp_path) as cache:
        judge = cached(PairwiseJudge(asker(server.url, mode="regex")), cache, budget=Budget(max_cost=1.0))
        with raises(ConfigError, "unknown_price"):
            list(judge.compare(PAIRS))


def test_connections_are_closed_with_their_server():
    with fake_server(lambda *_: FINE) as fake:
        server = Server(ServerSettings(fake.url, "judge-1"))
        server.post("/chat/completions", {"messages": []}, 1)
        client = server._client
        server.itself = server
        del server
        gc.collect()
        assert client.is_closed(), "else the collector may drop the sockets before the client, with a warning"
