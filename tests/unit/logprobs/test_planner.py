"""Packs: whole trees under a budget, every tree once, the same number of packs on every rank."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiltlm.logprobs.planner import balance, plan, plan_ranks

SIZES = st.lists(st.integers(1, 60), max_size=40)


def test_best_fit_decreasing_by_hand():
    """8 opens a pack, 7 a second, 3 fills 7 exactly rather than 8's rest of 2, 2 fills 8 exactly, 1 opens a third."""
    assert plan([3, 8, 2, 7, 1], max_tokens=10) == [[0, 3], [1, 2], [4]]


def test_best_fit_takes_the_tightest_pack():
    assert plan([6, 4, 5, 4], max_tokens=10) == [[0, 1], [2, 3]]


def test_a_tree_beyond_the_budget_is_a_pack_of_its_own():
    assert plan([5, 100, 5], max_tokens=10) == [[0, 2], [1]]


def test_nothing_to_plan():
    assert plan([], max_tokens=10) == []
    assert plan_ranks([], 10, 2) == [[], []]


@given(SIZES, st.integers(1, 100))
def test_every_tree_once_and_no_pack_over_budget(sizes: list[int], budget: int):
    packs = plan(sizes, budget)
    assert sorted(i for pack in packs for i in pack) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in pack) <= budget or len(pack) == 1 for pack in packs)
    assert all(packs)


@given(SIZES, st.integers(1, 100))
def test_few_packs(sizes: list[int], budget: int):
    """No two packs of a plan would fit into one: best fit opens a pack only where nothing fits."""
    totals = sorted(sum(sizes[i] for i in pack) for pack in plan(sizes, budget))
    assert len(totals) < 2 or totals[0] + totals[1] > budget


@given(SIZES, st.integers(1, 100), st.integers(1, 5))
def test_ranks_run_the_same_number_of_forwards(sizes: list[int], budget: int, num_ranks: int):
    ranks = plan_ranks(sizes, budget, num_ranks)
    assert len(ranks) == num_ranks
    assert len({len(packs) for packs in ranks}) == 1
    dealt = [i for packs in ranks for pack in packs for i in pack]
    assert sorted(dealt) == list(range(len(sizes)))
    for packs in ranks:
        own = [pack for pack in packs if pack]
        assert all(sum(sizes[i] for i in pack) <= budget or len(pack) == 1 for pack in own)
        assert len(own) == len(packs) or all(len(pack) == 1 for pack in own), "empty only where no tree is left"


def test_a_rank_with_fewer_packs_splits_instead_of_idling():
    """Rank 1 holds four small trees, one pack; rank 0 two that need a pack each."""
    ranks = plan_ranks([9, 9, 5, 4, 5, 4], max_tokens=10, num_ranks=2)
    assert [len(packs) for packs in ranks] == [2, 2]
    assert all(pack for packs in ranks for pack in packs)


def test_balance_is_even():
    parts = balance([5, 4, 3, 3, 2, 1], 2)
    assert sorted(sum([5, 4, 3, 3, 2, 1][i] for i in part) for part in parts) == [9, 9]


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_plans_are_deterministic(num_ranks: int):
    sizes = [7, 7, 3, 3, 9, 1, 1]
    assert plan_ranks(sizes, 12, num_ranks) == plan_ranks(list(sizes), 12, num_ranks)
