"""The word diff: whole texts, equal parts, bounded time."""

import random
import time
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import raises
from tiltlm.core.errors import DataError
from tiltlm.labeling import words
from tiltlm.labeling.words import Part, word_diff


def shown(parts: list[Part]) -> str:
    return "".join(part.text if part.kind == "same" else f"[{part.text}]" for part in parts)


@pytest.mark.parametrize(
    ("left", "right", "wanted"),
    [
        ("I like cats.", "I love cats.", ("I [like] cats.", "I [love] cats.")),
        ("one two", "one two three", ("one two", "one two[ three]")),
        ("same", "same", ("same", "same")),
        ("", "new", ("", "[new]")),
        ("", "", ("", "")),
        ("a  b", "a b", ("a[  ]b", "a[ ]b")),
        ("f(x)=1", "f(y)=1", ("f([x])=1", "f([y])=1")),
        ("Yes, it is.", "No, they are.", ("[Yes, it is].", "[No, they are].")),  # a comma alone is no match
        ("今日は雨です", "今日は雪です", ("今日は[雨]です", "今日は[雪]です")),
        ("हिन्दी में", "हिन्दू में", ("[हिन्दी] में", "[हिन्दू] में")),  # a mark stays with its letter
    ],
)
def test_words_that_differ_are_marked(left: str, right: str, wanted: tuple[str, str]) -> None:
    assert tuple(shown(parts) for parts in word_diff(left, right)) == wanted


TEXTS = st.text(alphabet="ab .\n(é中", max_size=40) | st.text(max_size=20)


@given(TEXTS, TEXTS)
@settings(max_examples=300, deadline=None)
def test_parts_are_the_texts_and_both_have_the_same_ones(left: str, right: str) -> None:
    both = word_diff(left, right)
    for parts, text in zip(both, (left, right), strict=True):
        assert "".join(part.text for part in parts) == text
        assert all(part.text for part in parts)
        assert all(one.kind != after.kind for one, after in pairwise(parts))
    same = ["".join(part.text for part in parts if part.kind == "same") for parts in both]
    assert same[0] == same[1]
    assert both == word_diff(left, right)


def test_long_texts_are_compared_by_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = "start\none the the the a\nb the the the\nc", "start\ntwo the the the b\nb the the the\nc"
    assert shown(word_diff(left, right)[0]) == "start\n[one] the the the [a]\nb the the the\nc"
    monkeypatch.setattr(words, "MAX_STEPS", 10)
    parts = word_diff(left, right)
    assert shown(parts[0]) == "start\n[one the the the a\n]b the the the\nc"
    assert shown(parts[1]) == "start\n[two the the the b\n]b the the the\nc"


def test_texts_that_would_take_too_long_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MAX_STEPS", 5)
    with raises(DataError, "too_long"):
        word_diff("a\nb\n" * 9, "c\na\n" * 9)


@pytest.mark.parametrize("vocabulary", [2, 50, 5000])
def test_a_megabyte_takes_seconds_at_most(vocabulary: int) -> None:
    draw = random.Random(0)
    left, right = (" ".join(str(draw.randrange(vocabulary)) for _ in range(200_000)) for _ in range(2))
    start = time.process_time()
    with suppress(DataError):
        word_diff(left, right)
    assert time.process_time() - start < 10  # without a bound: hours
