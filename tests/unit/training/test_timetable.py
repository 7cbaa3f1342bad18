"""What is due when follows from a counter alone."""

import numpy as np
import pytest

from tiltlm.core import Example, Response, build_trees, token_ids
from tiltlm.training.timetable import Timetable
from tiltlm.training.training_settings import TrainingSettings


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


def test_examples_of_a_prompt_share_a_step_and_cost_their_prompt_once():
    """Four rows a prompt, as in group4: the tokens of an epoch are those of every prompt computed once."""
    rng = np.random.default_rng(0)
    prompts = rng.permutation(np.repeat(np.arange(12), 4))
    examples = [
        Example(str(i), token_ids([1] * 20 + [2 + p]), (Response(token_ids([3, 5 + i])),))
        for i, p in enumerate(prompts.tolist())
    ]
    grouped, plain = (
        Timetable.of(examples, "f", TrainingSettings(batch_size=8, num_epochs=2, group_by_prompt=together))
        for together in (True, False)
    )
    assert grouped.num_steps == plain.num_steps == 12

    def cost(plan, step):
        return sum(tree.num_tokens for tree in build_trees([examples[i] for i in plan.rows(step)])[0])

    assert [cost(grouped, step) for step in range(12)] == [2 * 21 + 8] * 12
    assert sum(cost(plain, step) for step in range(12)) > 1.5 * 12 * 50
    epochs = [[row for step in range(first, first + 6) for row in grouped.rows(step)] for first in (0, 6)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(48))
    assert epochs[0] != epochs[1]
    again = Timetable.of(examples, "f", grouped.settings)
    assert [again.rows(step) for step in (7, 3)] == [grouped.rows(step) for step in (7, 3)]
