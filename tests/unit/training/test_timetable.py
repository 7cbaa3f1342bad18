"""What is due when follows from a counter alone."""

import pytest

from tiltlm.training.settings import TrainingSettings
from tiltlm.training.timetable import Timetable


def table(num_examples=10, **settings):
    return Timetable(num_examples, "fingerprint", TrainingSettings(batch_size=4, **settings))


def test_each_epoch_sees_every_example_once_in_an_order_of_its_own():
    plan = table(num_epochs=2)
    assert (plan.steps_per_epoch, plan.num_steps) == (3, 6)
    epochs = [[row for step in range(first, first + 3) for row in plan.rows(step)] for first in (0, 3)]
    assert [len(plan.rows(step)) for step in range(6)] == [4, 4, 2, 4, 4, 2]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]


def test_the_order_follows_fingerprint_and_seed():
    plan = table(num_examples=40)
    assert plan.rows(0) == table(num_examples=40).rows(0)
    assert plan.rows(0) != table(num_examples=40, seed=1).rows(0)
    assert plan.rows(0) != Timetable(40, "other", plan.settings).rows(0)


@pytest.mark.parametrize(("max_steps", "num_steps"), [(None, 6), (4, 4), (100, 6)])
def test_whatever_ends_first(max_steps, num_steps):
    assert table(num_epochs=2, max_steps=max_steps).num_steps == num_steps


def test_cadences():
    plan = table(num_epochs=2)
    assert [plan.evaluates(done) for done in range(7)] == [True, False, False, True, False, False, True]
    assert [plan.saves(done) for done in range(7)] == [False, False, False, True, False, False, True]
    plan = table(num_epochs=2, eval_every=2, save_every=4, log_every=4)
    assert [done for done in range(7) if plan.evaluates(done)] == [0, 2, 4, 6]
    assert [done for done in range(7) if plan.saves(done)] == [4, 6]
    assert [done for done in range(1, 7) if plan.logs(done)] == [4, 6]


def test_epochs_are_counted_in_examples():
    assert [table(num_epochs=2).epoch(done) for done in range(7)] == [0, 0.4, 0.8, 1, 1.4, 1.8, 2]
