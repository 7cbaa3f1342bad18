"""Judgements are made once: by content, across processes, and after a kill."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from support.errors import raises
from support.judges import FakeComparer, FakeScorer, hard, length, soft
from tiltlm.core import ConfigError, RunError
from tiltlm.judging import Budget, Item, JudgementCache, PairItem, Score, both_orders, cached
from tiltlm.judging.cache import key_of

ITEMS = [Item("p", "one"), Item("p", "three"), Item("q", "one"), Item("p", "one")]


@pytest.fixture
def cache(tmp_path):
    with JudgementCache(tmp_path) as found:
        yield found


def test_a_judgement_is_made_once(cache):
    judge = FakeScorer(length)
    first = list(cached(judge, cache).score(ITEMS))
    assert len(judge.asked) == 3, "the last item is the first one again"
    assert [score.value for score in first] == [3, 5, 3, 3]
    assert [score.cached for score in first] == [False, False, False, True]
    second = list(cached(judge, cache).score(ITEMS))
    assert len(judge.asked) == 3
    assert [score.value for score in second] == [3, 5, 3, 3]
    assert all(score.cached for score in second)


def test_verdicts_come_back_whole(cache):
    judge = FakeComparer(lambda pair: replace(soft(0.75), rationale="because", cost=None, tokens_in=7, mode="logprobs"))
    pair = PairItem("p", "x", "y")
    (one,), (other,) = (both_orders(cached(judge, cache), [pair]) for _ in range(2))
    assert len(judge.asked) == 2
    assert other.p == one.p
    assert [replace(verdict, cached=False) for verdict in other.verdicts] == list(one.verdicts)
    assert [verdict.cached for verdict in other.verdicts] == [True, True]


@pytest.mark.parametrize(
    "changed",
    [
        Item("other", "one", {"answer": 1}),
        Item("p", "other", {"answer": 1}),
        Item("p", "one", {"answer": 2}),
        Item("p", "one", {"answer": 1}, ended=False),
        Item(({"role": "user", "content": "p"},), "one", {"answer": 1}),
    ],
)
def test_the_key_depends_on_everything_that_is_read(changed):
    judge = FakeScorer(length)
    judge.reads = ("answer",)
    item = Item("p", "one", {"answer": 1, "remark": "a"})
    assert key_of(judge, item) != key_of(judge, changed)
    assert key_of(judge, item) == key_of(judge, Item("p", "one", {"remark": "b", "answer": 1}))
    judge.reads = None
    assert key_of(judge, item) != key_of(judge, Item("p", "one", {"answer": 1, "remark": "b"}))


def test_the_key_depends_on_judge_order_kind_and_draw():
    pair = PairItem("p", "x", "y")
    keys = {key_of(FakeScorer(length, name), pair) for name in ("a", "b")}
    keys |= {key_of(FakeScorer(length, "a"), pair.swapped), key_of(FakeScorer(length, "a"), pair, draw=1)}
    assert len(keys) == 4


def test_errors_are_judged_again(cache):
    judge = FakeScorer(lambda _: Score(None, error="busy"))
    assert next(cached(judge, cache).score(ITEMS)).error == "busy"
    judge.function = length
    assert [score.value for score in cached(judge, cache).score(ITEMS)] == [3, 5, 3, 3]
    comparer = FakeComparer(lambda _: hard("error", "busy"))
    list(cached(comparer, cache).compare([PairItem("p", "x", "y")]))
    list(cached(comparer, cache).compare([PairItem("p", "x", "y")]))
    assert len(comparer.asked) == 2


def test_a_damaged_row_is_judged_again_and_counted(cache):
    judge = FakeScorer(length)
    list(cached(judge, cache).score(ITEMS))
    with sqlite3.connect(cache.path) as db:
        db.execute("UPDATE judgements SET value = '{\"value\": 999.0}' WHERE key = ?", (key_of(judge, ITEMS[1]),))
    db.close()
    assert [score.value for score in cached(judge, cache).score(ITEMS)] == [3, 5, 3, 3]
    assert cache.num_damaged == 1
    assert len(judge.asked) == 4
    assert [score.cached for score in cached(judge, cache).score(ITEMS)] == [True] * 4


def test_another_version_and_another_file_are_refused(tmp_path):
    JudgementCache(tmp_path).close()
    db = sqlite3.connect(tmp_path / "judgements.sqlite")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with raises(RunError, "cache_version", mentions=["99"]):
        JudgementCache(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "judgements.sqlite").write_text("this is a text and no database at all" * 100)
    with raises(RunError, "damaged"):
        JudgementCache(tmp_path / "other")


def test_a_full_disk_is_named_and_what_was_judged_stays(cache):
    """Also where sqlite has ended the transaction by itself."""
    judge = FakeScorer(length)
    list(cached(judge, cache).score(ITEMS[:2]))
    (pages,) = cache._db.execute("PRAGMA page_count").fetchone()
    cache._db.execute(f"PRAGMA max_page_count = {pages}")
    with raises(RunError, "not_writable", key="TILTLM_CACHE", mentions=[str(cache.path), "full"]):
        cache.put("large", "judge", {"text": "x" * 100_000})
    assert len(cache) == 2


def test_the_number_of_calls_is_limited_and_what_was_judged_stays(cache):
    judge, items = FakeScorer(length), [Item("p", "x" * n) for n in range(1, 8)]
    budget = Budget(max_calls=3)
    with raises(RunError, "budget_reached", key="--max-calls"):
        list(cached(judge, cache, budget=budget).score(items))
    assert (len(judge.asked), budget.calls, len(cache)) == (3, 3, 3)
    assert [s.value for s in cached(judge, cache, budget=Budget(max_calls=4)).score(items)] == [1, 2, 3, 4, 5, 6, 7]
    assert len(judge.asked) == 7


def test_the_cost_is_limited(cache):
    judge = FakeScorer(lambda item: Score(1.0, cost=0.4))
    budget = Budget(max_cost=1.0)
    with raises(RunError, "budget_reached", key="--max-cost"):
        list(cached(judge, cache, budget=budget).score([Item("p", "x" * n) for n in range(1, 8)]))
    assert (len(judge.asked), budget.cost) == (3, pytest.approx(1.2))
    unknown = FakeScorer(lambda item: Score(1.0, cost=None), "unknown")
    with raises(ConfigError, "unknown_price", key="--max-cost"):
        list(cached(unknown, cache, budget=Budget(max_cost=1.0)).score(ITEMS))
    free_of_limits = Budget()
    list(cached(FakeScorer(unknown.function, "other"), cache, budget=free_of_limits).score(ITEMS))
    assert free_of_limits.cost is None


def test_missing_items_are_counted_once(cache):
    judge = cached(FakeScorer(length), cache)
    assert len(judge.missing(ITEMS)) == 3
    next(judge.score(ITEMS))
    assert len(judge.missing(ITEMS)) == 2


PROGRAM = """
import sys, time
from support.judges import FakeScorer
from tiltlm.judging import Item, JudgementCache, cached

def slow(item):
    time.sleep(0.005)
    with open(sys.argv[2], "a") as file:
        file.write(item.response + "\\n")
    return len(item.response)

with JudgementCache(sys.argv[1]) as cache:
    for score in cached(FakeScorer(slow), cache).score([Item("p", "x" * n) for n in range(1, 201)]):
        pass
print("done")
"""


def start(folder, log):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(log)], stdout=subprocess.PIPE, env=environment, text=True
    )


def test_a_killed_process_loses_only_what_was_not_answered(tmp_path):
    log = tmp_path / "asked.txt"
    process = start(tmp_path, log)
    while not log.exists() or log.read_text().count("\n") < 30:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    asked = log.read_text().count("\n")
    with JudgementCache(tmp_path) as cache:
        assert asked - 1 <= len(cache) <= asked
    again = start(tmp_path, log)
    assert again.communicate()[0] == "done\n"
    assert 200 <= log.read_text().count("\n") <= 201, "at most the call under way is made twice"


def test_two_processes_share_one_cache(tmp_path):
    logs = [tmp_path / "a.txt", tmp_path / "b.txt"]
    processes = [start(tmp_path / "cache", log) for log in logs]
    assert [process.communicate()[0] for process in processes] == ["done\n"] * 2
    with JudgementCache(tmp_path / "cache") as cache:
        assert len(cache) == 200
        assert cache.num_damaged == 0
        db = sqlite3.connect(cache.path)
        values = [json.loads(text)["value"] for (text,) in db.execute("SELECT value FROM judgements")]
        db.close()
    assert sorted(values) == list(range(1, 201))
