"""Settings that cannot be meant are refused when they are made."""

import pytest

from tiltlm.core.errors import ConfigError
from tiltlm.data.settings import DataSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": ""}, "data.train=''"),
        ({"train": ()}, r"data.train=\(\)"),
        ({"eval_fraction": 1.0}, "data.eval_fraction=1.0"),
        ({"eval_fraction": -0.1}, "data.eval_fraction"),
        ({"eval_fraction": 0.1, "eval": "b.jsonl"}, "give one of the two"),
        ({"max_bad": 1.5}, "data.max_bad=1.5"),
        ({"limit": 0}, "data.limit=0"),
        ({"max_length": 1}, "data.max_length=1"),
        ({"truncation": "left"}, "data.truncation='left'"),
        ({"on_bad": "ignore"}, "data.on_bad='ignore'"),
        ({"assistant_turns": "first"}, "data.assistant_turns='first'"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        DataSettings(**{"train": "a.jsonl", **settings})
