"""Near duplicates, against Jaccard similarities computed with Python sets."""

import hashlib
import pickle
import random
import unicodedata
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.errors import raises
from tiltlm.core.errors import ConfigError
from tiltlm.data.similarity.near_duplicates import NearDuplicates, band_rows, signatures
from tiltlm.data.similarity.shingles import normal_text, word_shingles

WORDS = [f"word{i}" for i in range(400)]


def shingles_of(text: str) -> set[str]:
    """Return the shingles that the documentation describes, as text."""
    words = unicodedata.normalize("NFC", text.casefold()).split()
    if len(words) >= 5:
        return {" ".join(words[i : i + 5]) for i in range(len(words) - 4)}
    short = " ".join(words)
    return {short[i : i + 5] for i in range(max(1, len(short) - 4))}


def jaccard(a: str, b: str) -> float:
    left, right = shingles_of(a), shingles_of(b)
    return len(left & right) / len(left | right)


def grouped(texts: list[str], threshold: float = 0.8) -> list[list[str]]:
    found = NearDuplicates(threshold)
    for i, text in enumerate(texts):
        found.add(str(i), text)
    return found.groups()


def text_of(rng: random.Random, length: int) -> list[str]:
    return [rng.choice(WORDS) for _ in range(length)]


def test_estimates_are_unbiased_and_as_exact_as_stated():
    """Over many pairs of known similarity, the share of equal numbers has the mean and the spread of a binomial."""
    rng = random.Random(0)
    errors, expected = [], []
    for _ in range(300):
        words = text_of(rng, 60)
        other = words[: rng.randrange(20, 60)] + text_of(rng, 10)
        a, b = " ".join(words), " ".join(other)
        table = signatures(word_shingles([a, b], 5, short=True), 2)
        similarity = jaccard(a, b)
        errors.append((table[0] == table[1]).mean() - similarity)
        expected.append(similarity * (1 - similarity) / 128)
    assert abs(np.mean(errors)) < 4 * np.sqrt(np.mean(expected) / len(errors))
    assert np.mean(np.square(errors)) == pytest.approx(np.mean(expected), rel=0.35)


def test_finds_planted_groups_and_no_others():
    """Groups are planted with similarity ≥ 0.9, and all other pairs are below 0.5 by an exact computation."""
    rng = random.Random(1)
    texts, planted = [], []
    for _ in range(60):
        words = text_of(rng, 120)
        members = []
        for copy in range(rng.randrange(1, 4)):
            members.append(str(len(texts)))
            texts.append(" ".join([*words, *[f"end{copy}"] * copy]))
        planted.append(members)
    of_text = {key: number for number, members in enumerate(planted) for key in members}
    for (i, a), (j, b) in combinations(enumerate(texts), 2):
        together = of_text[str(i)] == of_text[str(j)]
        assert jaccard(a, b) >= 0.9 if together else jaccard(a, b) < 0.5
    assert grouped(texts) == [members for members in planted if len(members) > 1]


def test_many_texts_of_one_shingle_are_all_different():
    """Each has five words, so one shingle. Numbers of 16 bits that depend on each other would join thousands."""
    rng = random.Random(1)
    texts = [" ".join(f"{word}{rng.randrange(10**6)}" for word in "abcde") for _ in range(20_000)]
    assert grouped(texts) == []


def test_case_accents_and_white_space_make_no_difference():
    texts = [
        "Caf\u00e9 in der Stra\u00dfe, bitte nicht heute",
        "  CAFE\u0301 in   der\nSTRASSE, bitte\tnicht heute ",
        "Tee in der Stra\u00dfe, bitte nicht heute",
    ]
    assert grouped(texts, 1.0) == [["0", "1"]]


@pytest.mark.parametrize(
    ("a", "b", "near"),
    [
        ("", "  ", True),
        ("Hi", "hi", True),
        ("Hi", "Ho", False),
        ("What is a good name for cats", "What is a good name for dogs", False),
        ("an internationalisation questionnaire", "an internationalisation questionnaires", True),
        ("an internationalisation questionnaire", "the parliamentary responsibilities", False),
    ],
)
def test_short_texts(a: str, b: str, near: bool):
    assert (jaccard(a, b) >= 0.8) == near
    assert (grouped([a, b]) == [["0", "1"]]) == near


def test_scripts_without_spaces_are_compared_by_characters():
    text = "请用三句话说明为什么天空在白天看起来是蓝色的而在日落时却变成了红色"  # 33 characters, 29 runs of 5
    assert normal_text(text).split() == list(text)
    assert grouped([text, text + "吗", text[::-1]]) == [["0", "1"]]  # 29 of 30 runs in common


def test_a_chain_is_one_group():
    """Neighbours are near duplicates, the ends are not."""
    words = [f"w{i}" for i in range(200)]
    chain = [" ".join(words[10 * k : 10 * k + 120]) for k in range(7)]
    assert jaccard(chain[0], chain[1]) > 0.8 > jaccard(chain[0], chain[6])
    assert grouped(chain, 0.75) == [[str(k) for k in range(7)]]


def test_many_texts_in_one_band_stay_one_group():
    """More texts than the window share all bands: they are connected through their neighbours."""
    words = " ".join(f"w{i}" for i in range(150))
    texts = [f"{words} end{i}" for i in range(300)]
    assert grouped(texts) == [[str(i) for i in range(300)]]


def test_same_key_and_exact_copies():
    found = NearDuplicates()
    for _ in range(3):
        found.add("x", "the same text of more than five words")
    found.add("y", "quite another text of more than five words here")
    assert found.groups() == [["x", "x", "x"]]
    assert found.group_numbers().tolist() == [0, 0, 0, 1]
    assert len(found) == 4


def test_merged_blocks_equal_one_object():
    rng = random.Random(2)
    texts = [" ".join(text_of(rng, 30)) for _ in range(40)]
    texts += [text + " more" for text in texts[::3]]
    whole, first, second = NearDuplicates(), NearDuplicates(), NearDuplicates()
    for i, text in enumerate(texts):
        whole.add(str(i), text)
        (first if i < 20 else second).add(str(i), text)
    first.merge(pickle.loads(pickle.dumps(second)))
    assert first.groups() == whole.groups()
    assert first.groups() == whole.groups(), "groups can be asked for twice"
    first.add("new", texts[0])
    assert "new" in first.groups()[0], "and texts can follow"


def test_signatures_do_not_change():
    """Groups of a released version stay the same: the first numbers of two texts, by an independent computation."""

    def numbers(name: str, count: int) -> list[int]:
        raw = hashlib.shake_256(name.encode()).digest(8 * count)
        return [int.from_bytes(raw[i : i + 8], "little") for i in range(0, len(raw), 8)]

    def mixed(value: int) -> int:
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            value = (value ^ value >> shift) * factor % 2**64
        return value ^ value >> 31

    base = numbers("base of shingles", 1)[0] // 8 * 8 + 5
    orders = [n >> 32 for n in numbers("orders of shingles", 256)]
    for text in ("One, two, three, four, five, six, seven.", "tiny", "no more than four"):
        runs = [sum((ord(c) + 1) * pow(base, i, 2**64) for i, c in enumerate(s)) % 2**64 for s in shingles_of(text)]
        hashes = [mixed(run) >> 32 for run in runs]
        firsts = [min((h * (orders[k] | 1) + orders[128 + k]) % 2**32 for h in hashes) for k in range(128)]
        expected = [mixed(first) % 2**16 for first in firsts]
        (signature,) = signatures(word_shingles([normal_text(text)], 5, short=True), 1)
        assert signature.tolist() == expected


@given(st.lists(st.text(alphabet="ab \u0301é中\ud800\n", max_size=40), max_size=12))
def test_blocks_do_not_matter(texts: list[str]):
    """Shingles of texts in one block equal those of each text alone, and every text has one."""
    normal = [normal_text(text) for text in texts]
    together = word_shingles(normal, 5, short=True)
    for i, text in enumerate(normal):
        alone = word_shingles([text], 5, short=True)
        own = together.texts == i
        assert len(alone.hashes) > 0
        assert together.hashes[own].tolist() == alone.hashes.tolist()
        assert together.positions[own].tolist() == alone.positions.tolist()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_miss_few_pairs_at_the_threshold(threshold: float):
    rows = band_rows(threshold)
    assert 1 - (1 - threshold**rows) ** (128 // rows) >= 0.99


@pytest.mark.parametrize("threshold", [0, -0.1, 1.1])
def test_a_threshold_out_of_range_is_refused(threshold: float):
    with raises(ConfigError, "out_of_range"):
        NearDuplicates(threshold)


def test_no_texts():
    assert NearDuplicates().groups() == []
