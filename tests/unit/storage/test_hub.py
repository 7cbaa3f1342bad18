"""A repository that cannot be read is known at once, with the way out."""

import huggingface_hub
import pytest
from huggingface_hub import constants

from tiltlm.storage.hub import unreachable


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--known--model" / "snapshots").mkdir(parents=True)
    return monkeypatch


class Session:
    """A session whose requests are answered or not; it counts them."""

    def __init__(self, error=None):
        self.error, self.num_requests = error, 0

    def head(self, url, timeout):
        assert timeout <= 10
        self.num_requests += 1
        if self.error:
            raise self.error


@pytest.mark.parametrize(
    ("offline", "error", "repository", "mentions"),
    [
        (True, None, "known/model", None),
        (True, None, "other/model", "HF_HUB_OFFLINE is set"),
        (False, None, "other/model", None),
        (False, ConnectionError("no name"), "known/model", "HF_HUB_OFFLINE=1"),
        (False, TimeoutError("late"), "other/model", "late"),
    ],
)
def test_what_is_known_of_a_repository(cache, offline, error, repository, mentions):
    session = Session(error)
    cache.setattr(constants, "HF_HUB_OFFLINE", offline)
    cache.setattr(huggingface_hub, "get_session", lambda: session)
    reason = unreachable(repository, "model")
    assert reason is None if mentions is None else mentions in reason
    assert session.num_requests == (0 if offline else 1), "one request, without retries"


def test_a_data_set_may_be_in_the_cache_of_another_library(cache):
    cache.setattr(constants, "HF_HUB_OFFLINE", True)
    assert unreachable("known/model", "dataset") is None
    cache.setattr(constants, "HF_HUB_OFFLINE", False)
    cache.setattr(huggingface_hub, "get_session", lambda: Session(ConnectionError("no name")))
    assert "no name" in unreachable("known/model", "dataset")
