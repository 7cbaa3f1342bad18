"""Constitutions: what a file must be, which principle a draft gets, and which revision is used."""

from collections import Counter
from pathlib import Path

import pytest

from support.errors import raises
from tiltlm.core import ConfigError
from tiltlm.online.constitution import DEFAULT, Principle, choose, read_constitution, why_not

ONE = "- {id: a, principle: Be brief., critique: Say what is too long., revision: Write it shorter.}\n"


def test_the_one_that_comes_along_can_be_read():
    found = read_constitution(DEFAULT)
    assert len({one.id for one in found}) == len(found) >= 4
    assert all(one.principle in one.asks_critique and one.revision in one.asks_revision for one in found)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: [", "damaged"),
        ("{}", "wrong_type"),
        ("[]", "wrong_type"),
        ("- just text", "wrong_type"),
        ("- {id: a, principle: x, critique: y}", "wrong_type"),
        ("- {id: a, principle: x, critique: y, revision: ' '}", "wrong_type"),
        (ONE.replace("}", ", weight: 0}"), "not_positive"),
        (ONE.replace("}", ", wait: 1}"), "unknown_setting"),
        (ONE + ONE, "duplicate"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, text, code):
    path = tmp_path / "constitution.yaml"
    path.write_text(text)
    with raises(ConfigError, code, key="rivals.constitution", mentions=[str(path)]):
        read_constitution(path)
    with raises(ConfigError, "no_such_path", key="rivals.constitution"):
        read_constitution(Path(tmp_path / "none.yaml"))


def test_principles_are_chosen_by_their_weights_and_by_name_alone():
    """Of 4,000 drafts a quarter gets the principle of weight 1: within 4 standard deviations, √(¼·¾·4000) = 27."""
    principles = [Principle("rare", "p", "c", "r"), Principle("often", "p", "c", "r", weight=3.0)]
    found = Counter(choose(principles, f"draft {k}", 0).id for k in range(4000))
    assert abs(found["rare"] - 1000) < 4 * 27.4
    assert all(choose(principles, f"draft {k}", 0) is choose(principles, f"draft {k}", 0) for k in range(20))
    assert [choose(principles, f"draft {k}", 0).id for k in range(50)] != [
        choose(principles, f"draft {k}", 1).id for k in range(50)
    ]


@pytest.mark.parametrize(
    ("revision", "cause"),
    [
        ("Take the second road, it is shorter.", ""),
        ("  \n", "empty"),
        ("Here is the revised answer: take the second road.", "meta_text"),
        ("Sure! Take the second road.", "meta_text"),
        ("Take the first road. It is the shortest one of all the roads that lead there!", "no_change"),
    ],
)
def test_which_revisions_are_used(revision, cause):
    assert why_not("Take the first road. It is the shortest one of all the roads that lead there.", revision) == cause
