"""Digests of content: numbers of prompts, and opposite preferences found as by comparing every two rows."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tiltlm.core.example import Comparison, Example, Response, token_ids
from tiltlm.data.cache.fingerprints import comparison_digests, digest, distinct, prompt_numbers


def example_of(prompt, answers, comparisons):
    return Example(
        "1",
        token_ids([prompt]),
        tuple(Response(token_ids([answer])) for answer in answers),
        tuple(Comparison(a, b) for a, b in comparisons if answers[a] != answers[b]),
    )


rows = st.lists(
    st.tuples(
        st.integers(0, 1), st.tuples(*[st.integers(0, 2)] * 3), st.lists(st.sampled_from([(0, 1), (1, 2), (2, 0)]))
    ),
    max_size=8,
)


@settings(deadline=None)
@given(rows)
def test_contradictions_as_by_comparing_all(rows):
    examples = [example_of(*row) for row in rows]
    said = {(p, a[i], a[j]) for p, a, comparisons in rows for i, j in comparisons if a[i] != a[j]}
    sides = {True: b"", False: b""}
    for example in examples:
        for about, preferred in comparison_digests(example):
            sides[preferred] += about
    found = np.intersect1d(distinct(sides[True]), distinct(sides[False]))
    assert len(found) == sum((p, b, a) in said for p, a, b in said) // 2


def test_prompts_are_numbered_by_first_appearance():
    examples = [example_of(prompt, (1,), ()) for prompt in (5, 3, 5, 9, 3)]
    assert prompt_numbers(examples).tolist() == [0, 1, 0, 2, 1]
    assert prompt_numbers([]).tolist() == []


def test_digests_depend_on_where_pieces_end():
    assert len({digest(b"ab", b"c"), digest(b"a", b"bc"), digest(b"abc"), digest(b"abc", b"")}) == 4
    assert len(distinct(digest(b"a") + digest(b"b") + digest(b"a"))) == 2


@settings(deadline=None)
@given(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
def test_a_preference_counts_as_with_the_sides_exchanged(p):
    """Exchanging the sides with 1 − p says the same; a tie says nothing, and opposes nobody."""
    one, two = (Response(token_ids([answer])) for answer in (1, 2))
    given, exchanged = (
        list(comparison_digests(Example("1", token_ids([5]), responses, (Comparison(0, 1, preference=preference),))))
        for responses, preference in (((one, two), p), ((two, one), 1 - p))
    )
    assert given == exchanged
    assert len(given) == (p != 0.5)
    plain = list(comparison_digests(example_of(5, (1, 2), [(0, 1)])))
    assert (given == plain) == (p > 0.5)
