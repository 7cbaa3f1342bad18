"""The lost-property desk: its reward, labels drawn from the reward, held-out prompts."""

import math
import re
from itertools import combinations, product

import numpy as np
import pytest

from support.errors import raises
from tiltlm.core.errors import ConfigError, DataError
from tiltlm.worlds import LEVELS, TextWorld
from tiltlm.worlds.text import COURTESY_RATES

WORLD = TextWorld()
PROMPT = "Guest Mia: Where is my blue umbrella?\nDesk:"
COURTEOUS = ("Hello", "Mia", "your blue umbrella", "Glad to help!")
RUDE = ("Listen", "stranger", "that old thing", "Go away now!")


def reply(opening: str, who: str, what: str, closing: str) -> str:
    return f" {opening} {who}, {what} is in the hall. {closing}"


def asked(prompt: str) -> tuple[str, ...]:
    found = re.fullmatch(r"Guest (\w+): [\w ]+ my (\w+) (\w+)\?\nDesk:", prompt)
    assert found is not None
    return found.groups()


@pytest.mark.parametrize("shown", list(product([True, False], repeat=4)))
def test_the_reward_counts_courtesies(shown):
    parts = [c if yes else r for yes, c, r in zip(shown, COURTEOUS, RUDE, strict=True)]
    assert WORLD.reward(PROMPT, reply(*parts)) == sum(shown)
    assert WORLD.reward(PROMPT, reply(*parts).strip() + "\n") == sum(shown)


@pytest.mark.parametrize(
    ("parts", "level"),
    [
        (("Hello", "Tom", "your blue umbrella", "Glad to help!"), 0),  # no name of this world: no sentence of it
        (("Hello", "Ben", "your blue umbrella", "Glad to help!"), 3),  # somebody else's name
        (("Hello", "Mia", "your red umbrella", "Glad to help!"), 3),  # the wrong colour
        (("Hello", "Mia", "your blue scarf", "Glad to help!"), 3),  # the wrong thing
    ],
)
def test_a_wrong_fact_earns_nothing(parts, level):
    assert WORLD.reward(PROMPT, reply(*parts)) == level


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "Hello Mia,",
        reply(*COURTEOUS)[:-1],
        reply(*COURTEOUS) + reply(*COURTEOUS),
        reply(*COURTEOUS).replace(" is in", " is in in"),
        reply(*COURTEOUS).replace(" hall", " moon"),
        "Hello Hello Mia, your blue umbrella is in the hall. Glad to help!",
    ],
)
def test_what_is_no_reply_earns_the_lowest_level(broken):
    assert WORLD.reward(PROMPT, broken) == LEVELS[0]


def test_remarks_are_worth_nothing():
    for remark in ("I saw it today.", "It was there all week.", "Take the stairs."):
        assert WORLD.reward(PROMPT, reply(*COURTEOUS).replace("hall.", f"hall. {remark}")) == 4


def test_prompts_of_other_worlds_are_refused():
    with raises(DataError, "unknown_prompt", key="prompt", mentions=["Where is my umbrella?"]):
        WORLD.reward("Where is my umbrella?", reply(*COURTEOUS))


def test_prompts_are_distinct_fixed_and_of_the_size_asked_for():
    train, held_out = WORLD.prompts("train"), WORLD.prompts("heldout")
    assert (len(train), len(held_out)) == (128, 48)
    assert len({*train, *held_out}) == 176
    assert TextWorld(num_train=10).prompts("train") == train[:10]
    assert len(TextWorld(num_heldout=1440).prompts("heldout")) == 1440


def test_held_out_prompts_put_together_what_was_never_together():
    seen = {asked(row["prompt"])[1:] for row in WORLD.corpus(0, 20_000)}
    seen |= {asked(prompt)[1:] for prompt in TextWorld(num_train=15_000).prompts("train")}
    new = {asked(prompt)[1:] for prompt in WORLD.prompts("heldout")}
    assert not new & seen
    assert {colour for colour, _ in new} <= {colour for colour, _ in seen}
    assert {thing for _, thing in new} <= {thing for _, thing in seen}


def test_unknown_splits_and_impossible_sizes_are_refused():
    with raises(ConfigError, "unknown_name", key="split", mentions=["'test'", "train, heldout"]):
        WORLD.prompts("test")  # type: ignore[arg-type]
    for size in (0, 10**6):
        with raises(ConfigError, "out_of_range", key="num_train", mentions=[str(size)]):
            TextWorld(num_train=size).prompts("train")


def test_the_corpus_is_seeded_and_shows_each_courtesy_at_its_rate():
    corpus = WORLD.corpus(3, 6_000)
    assert corpus == WORLD.corpus(3, 6_000)
    assert corpus[:50] != WORLD.corpus(4, 50)
    rewards = np.array([WORLD.reward(row["prompt"], row["completion"]) for row in corpus])
    assert sorted(set(rewards.tolist())) == list(LEVELS)
    assert rewards.mean() == pytest.approx(sum(COURTESY_RATES), abs=5 / math.sqrt(6_000))
    assert (rewards == 4).mean() == pytest.approx(math.prod(COURTESY_RATES), abs=0.02)


def test_length_says_little_about_the_reward():
    corpus = WORLD.corpus(0, 4_000)
    words = [len(re.findall(r"\w+|[^\w\s]", row["completion"])) for row in corpus]
    rewards = [WORLD.reward(row["prompt"], row["completion"]) for row in corpus]
    assert abs(np.corrcoef(words, rewards)[0, 1]) < 0.15


def test_labels_follow_bradley_terry():
    """Each comparison occurs once and is won with probability σ(Δr), ½ for ties."""
    responses = [reply(*COURTEOUS), reply(*COURTEOUS[:2], *RUDE[2:]), reply(*RUDE), reply(*RUDE)]
    rewards, rng, repeats = (4, 2, 0, 0), np.random.default_rng(0), 4_000
    wins = np.zeros((4, 4))
    for _ in range(repeats):
        comparisons = WORLD.label(PROMPT, responses, rng)
        assert {frozenset((c.chosen, c.rejected)) for c in comparisons} == set(
            map(frozenset, combinations(range(4), 2))
        )
        for c in comparisons:
            wins[c.chosen, c.rejected] += 1
    for i, j in combinations(range(4), 2):
        expected = 1 / (1 + math.exp(rewards[j] - rewards[i]))
        spread = math.sqrt(expected * (1 - expected) / repeats)
        assert wins[i, j] / repeats == pytest.approx(expected, abs=4 * spread)


def test_labels_are_seeded_and_need_two_responses():
    responses = [reply(*COURTEOUS), reply(*RUDE)] * 4
    draws = [WORLD.label(PROMPT, responses, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len(draws[0]) == 28
    assert WORLD.label(PROMPT, responses[:1], np.random.default_rng(0)) == ()
