"""The verdict of a comparison, whom it depends on, and the advice to stop or to go on."""

import pytest

from support.label_facts import make_facts
from tiltlm.labeling.monitor.status import measure_status


def votes(num, wins, *, annotators=("ann", "bob"), start=0):
    """Return votes of all on `num` pairs, of which the first response wins `wins`."""
    return [(k, who, "a" if k - start < wins else "b") for k in range(start, start + num) for who in annotators]


def status(found, num_pairs, **options):
    return measure_status(make_facts(found, num_pairs=num_pairs, overlap=2, extra=0, **options), resamples=50)


def test_a_clear_comparison_may_stop():
    found = status(votes(60, 52), 100)
    assert found.should_stop
    assert found.verdicts[0].outcome == 1
    assert "people prefer alpha" in found.verdicts[0].sentence()
    assert found.advice().startswith("you may stop and save about 80 votes")
    assert found.labels is None


def test_a_close_comparison_goes_on():
    found = status(votes(60, 33), 100)
    assert not found.should_stop
    assert found.verdicts[0].outcome == 0
    assert found.advice().startswith("go on, about 80 votes are missing")


def test_all_comparisons_must_be_sure():
    models = {k: ("alpha", "beta") if k < 60 else ("alpha", "gamma") for k in range(120)}
    clear = votes(40, 38) + votes(40, 38, start=60)
    assert status(clear, 120, models=models).should_stop
    assert not status(votes(40, 38) + votes(40, 22, start=60), 120, models=models).should_stop
    assert not status(votes(40, 38), 120, models=models).should_stop  # nothing is known about gamma


def test_without_systems_the_labels_decide():
    models = ("", "")
    early = status(votes(60, 30), 100, models=models)
    assert early.verdicts == ()
    assert not early.should_stop
    assert early.labels.same_labels == pytest.approx(0.6, abs=0.02)  # pairs without votes have no label
    late = status([*votes(99, 50), (99, "ann", "a")], 100, models=models)
    assert late.should_stop
    assert late.advice().startswith("you may stop: 1 missing vote would leave")


def test_at_the_end_nothing_is_advised():
    assert status(votes(30, 15), 30).advice() == "all planned votes are in"
    assert status([], 0).advice() == "no pairs yet"
    assert status([], 10, models=("", "")).advice().startswith("go on: 20 votes")


def test_a_verdict_that_one_person_makes():
    """Two people see no difference; a third one always prefers alpha."""
    even = [(k, who, "ab"[k % 2]) for k in range(40) for who in ("ann", "bob")]
    found = measure_status(
        make_facts(even + [(k, "eve", "a") for k in range(40)], num_pairs=40, overlap=3, extra=0), resamples=50
    )
    (verdict,) = found.verdicts
    assert verdict.outcome == 1
    assert verdict.depends_on == ("eve",)
    assert verdict.without["eve"].estimate == 0.5
    assert verdict.without["ann"].estimate == 0.75


def test_one_annotator_has_no_others():
    assert status([(k, "ann", "a") for k in range(30)], 30).verdicts[0].without == {}
