"""Statistics against counts made by hand, and blocks that merge into the whole."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiltlm.core.example import Comparison
from tiltlm.data.rows.records import Record
from tiltlm.data.stats import collect_statistics
from tiltlm.data.stats.distinct import KEPT, DistinctCount, hashes_of
from tiltlm.data.stats.languages import add_languages
from tiltlm.data.stats.statistics import MAX_SOURCES, OTHER


def pair(prompt="Why so?", chosen="Because it is.", rejected="No.", preference=1.0, source="s"):
    return Record("f:1", "1", prompt, (chosen, rejected), (Comparison(0, 1, preference=preference),), source=source)


def test_counts_by_hand():
    rows = [pair(), pair(), pair("Why not so?", "a b", "a b c d", 0.3, "t"), pair("x", "y", "z z", 0.5, "")]
    found = collect_statistics(rows, "pairs")
    plain = found.as_dict()
    assert plain["rows"] == {"read": 4, "used": 4, "left_out": {}}
    assert plain["prompts"]["distinct"] == 3
    assert plain["prompts"]["most_rows"] == 2
    assert plain["sources"] == {"s": 2, "t": 1, "(no source)": 1}
    assert plain["preferences"] == {"0.5": 1, "0.7": 1, "1.0": 2}
    words = found.lengths["words"]
    # the label of the third row prefers the response in `rejected`
    assert words.by_role["chosen"] == Counter({3: 2, 4: 1, 1: 1})
    assert words.by_role["rejected"] == Counter({1: 2, 2: 2})
    assert words.bias.num_pairs == 3
    assert words.bias.longer.estimate == pytest.approx((1 + 1 + 0.7) / 3)
    assert plain["prompts"]["distinct_words"] == pytest.approx(4 / 8)  # Why so? Why so? Why not so? x
    assert plain["prompts"]["distinct_word_pairs"] == pytest.approx(3 / 4)


def test_other_shapes():
    labelled = [
        Record("f:1", "1", "p", ("good",), labels=(True,)),
        Record("f:2", "2", "p", ("bad one",), labels=(False,)),
    ]
    found = collect_statistics(labelled, "unpaired")
    assert found.as_dict()["labels"] == {"desirable": 1, "undesirable": 1}
    assert found.lengths["words"].by_role["undesirable"] == {2: 1}
    turns = (
        {"role": "user", "content": "a b"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    )
    said = Record("f:3", "3", turns, (({"role": "assistant", "content": "e"},),))
    found = collect_statistics([said], "demonstrations")
    assert found.turns == {3: 1}
    assert found.lengths["words"].by_role == {"prompt": {4: 1}, "response": {1: 1}}


WORDS = st.lists(st.sampled_from("abcde"), max_size=4).map(" ".join)


@given(
    st.lists(st.tuples(WORDS, WORDS, WORDS, st.sampled_from([0.0, 0.3, 0.5, 1.0]), WORDS), max_size=10),
    st.integers(0, 10),
)
def test_blocks_merge_into_the_whole(rows, cut):
    records = [pair(*row) for row in rows]
    whole = collect_statistics(records, "pairs").as_dict()
    first, second = collect_statistics(records[:cut], "pairs"), collect_statistics(records[cut:], "pairs")
    first.merge(second)
    merged = first.as_dict()
    bias, other = merged.pop("length_bias"), whole.pop("length_bias")
    assert merged == whole
    assert bias.keys() == other.keys()
    for unit in bias:
        assert bias[unit]["longer"] == pytest.approx(other[unit]["longer"]) if bias[unit]["longer"] else True


def test_memory_for_sources_is_bounded():
    found = collect_statistics([pair(source=f"s{k}") for k in range(MAX_SOURCES + 50)], "pairs")
    assert len(found.sources) == MAX_SOURCES + 1
    assert found.sources[OTHER] == 50


def test_distinct_counts_are_exact_below_and_close_above():
    few = DistinctCount()
    few.add(hashes_of([f"w{k % 1000}" for k in range(5000)]))
    assert (few.distinct, few.total, few.share) == (1000, 5000, 0.2)
    many, other = DistinctCount(), DistinctCount()
    many.add(hashes_of([f"w{k}" for k in range(60_000)]))
    other.add(hashes_of([f"w{k}" for k in range(40_000, 100_000)]))
    assert abs(many.distinct - 60_000) < 5 * 60_000 / np.sqrt(KEPT)
    many.merge(other)
    assert abs(many.distinct - 100_000) < 5 * 100_000 / np.sqrt(KEPT)
    assert DistinctCount().share is None


class FakeDetector:
    """Names a language by a word in it."""

    def detect_language_of(self, text):
        code = "DE" if "und" in text else "EN" if "and" in text else None
        return None if code is None else SimpleNamespace(iso_code_639_1=SimpleNamespace(name=code))


def test_languages_of_prompts_and_responses(monkeypatch):
    monkeypatch.setattr("tiltlm.data.stats.languages.detector", FakeDetector)
    english, german = "cats and dogs " * 5, "Hunde und Katzen " * 5
    rows = [pair(english, english, english), pair(english, german, english), pair(german, "kurz", german), pair("x")]
    found = collect_statistics(rows, "pairs")
    for row in rows:
        add_languages(row, found)
    assert found.languages == {"en": 2, "de": 1, "unknown": 1}
    assert found.other_language == 1
