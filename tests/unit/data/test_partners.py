"""KTO's partners: a permutation that gives every response to another prompt."""

import hashlib
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import raises
from tiltlm.core.errors import DataError
from tiltlm.core.example import Example, Response, token_ids
from tiltlm.data.partners import assign_partners


def examples_of(prompts):
    """Return one unpaired example per entry: its prompt, and a response that no other example has."""
    return [
        Example(str(i), token_ids([1, p]), (Response(token_ids([100 + i, 2])),), labels=(True,))
        for i, p in enumerate(prompts)
    ]


def pairing(examples):
    return {(e.id, r.token_ids.tobytes()): p for e in examples for r, p in zip(e.responses, e.partners, strict=True)}


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=30))
def test_no_partner_has_the_same_prompt(prompts):
    examples = examples_of(prompts)
    if max(Counter(prompts).values()) * 2 > len(prompts):
        with raises(DataError, "prompt_above_half", mentions=["training", str(max(Counter(prompts).values()))]):
            assign_partners(examples, 100)
        return
    paired = assign_partners(examples, 100)
    owner = {e.responses[0].token_ids.tobytes(): e.prompt_ids.tobytes() for e in examples}
    used = [p.token_ids.tobytes() for e in paired for p in e.partners]
    assert sorted(used) == sorted(owner)
    assert all(owner[p.token_ids.tobytes()] != e.prompt_ids.tobytes() for e in paired for p in e.partners)


def test_pairs_turned_into_labels_have_a_partner_for_each_response():
    examples = [
        Example(str(i), token_ids([1, i]), (Response(token_ids([50 + i, 2])), Response(token_ids([70 + i, 2]))))
        for i in range(4)
    ]
    paired = assign_partners(examples, 100)
    assert all(len(e.partners) == 2 for e in paired)
    assert all(p.token_ids[0] not in (50 + int(e.id), 70 + int(e.id)) for e in paired for p in e.partners)


def test_order_of_rows_does_not_matter():
    examples = examples_of([0, 1, 2, 3, 0, 1, 2, 3])
    again = [examples[i] for i in np.random.default_rng(0).permutation(8)]
    before, after = pairing(assign_partners(examples, 100)), pairing(assign_partners(again, 100))
    assert before.keys() == after.keys()
    assert all(before[key].key == after[key].key for key in before)


def test_an_appended_row_moves_only_its_neighbour():
    """So most stored reference log-probabilities stay valid."""
    before = pairing(assign_partners(examples_of(range(20)), 100))
    after = pairing(assign_partners(examples_of(range(21)), 100))
    assert sum(before[key].key != after[key].key for key in before) == 1


def test_a_partner_is_whole_scored_everywhere_and_fits():
    long = Response(token_ids([*range(10, 19), 2]), scored=token_ids([0, 9]), ref_logps=-3.0)
    short = Response(token_ids([30, 2]))
    a = Example("a", token_ids([1, 5]), (short,), labels=(True,))
    b = Example("b", token_ids([1, 6, 7]), (long,), labels=(False,))
    first, second = assign_partners([a, b], 20)
    assert first.partners[0].token_ids.tolist() == long.token_ids.tolist()
    assert first.partners[0].scored is None
    assert first.partners[0].ref_logps is None
    assert second.partners[0].token_ids.tolist() == [30, 2]
    cut = assign_partners([a, b], 8)[0].partners[0]
    assert cut.token_ids.tolist() == [*range(10, 16)]
    assert not cut.ended


def test_the_message_names_the_part():
    with raises(DataError, "prompt_above_half", mentions=["3", "4", "held-out"]):
        assign_partners(examples_of([0, 0, 0, 1]), 100, part="held-out")
    assert list(assign_partners([], 100)) == []


def test_the_map_is_the_definition():
    """Digests are sorted and shifted by the largest group; stored log-probabilities depend on this."""
    rng = np.random.default_rng(0)
    examples = [
        Example(
            str(i),
            token_ids([1, rng.integers(6)]),
            tuple(
                Response(token_ids(rng.integers(2, 90, size=n))) for n in rng.integers(1, 4, size=rng.integers(1, 4))
            ),
        )
        for i in range(40)
    ]
    rows = [(e, k) for e, example in enumerate(examples) for k in range(len(example.responses))]

    def sha(ids):
        return hashlib.sha256(ids.tobytes()).digest()

    rows.sort(key=lambda row: (sha(examples[row[0]].prompt_ids), sha(examples[row[0]].responses[row[1]].token_ids)))
    largest = max(Counter(examples[e].prompt_ids.tobytes() for e, _ in rows).values())
    paired = assign_partners(examples, 100)
    for i, (e, k) in enumerate(rows):
        other, j = rows[(i + largest) % len(rows)]
        assert paired[e].partners[k].key == examples[other].responses[j].key
