"""Methods compared: the best trial of the choosing half, and differences on the other half that chance explains."""

from dataclasses import replace

import numpy as np
import pytest

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.diagnostics import Interval
from tiltlm.evaluation.answers.method_comparison import MethodRun, choose_trials, compare_methods, split_prompts

PROMPTS = [f"prompt {i}" for i in range(60)]
CHOOSES, REPORTS = split_prompts(PROMPTS)


def run(method, value, *, name=None, seed=0, kl=1.0, settings=None):
    """Return a run whose value at each prompt is a function of the prompt."""
    values = {prompt: float(value(prompt)) for prompt in PROMPTS}
    interval = None if kl is None else Interval(kl, kl, kl, 0.95, 10)
    return MethodRun(name or f"{method} {seed}", method, settings or {"beta": 0.1}, seed, values, interval)


def compared(runs, **more):
    trials = {method: choose_trials(own)[method][1] for method, own in runs.items()}
    return compare_methods(runs, trials, measure="score", is_share=False, **more)


def test_halves_do_not_overlap_and_depend_on_the_prompt_alone():
    assert {*CHOOSES} | {*REPORTS} == {*PROMPTS}
    assert not {*CHOOSES} & {*REPORTS}
    assert 20 < len(CHOOSES) < 40
    assert {*split_prompts(PROMPTS[::-1])[0]} == {*CHOOSES}
    assert split_prompts([*PROMPTS, "another"])[0][: len(CHOOSES)] == CHOOSES
    assert split_prompts(PROMPTS, seed=1)[0] != CHOOSES


def test_the_reporting_half_does_not_choose():
    """A trial that is best on the reporting half, and worse on the other, is not chosen."""
    honest = run("a", lambda p: 1.0 if p in CHOOSES else 0.0, name="honest")
    lucky = run("a", lambda p: 0.0 if p in CHOOSES else 9.0, name="lucky")
    best, trials = choose_trials([honest, lucky])["a"]
    assert best.name == "honest"
    assert [(t.name, t.is_chosen, t.chooses.estimate, t.reports.estimate) for t in trials] == [
        ("honest", True, 1.0, 0.0),
        ("lucky", False, 0.0, 9.0),
    ]
    result = compared({"a": [honest], "b": [run("b", lambda p: 0.5)]}).methods
    assert [(r.method, r.value.estimate) for r in result] == [("b", 0.5), ("a", 0.0)]


def test_a_limit_of_kl_excludes():
    near, far = run("a", lambda p: 1, name="near", kl=1.0), run("a", lambda p: 2, name="far", kl=5.0)
    assert choose_trials([near, far])["a"][0].name == "far"
    best, trials = choose_trials([near, far], max_kl=2.0)["a"]
    assert best.name == "near"
    assert [t.is_too_far for t in trials] == [False, True]
    assert choose_trials([far], max_kl=2.0)["a"][0] is None
    with raises(ConfigError, "not_measured", key="max_kl"):
        choose_trials([run("a", lambda p: 1, kl=None)], max_kl=2.0)


def test_too_few_prompts():
    few = MethodRun("a", "a", {}, 0, {"one": 1.0, "two": 1.0}, None)
    with raises(ConfigError, "too_few_prompts", key="data.eval_fraction"):
        choose_trials([few])


def noisy(method, mean, rng, seeds=3):
    effect = dict(zip(PROMPTS, rng.normal(size=len(PROMPTS)), strict=True))
    return [
        run(method, lambda p: mean + effect[p] + rng.normal(), seed=seed, kl=1.0 + 0.1 * seed) for seed in range(seeds)
    ]


def test_what_differs_is_told_apart_and_what_does_not_is_not():
    rng = np.random.default_rng(0)
    found = compared({"a": noisy("a", 3.0, rng), "b": noisy("b", 3.0, rng), "c": noisy("c", 0.0, rng)})
    assert found.methods[-1].method == "c"
    assert [m for m in ("a", "b") if m != found.methods[0].method] == list(found.not_told_apart)
    pairs = {(pair.first, pair.second): pair for pair in found.pairs}
    assert pairs["a", "c"].is_told_apart
    assert not pairs["a", "b"].is_told_apart
    assert all(pair.adjusted_p >= pair.p_value for pair in found.pairs)
    assert found.methods[0].kl.estimate == pytest.approx(1.1)


def test_equal_methods_are_rarely_told_apart():
    """Three equal methods: any pair is told apart in at most about 5 % of 300 repeats, adjusted by Holm."""
    rng = np.random.default_rng(1)
    false = 0
    for _ in range(300):
        runs = {name: noisy(name, 0.0, rng) for name in "abc"}
        found = compare_methods(runs, dict.fromkeys(runs, ()), measure="score", is_share=False)
        false += any(pair.is_told_apart for pair in found.pairs)
    assert false / 300 < 0.08


def test_methods_are_compared_on_prompts_that_all_of_them_measured():
    """A method whose data has fewer usable rows measures fewer prompts."""
    whole, part = run("a", lambda p: 1.0), run("b", lambda p: 0.0)
    missing = {REPORTS[0], CHOOSES[0]}
    part = replace(part, value={prompt: value for prompt, value in part.value.items() if prompt not in missing})
    found = compared({"a": [whole], "b": [part]})
    assert (found.num_choosing, found.num_reporting) == (len(CHOOSES) - 1, len(REPORTS) - 1)
    assert found.pairs[0].difference.estimate == 1.0
