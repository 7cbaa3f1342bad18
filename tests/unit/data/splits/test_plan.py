"""Which part of a split a prompt belongs to, against the rule of `data.eval_fraction` and against counts."""

import hashlib
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import raises
from tiltlm.core.errors import ConfigError
from tiltlm.data.cache.fingerprints import is_held_out, prompt_position
from tiltlm.data.rows.cells import TokenContent
from tiltlm.data.rows.records import Record
from tiltlm.data.splits.plan import LEFT_OUT, PARTS, SplitPlan, SplitRule, compared_text, part_rows, plain_text


def record(prompt: str, response: str = "yes") -> Record:
    return Record(location="x:1", id="x", prompt=prompt, responses=(response,))


def parts_of(prompts: list[str], rule: SplitRule, strata: list[str] | None = None) -> list[str]:
    """Return the part of each row, by its name."""
    plan = SplitPlan(rule)
    for prompt, stratum in zip(prompts, strata or [""] * len(prompts), strict=True):
        plan.add(record(prompt), stratum)
    groups = plan.groups()
    return [PARTS[part] for part in part_rows(plan.parts_of_groups(groups), plan.prompts, groups)]


def prompts_of(count: int, seed: int = 0) -> list[str]:
    """Return prompts of which no two are alike."""
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(10**6)}" for _ in range(8)) for _ in range(count)]


@pytest.mark.parametrize("seed", [0, 7])
def test_the_same_prompts_are_held_out_as_by_eval_fraction(seed: int):
    prompts = prompts_of(400)
    parts = parts_of(prompts, SplitRule(eval=0.2, test=0.1, seed=seed))
    assert [part == "validation" for part in parts] == [is_held_out(prompt, 0.2, seed) for prompt in prompts]
    assert [part != "train" for part in parts] == [is_held_out(prompt, 0.2 + 0.1, seed) for prompt in prompts]
    assert set(parts) == set(PARTS)


@given(st.lists(st.text(max_size=3), max_size=30), st.lists(st.text(max_size=3), max_size=30), st.randoms())
def test_added_rows_and_their_order_change_nothing(old: list[str], added: list[str], rng: random.Random):
    rule = SplitRule(eval=0.3, test=0.3, similarity=1)
    before = dict(zip(old, parts_of(old, rule), strict=True))
    rows = old + added
    rng.shuffle(rows)
    after = dict(zip(rows, parts_of(rows, rule), strict=True))
    assert {prompt: after[prompt] for prompt in old} == before


def test_near_duplicates_stay_together_in_any_order():
    rng = random.Random(0)
    rows = [(number, f"{prompt} {'x ' * k}") for number, prompt in enumerate(prompts_of(150)) for k in range(3)]
    rule = SplitRule(eval=0.3, test=0.3, similarity=0.6)
    by_order = []
    for _ in range(2):
        rng.shuffle(rows)
        parts = parts_of([prompt for _, prompt in rows], rule)
        found: dict[int, set[str]] = {}
        for (number, _), part in zip(rows, parts, strict=True):
            found.setdefault(number, set()).add(part)
        assert all(len(parts) == 1 for parts in found.values())
        by_order.append(found)
    assert by_order[0] == by_order[1]


def test_large_groups_are_not_drawn_into_the_held_out_part():
    """Groups of eight get the share of the rule. By the smallest position it would be 1 − 0.8⁸ = 83 %."""
    prompts = [f"{prompt} {prompt} end{k}" for prompt in prompts_of(400) for k in range(8)]
    parts = parts_of(prompts, SplitRule(eval=0.2, similarity=0.6))
    share = np.mean([part == "validation" for part in parts[::8]])
    assert abs(share - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 400)


def test_a_row_that_joins_a_group_moves_it_only_as_its_new_leader():
    """The leader has the smallest second hash; the group has its position."""
    first = prompts_of(1)[0]
    members = [f"{first} {first} end{k}" for k in range(6)]
    leader = min(members, key=lambda prompt: prompt_position(_key(prompt), 0))
    for rule in (SplitRule(eval=share, similarity=0.6) for share in np.linspace(0.05, 0.95, 19)):
        expected = "validation" if prompt_position(leader, 0) < rule.eval else "train"
        assert parts_of(members, rule) == [expected] * 6


def _key(prompt: str) -> str:
    text = prompt.encode()
    return hashlib.blake2b(len(text).to_bytes(8, "big") + text, digest_size=16).hexdigest()


@settings(deadline=None, max_examples=30)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 60), min_size=1), st.floats(0.05, 0.5), st.floats(0, 0.4)
)
def test_each_stratum_is_divided_in_the_given_shares(sizes: dict[str, int], validation: float, test: float):
    strata = [name for name, size in sizes.items() for _ in range(size)]
    rule = SplitRule(eval=validation, test=test, by_stratum=True, similarity=1)
    parts = parts_of(prompts_of(len(strata)), rule, strata)
    for name, size in sizes.items():
        counts = Counter(part for part, stratum in zip(parts, strata, strict=True) if stratum == name)
        assert abs(counts["validation"] - validation * size) <= 0.5 + 1e-9
        assert abs(counts["validation"] + counts["test"] - (validation + test) * size) <= 0.5 + 1e-9


def test_a_prompt_of_several_strata_has_one_part_in_any_order():
    prompts = [prompt for prompt in prompts_of(50) for _ in range(2)]
    strata = ["b", "a"] * 50
    rule = SplitRule(eval=0.5, by_stratum=True, similarity=1)
    parts = parts_of(prompts, rule, strata)
    assert parts[::2] == parts[1::2]
    assert parts_of(prompts[::-1], rule, strata[::-1]) == parts[::-1]


def test_rows_that_are_left_out_have_no_part_and_are_not_in_the_fingerprint():
    with_defect, without = SplitPlan(SplitRule()), SplitPlan(SplitRule())
    for plan in (with_defect, without):
        plan.add(record("a"))
        if plan is with_defect:
            plan.leave_out()
        plan.add(record("b"))
    groups = with_defect.groups()
    parts = part_rows(with_defect.parts_of_groups(groups), with_defect.prompts, groups)
    assert (parts == LEFT_OUT).tolist() == [False, True, False]
    assert with_defect.fingerprint(parts != LEFT_OUT) == without.fingerprint(np.ones(2, bool))


@pytest.mark.parametrize(
    ("rule", "code", "key"),
    [
        ({"eval": 1.0}, "out_of_range", "eval"),
        ({"eval": -0.1}, "out_of_range", "eval"),
        ({"test": 1.5}, "out_of_range", "test"),
        ({"eval": 0.0}, "out_of_range", "eval"),
        ({"eval": 0.5, "test": 0.5}, "out_of_range", "eval"),
        ({"seed": -1}, "negative", "seed"),
        ({"similarity": 0.0}, "out_of_range", "similarity"),
    ],
)
def test_impossible_rules_are_refused(rule: dict, code: str, key: str):
    with raises(ConfigError, code, key=key):
        SplitRule(**rule)


def test_a_transcript_turns_and_plain_text_are_compared_by_their_words():
    question, answer, second = "What is a quark?", "A particle.", "Who found it?"
    transcript = f"\n\nHuman: {question}\n\nAssistant: {answer}\n\nHuman: {second}\n\nAssistant:"
    turns = tuple(
        {"role": role, "content": text} for role, text in (("user", question), ("assistant", answer), ("user", second))
    )
    expected = [*question.split(), *answer.split(), *second.split()]
    assert plain_text(transcript).split() == plain_text(turns).split() == expected
    assert plain_text(TokenContent((5, 17))) == "5 17"
    assert compared_text(record("", "the text alone")) == "the text alone"
    assert compared_text(record("a prompt", "its response")) == "a prompt"
