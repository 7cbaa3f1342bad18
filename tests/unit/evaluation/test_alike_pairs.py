"""Pairs of alike responses are left out: the highest CHES go, and the counts stay true."""

import numpy as np
import pytest

from support.tiny_policies import make_policy
from tiltlm.core import Comparison, Example, Response, token_ids
from tiltlm.data import PreferenceData
from tiltlm.data.accounting import Accounting
from tiltlm.data.cache.fingerprints import fingerprint
from tiltlm.evaluation.alike_pairs import leave_out_alike, mean_ches
from tiltlm.evaluation.ches import comparison_ches


def examples(num, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(
        Example(
            f"rows[{i}]",
            token_ids(rng.integers(3, 30, size=3)),
            tuple(Response(token_ids(rng.integers(3, 30, size=rng.integers(2, 6)))) for _ in range(2)),
            (Comparison(0, 1),),
        )
        for i in range(num)
    )


def data_of(train, held_out):
    accounting = Accounting(total=len(train) + len(held_out))
    for part, is_held_out in ((train, False), (held_out, True)):
        for example in part:
            accounting.keep(example, is_held_out)
    return PreferenceData(train, held_out, accounting, fingerprint(train, held_out), (), None, 2, 64)


def test_the_highest_values_go():
    policy, data = make_policy(), data_of(examples(20), examples(4, seed=1))
    values = [own.mean() for own in comparison_ches(policy, data.train, 512)]
    assert mean_ches(policy, data.train, 512) == pytest.approx(values)
    found = leave_out_alike(policy, data, 0.6, 512)
    expected = {data.train[i].id for i in np.argsort(values)[:12]}
    assert {example.id for example in found.train} == expected
    assert [example.id for example in found.train] == [e.id for e in data.train if e.id in expected], "in order"
    assert list(found.held_out) == list(data.held_out)
    assert found.fingerprint != data.fingerprint
    books = found.accounting
    assert (books.total, books.kept_train, books.held_out, books.dropped, books.defects) == (24, 12, 4, 8, 0)
    again = data_of(tuple(found.train), data.held_out).accounting
    assert books.lengths == again.lengths, "lengths are those of the kept rows"
