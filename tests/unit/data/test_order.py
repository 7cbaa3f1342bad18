"""Orders are permutations that depend only on fingerprint, seed and epoch."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiltlm.data.order import epoch_order, grouped_order


@given(st.integers(0, 200), st.text(max_size=5), st.integers(0, 2**40), st.integers(0, 50))
def test_every_example_once_and_the_same_again(n, fingerprint, seed, epoch):
    order = epoch_order(n, fingerprint, seed, epoch)
    assert sorted(order.tolist()) == list(range(n))
    assert np.array_equal(order, epoch_order(n, fingerprint, seed, epoch))


@pytest.mark.parametrize("other", [("g", 0, 0), ("f", 1, 0), ("f", 0, 1)])
def test_each_argument_matters(other):
    assert not np.array_equal(epoch_order(50, "f", 0, 0), epoch_order(50, *other))


def test_the_order_is_written_down():
    """A new numpy version must not change the order of runs that are resumed."""
    assert epoch_order(8, "f", 0, 0).tolist() == [0, 6, 7, 4, 5, 1, 3, 2]


def test_positions_are_uniform():
    """χ² of the position of example 0 among 8 over 800 epochs: 7 degrees of freedom, 99.9 % is below 24.3."""
    places = [int(np.flatnonzero(epoch_order(8, "f", 0, epoch) == 0)[0]) for epoch in range(800)]
    counts = np.bincount(places, minlength=8)
    assert ((counts - 100) ** 2 / 100).sum() < 24.3


def steps_of(order, prompts, batch_size):
    """Return the prompts of each step's rows."""
    rows = np.asarray(prompts)[order].tolist()
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 12), st.integers(0, 9))
def test_grouped_rows_are_neighbours_and_whole_where_they_fit(labels, batch_size, epoch):
    prompts = np.unique(np.array(labels, dtype=np.int64), return_inverse=True)[1]
    order = grouped_order(prompts, batch_size, "f", 0, epoch)
    assert sorted(order.tolist()) == list(range(len(prompts)))
    visited = prompts[order].tolist()
    assert len([p for p, before in zip(visited, [None, *visited], strict=False) if p != before]) == len(set(labels))
    assert all(rows == sorted(rows) for rows in ([r for r in order.tolist() if prompts[r] == p] for p in set(visited)))
    sizes = np.bincount(prompts).tolist()
    steps = steps_of(order, prompts, batch_size)
    for i, (step, following) in enumerate(pairwise(steps)):
        if step[-1] == following[0] and step.index(step[-1]) > 0:  # a prompt was split: no later one fitted
            room = batch_size - step.index(step[-1])
            later = {p for s in steps[i + 1 :] for p in s}
            assert all(sizes[p] > room for p in later if p not in step)


def test_prompts_of_equal_size_are_never_cut_where_the_step_is_a_multiple():
    prompts = np.random.default_rng(0).permutation(np.repeat(np.arange(50), 4))
    steps = steps_of(grouped_order(prompts, 8, "f", 0, 0), prompts, 8)
    assert all(len(set(step)) == 2 for step in steps)


def test_grouped_orders_differ_by_epoch_and_are_shuffled():
    """If every prompt has one row, the order is the shuffled one; a large prompt does not always come last."""
    prompts = np.repeat(np.arange(20), [9, *[1] * 19])
    firsts = [int(np.flatnonzero(prompts[grouped_order(prompts, 4, "f", 0, e)] == 0)[0]) for e in range(200)]
    assert len(set(firsts)) > 3
    assert all(first % 4 == 0 or first >= 16 for first in firsts)
    assert 4 < np.mean(firsts) < 14
    single = np.arange(30)
    assert np.array_equal(grouped_order(single, 4, "f", 1, 2), epoch_order(30, "f", 1, 2))
