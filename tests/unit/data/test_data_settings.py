"""Impossible settings are refused when they are made."""

import pytest

from support.errors import raises
from tiltlm.core.errors import ConfigError
from tiltlm.data.data_settings import DataSettings


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"train": ""}, "missing_setting"),
        ({"train": ()}, "missing_setting"),
        ({"eval_fraction": 1.0}, "out_of_range"),
        ({"eval_fraction": -0.1}, "out_of_range"),
        ({"eval_fraction": 0.1, "eval": "b.jsonl"}, "conflict"),
        ({"max_bad": 1.5}, "out_of_range"),
        ({"limit": 0}, "not_positive"),
        ({"cache_limit": 0}, "not_positive"),
        ({"cache_limit": 1, "cache": False}, "no_effect"),
        ({"processes": 0}, "not_positive"),
        ({"max_length": 1}, "out_of_range"),
        ({"truncation": "left"}, "unknown_name"),
        ({"on_bad": "ignore"}, "unknown_name"),
        ({"assistant_turns": "first"}, "unknown_name"),
        ({"transcripts": "turns"}, "unknown_name"),
        ({"eval_split": "dev"}, "no_effect"),
    ],
)
def test_impossible_settings(settings, code):
    name, value = next(iter(settings.items()))
    with raises(ConfigError, code, key=f"data.{name}", mentions=[f"data.{name}={value!r}"]):
        DataSettings(**{"train": "a.jsonl", **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {"eval_fraction": 0.0, "eval": "b.jsonl"},
        {"max_bad": 0.0},
        {"max_bad": 1.0},
        {"limit": 1},
        {"max_length": 2},
        {"cache_limit": None},
        {"processes": 1},
    ],
)
def test_bounds_are_allowed(settings):
    made = DataSettings(train="a.jsonl", **settings)
    assert {name: getattr(made, name) for name in settings} == settings
