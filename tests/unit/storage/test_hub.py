"""A repository that cannot be read is known in seconds, with the way out; one in the cache is read from there."""

import logging
import socket
import threading

import datasets
import huggingface_hub
import pytest
from huggingface_hub import constants

from support.errors import events
from support.hub import COMMIT, fake_model, silent_server, unset_hub
from tiltlm.storage import hub
from tiltlm.storage.hub import commit_of, unreachable


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return the folder of a cache that holds one model; the process is not set to work offline."""
    unset_hub(monkeypatch, tmp_path)
    fake_model(tmp_path, "known/model")
    return monkeypatch


class Session:
    """A session whose requests are answered or not; it counts them."""

    def __init__(self, error=None, status=200):
        self.error, self.status_code, self.num_requests = error, status, 0

    def head(self, url, timeout):
        assert timeout <= 10
        self.num_requests += 1
        if self.error:
            raise self.error
        return self


@pytest.mark.parametrize(
    ("offline", "answer", "repository", "mentions"),
    [
        (True, {}, "known/model", None),
        (True, {}, "other/model", "HF_HUB_OFFLINE is set"),
        (False, {}, "other/model", None),
        (False, {"status": 404}, "other/model", None),
        (False, {"error": ConnectionError("no name")}, "known/model", None),
        (False, {"error": TimeoutError("late")}, "other/model", "late"),
        (False, {"status": 504}, "other/model", "504"),
        (False, {"status": 504}, "known/model", None),
    ],
)
def test_what_is_known_of_a_repository(cache, caplog, offline, answer, repository, mentions):
    session = Session(**answer)
    cache.setattr(constants, "HF_HUB_OFFLINE", offline)
    cache.setattr(huggingface_hub, "get_session", lambda: session)
    for _ in range(3):
        reason = unreachable(repository, "model")
        assert reason is None if mentions is None else mentions in reason
    assert session.num_requests == (0 if offline else 1), "one request, without retries"
    uses_cache = not offline and repository == "known/model" and bool(answer)
    assert (offline or uses_cache) == constants.HF_HUB_OFFLINE
    assert uses_cache == datasets.config.HF_HUB_OFFLINE
    found = events(caplog, "hub_offline")
    assert [(record.levelno, record.repository) for record in found[:1]] == (
        [(logging.WARNING, repository)] if uses_cache else []
    )
    assert len(found) <= 1, "it is said once"


def test_a_hub_that_answers_later_is_used_again(cache):
    cache.setattr(huggingface_hub, "get_session", lambda: Session(ConnectionError("no name")))
    assert unreachable("known/model", "model") is None
    assert constants.HF_HUB_OFFLINE
    cache.setattr(hub, "VALID_FOR", 0.0)
    cache.setattr(huggingface_hub, "get_session", lambda: Session())
    assert unreachable("other/model", "model") is None
    assert not constants.HF_HUB_OFFLINE


def test_a_data_set_may_be_in_the_cache_of_another_library(cache, tmp_path):
    cache.setattr(constants, "HF_HUB_OFFLINE", True)
    assert unreachable("known/model", "dataset") is None, "datasets says at once what is not there"
    cache.setattr(constants, "HF_HUB_OFFLINE", False)
    cache.setattr(huggingface_hub, "get_session", lambda: Session(ConnectionError("no name")))
    assert "no name" in unreachable("owner/MyPairs", "dataset")
    assert not constants.HF_HUB_OFFLINE
    (tmp_path / "datasets" / "owner___my_pairs").mkdir(parents=True)
    assert unreachable("owner/MyPairs", "dataset") is None
    assert constants.HF_HUB_OFFLINE


@pytest.fixture
def short(monkeypatch):
    """Let the limit be short: nothing answers in these tests, however long one waits."""
    monkeypatch.setattr(hub, "TIMEOUT", 0.3)


@pytest.mark.parametrize("proxy", [False, True])
def test_a_server_or_a_proxy_that_never_answers(cache, short, proxy):
    with silent_server() as address:
        if proxy:
            cache.setattr(constants, "ENDPOINT", "https://hub.invalid")
            cache.setenv("HTTPS_PROXY", address)
            huggingface_hub.utils._http.close_session()
        else:
            cache.setattr(constants, "ENDPOINT", address)
        assert "does not answer" in unreachable("other/model", "model")
        assert unreachable("known/model", "model") is None
    huggingface_hub.utils._http.close_session()


def test_a_closed_port(cache, short):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        cache.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{bound.getsockname()[1]}")
        assert "does not answer" in unreachable("other/model", "model")


def test_a_name_server_that_never_answers(cache, short):
    """The limits of the HTTP library do not hold for looking up a name."""
    ended = threading.Event()
    cache.setattr(socket, "getaddrinfo", lambda *_, **__: ended.wait(60) and [])
    cache.setattr(constants, "ENDPOINT", "https://hub.invalid")
    try:
        assert "no answer in 0.3 seconds" in unreachable("other/model", "model")
        assert not ended.is_set()
    finally:
        ended.set()


def test_the_commit_of_a_branch(cache):
    assert commit_of("known/model", "model", "a" * 40) == "a" * 40
    cache.setattr(constants, "HF_HUB_OFFLINE", True)
    assert commit_of("known/model", "model", None) == COMMIT
    assert commit_of("known/model", "model", "main") == COMMIT
    assert commit_of("known/model", "model", "dev") is None
    assert commit_of("other/model", "model", None) is None


def test_a_commit_is_asked_for_once(cache):
    asked = []

    def repo_info(self, repo_id, **keywords):
        asked.append((repo_id, keywords["revision"]))
        return huggingface_hub.hf_api.ModelInfo(id=repo_id, sha="c" * 40)

    cache.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
    for _ in range(3):
        assert commit_of("known/model", "model", "dev") == "c" * 40
    assert asked == [("known/model", "dev")]
    cache.setattr(constants, "HF_HUB_OFFLINE", True)
    assert commit_of("known/model", "model", "dev") == "c" * 40, "the cache knows it from now on"
