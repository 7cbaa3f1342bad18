"""Tables return the examples that were written, and sequences of many examples hold none of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.plain_data import plain
from tiltlm.core.example import Comparison, Example, Response, token_ids
from tiltlm.data.cache.lazy import Joined, Selection
from tiltlm.data.cache.table import ExampleTable, table_writer, to_batch

numbers = st.floats(allow_nan=False, allow_infinity=False)
tokens = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5)
names = st.text(st.characters(), max_size=4)  # half surrogate pairs too, which JSON can contain
answers = st.tuples(tokens, st.booleans(), st.booleans(), st.none() | numbers)


@st.composite
def facts(draw):
    """Draw arguments of `example_of`. Shape checks of examples draw random numbers, which strategies may not."""
    responses = draw(st.lists(answers, min_size=1, max_size=3))
    k = len(responses)

    def known(values):
        return tuple(draw(st.just([]) | st.lists(values, min_size=k, max_size=k)))

    index = st.integers(0, k - 1)
    return {
        "id": draw(names),
        "prompt_ids": draw(tokens),
        "responses": responses,
        "comparisons": draw(st.lists(st.tuples(index, index, numbers, numbers, numbers), max_size=3)),
        "labels": known(st.booleans()),
        "ranks": known(st.integers(1, 3)),
        "scores": known(numbers),
        "weight": draw(numbers),
        "source": draw(names),
    }


def example_of(facts):
    responses = tuple(
        Response(token_ids(ids), ended, token_ids(range(0, len(ids), 2)) if in_part else None, ref_logps)
        for ids, ended, in_part, ref_logps in facts["responses"]
    )
    comparisons = tuple(Comparison(*values) for values in facts["comparisons"])
    given = {"prompt_ids": token_ids(facts["prompt_ids"]), "responses": responses, "comparisons": comparisons}
    return Example(**{**facts, **given})


def written(path, *batches):
    with table_writer(path) as writer:
        for batch in batches:
            writer.write_batch(to_batch(batch))
    return ExampleTable(path)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(facts(), max_size=3), max_size=4))
def test_what_was_written_is_read(tmp_path_factory, batches):
    batches = [list(map(example_of, batch)) for batch in batches]
    table = written(tmp_path_factory.mktemp("table") / "t.arrow", *batches)
    rows = [example for batch in batches for example in batch]
    assert len(table) == len(rows)
    assert list(map(plain, table)) == list(map(plain, rows))
    assert [plain(table[-1 - i]) for i in range(len(rows))] == list(map(plain, rows))[::-1]


def rows_of(names):
    return [Example(name, token_ids([1]), (Response(token_ids([2, i])),)) for i, name in enumerate(names)]


def ids(examples):
    return "".join(example.id for example in examples)


def test_a_table_is_a_sequence(tmp_path):
    table = written(tmp_path / "t.arrow", rows_of("abc"), [], rows_of("defg"))
    assert ids(table) == "abcdefg"
    assert (ids(table[2:5]), ids(table[::-2]), ids(table[5:][1:]), ids(table[:0])) == ("cde", "geca", "g", "")
    assert table[np.int64(3)].id == "d"
    for beyond in (7, -8):
        with pytest.raises(IndexError):
            table[beyond]


def test_tokens_are_views_that_nobody_can_write_to_and_outlive_table_and_file(tmp_path):
    table = written(tmp_path / "t.arrow", rows_of("abc"))
    example = table[1]
    (tmp_path / "t.arrow").unlink()
    del table
    assert example.responses[0].token_ids.tolist() == [2, 1]
    assert example.responses[0].token_ids.base is not None
    with pytest.raises(ValueError, match="read-only"):
        example.prompt_ids[0] = 7


def test_sequences_of_sequences():
    both = Joined([], rows_of("abc"), [], rows_of("de"))
    assert (len(both), ids(both), ids(both[1:4]), both[-1].id) == (5, "abcde", "bcd", "e")
    picked = Selection(both, [4, 0, 0])
    assert (ids(picked), ids(picked[1:]), ids(Joined(picked, both))) == ("eaa", "aa", "eaaabcde")
    with pytest.raises(IndexError):
        both[5]
