"""Settings of engines: what is impossible or has no effect is refused."""

import pytest

from support.errors import raises
from tiltlm.core.errors import ConfigError
from tiltlm.sampling.engines import EngineSettings

URL = "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("knobs", "code", "key"),
    [
        ({"name": "vllm"}, "unknown_name", "name"),
        ({"name": URL, "timeout": 0}, "not_positive", "timeout"),
        ({"model": "m"}, "no_effect", "model"),
        ({"name": "generate_batch", "score": True}, "no_effect", "score"),
        ({"logprobs": "raw"}, "no_effect", "logprobs"),
        ({"timeout": 5.0}, "no_effect", "timeout"),
        ({"key_variable": "K"}, "no_effect", "key_variable"),
    ],
)
def test_impossible_settings_are_refused(knobs, code, key):
    with raises(ConfigError, code, key=f"engine.{key}"):
        EngineSettings(**knobs)


def test_a_url_is_a_server():
    assert EngineSettings(URL, model="m", logprobs="raw", score=True, timeout=5).is_server
    assert not EngineSettings().is_server
