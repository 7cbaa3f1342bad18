"""Overlap with evaluation texts, against counts made with Python sets and a search over all pairs of positions."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiltlm.data.similarity.contamination import Contamination, Overlap


def grams(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}


def longest_common_run(a: list[str], b: list[str]) -> int:
    best = 0
    for i in range(len(a)):
        for j in range(len(b)):
            k = 0
            while i + k < len(a) and j + k < len(b) and a[i + k] == b[j + k]:
                k += 1
            best = max(best, k)
    return best


def expected(text: str, evaluation: list[str]) -> list[tuple[str, float, int]]:
    """Return name, share and longest run of every evaluation text that a rule relates to the text."""
    words, found = text.split(), []
    for name, other in enumerate(evaluation):
        theirs = other.split()
        share = len(grams(words) & grams(theirs)) / max(1, len(grams(theirs)))
        longest = longest_common_run(words, theirs)
        if share >= 0.5 or longest >= 13:
            found.append((str(name), share, longest))
    return found


def index(*texts: str) -> Contamination:
    return Contamination.of((str(i), text) for i, text in enumerate(texts))


def words(start: int, stop: int) -> str:
    return " ".join(f"w{i}" for i in range(start, stop))


def test_equal_after_normalising():
    found = index("What is\nÜbermut?", "Something else").find("  what IS   u\u0308bermut? ")
    assert found == Overlap("exact", "0", 1.0, 3)


def test_half_of_the_runs_of_eight_words():
    """The evaluation text has 13 runs: 7 of them are more than half, 6 are not; no 13 words in a row are common."""
    evaluation = index(words(0, 20))
    assert evaluation.find(f"before {words(0, 14)} after") == Overlap("ngram", "0", 7 / 13, 14)
    broken = f"{words(0, 11)} x {words(11, 20)}"  # 4 + 2 runs
    assert evaluation.find(broken) is None


def test_thirteen_words_in_a_row():
    evaluation = index(words(0, 100))
    assert evaluation.find(f"a b {words(40, 53)} c") == Overlap("longest", "0", 6 / 93, 13)
    assert evaluation.find(f"a b {words(40, 52)} c") is None


def test_the_same_run_twice_counts_once():
    evaluation = index(words(0, 30))
    assert evaluation.find(" x ".join([words(0, 12)] * 5)) is None


def test_the_evaluation_text_that_shares_most_is_named():
    found = index(words(0, 40), words(0, 16), words(50, 90)).find(words(0, 18) + " end of it")
    assert found == Overlap("ngram", "1", 1.0, 16)


def test_a_template_of_many_evaluation_texts_is_no_overlap():
    template = words(0, 30)
    texts = [f"{template} {words(100 + 20 * i, 120 + 20 * i)}" for i in range(11)]
    assert index(*texts).find(f"{template} my own question") is None
    assert index(*texts[:10]).find(f"{template} my own question") is not None
    found = index(*texts).find(f"{template} {words(160, 180)} more")
    assert found is not None
    assert (found.kind, found.other) == ("ngram", "3")


def test_copies_of_an_evaluation_text_are_no_template():
    assert index(*[words(0, 30)] * 20).find("x " + words(0, 30)) == Overlap("ngram", "0", 1.0, 30)


@pytest.mark.parametrize("texts", [[], [""], ["too short"]])
def test_nothing_to_find(texts: list[str]):
    evaluation = index(*texts)
    assert evaluation.find(words(0, 50)) is None
    assert evaluation.find("") is None
    assert evaluation.find_many([]) == []


@given(st.integers(0, 10**6))
def test_agrees_with_a_search_over_all_positions(seed: int):
    """Texts are cut from one stream of words, so that they overlap in many ways."""
    rng = random.Random(seed)
    stream = [f"w{rng.randrange(60)}" for _ in range(80)]

    def piece() -> str:
        parts = []
        for _ in range(rng.randrange(1, 4)):
            start = rng.randrange(80)
            parts += stream[start : start + rng.randrange(1, 25)]
        return " ".join(parts)

    evaluation = list(dict.fromkeys(piece() for _ in range(4)))
    texts = [piece() for _ in range(4)]
    contamination = index(*evaluation)
    for text, found in zip(texts, contamination.find_many(texts), strict=True):
        assert found == contamination.find(text)
        candidates = expected(text, evaluation)
        if text in evaluation:
            assert found == Overlap("exact", str(evaluation.index(text)), 1.0, len(text.split()))
        elif not candidates:
            assert found is None
        else:
            assert found is not None
            assert (found.other, found.share, found.longest) in candidates
            shares = [share for _, share, _ in candidates]
            if max(shares) >= 0.5:
                assert (found.kind, found.share) == ("ngram", max(shares))
            else:
                assert (found.kind, found.longest) == ("longest", max(longest for *_, longest in candidates))
