"""The reference pass: every sequence once, in packs that keep to their budget."""

from collections import Counter

import numpy as np
import pytest

from tiltlm.core.example import token_ids
from tiltlm.reference.reference_packs import ContextAndResponse, contexts_and_responses, reference_packs


def ask(context: int, *lengths: int, first: int = 0) -> list[ContextAndResponse]:
    prompt = token_ids(np.full(context, context))
    return [(prompt, token_ids(np.full(n, first + i))) for i, n in enumerate(lengths)]


def content(asked: list[ContextAndResponse]) -> Counter:
    return Counter((tuple(c.tolist()), tuple(r.tolist())) for c, r in asked)


@pytest.mark.parametrize("max_tokens", [1, 12, 20, 1000])
def test_every_sequence_is_in_one_pack_under_the_budget(max_tokens):
    asked = [*ask(5, 3, 4, 1, 6), *ask(9, 2), *ask(2, 1, 1), *ask(5, 8, first=10)]
    done = list(reference_packs(asked, max_tokens))
    assert content([a for pack in done for a in contexts_and_responses(pack)]) == content(asked)
    for pack in done:
        num_sequences = sum(len(tree.responses) for tree in pack)
        assert sum(tree.num_tokens for tree in pack) <= max_tokens or num_sequences == 1
    sizes = [tree.num_tokens for pack in done for tree in pack]
    assert sizes == sorted(sizes, reverse=True)


def test_a_prompt_is_computed_once_where_it_fits():
    (pack,) = reference_packs([*ask(5, 3, 4), *ask(9, 2), *ask(5, 8, first=10)], 1000)
    assert [len(tree.responses) for tree in pack] == [3, 1]


def test_every_token_is_scored():
    (pack,) = reference_packs(ask(5, 3, 4), 100)
    assert [r.scored for r in pack[0].responses] == [None, None]


def test_nothing_asked_nothing_done():
    assert list(reference_packs([], 10)) == []
