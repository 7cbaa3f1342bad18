"""The Hugging Face Hub: whether it answers, known in seconds, and the commit behind the name of a branch.

The libraries below try for minutes. So the hub is asked once, with a limit on the whole time. If it does not answer and
a copy of the repository is in the cache, this process works offline from then on.
"""

import logging
import os
import re
import sys
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Thread
from typing import Literal

log = logging.getLogger(__name__)

Kind = Literal["model", "dataset"]

TIMEOUT = 5.0
"""Seconds in which the hub must answer, looking up its name and a proxy included."""
VALID_FOR = 300.0
"""Seconds for which an answer, or that there was none, is not asked for again."""
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass
class _Hub:
    """What is known of the hub in this process."""

    endpoint: str = ""
    asked: float = -VALID_FOR
    """When it was asked, on the clock of `time.monotonic`."""
    failure: str | None = None
    """Why it does not answer; None if it does."""
    is_set_offline: bool = False
    """True if this module has switched the libraries to work offline."""
    named: set[str] = field(default_factory=set)
    """Repositories that a warning has named as read from the cache."""


_hub = _Hub()


def unreachable(repository: str, kind: Kind) -> str | None:
    """Return why a repository of the hub cannot be read from here, and the way out; None if nothing speaks against it.

    If the hub does not answer and the repository is in the cache, the libraries of this process are switched to work
    offline, with a warning.

    Args:
        repository: Its name on the hub.
        kind: Whether it holds a model or a data set.
    """
    from huggingface_hub import constants  # imported here: most runs read local folders

    if constants.HF_HUB_OFFLINE and not _hub.is_set_offline:
        if kind == "dataset" or _is_cached(repository, kind):  # `datasets` says at once what is not in its cache
            return None
        return (
            f"HF_HUB_OFFLINE is set, and {repository} is not in the cache ({constants.HF_HUB_CACHE}). Unset it, "
            f"download the {kind} where there is a network, or name a local folder"
        )
    failure = _failure()
    if failure is None:
        return None
    if not _is_cached(repository, kind):
        return (
            f"{constants.ENDPOINT} does not answer ({failure}), and {repository} is not in the cache. Connect to the "
            "network, or name a local folder"
        )
    _work_offline(True)
    if repository not in _hub.named:
        _hub.named.add(repository)
        log.warning(
            "%s does not answer (%s): %s is read from the cache, and its newest version is not looked for",
            constants.ENDPOINT, failure, repository,
            extra={"event": "hub_offline", "repository": repository},
        )  # fmt: skip
    return None


def commit_of(repository: str, kind: Kind, revision: str | None) -> str | None:
    """Return the commit that a branch or tag of a repository names now, offline that of the copy in the cache.

    Args:
        repository: Its name on the hub.
        kind: Whether it holds a model or a data set.
        revision: A branch, a tag or a commit; None: the default branch.

    Returns:
        40 hexadecimal digits. None if it cannot be found out: loading then says what is wrong.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import constants

    return _resolve(str(constants.HF_HUB_CACHE), repository, kind, revision, constants.HF_HUB_OFFLINE)


@lru_cache
def _resolve(cache: str, repository: str, kind: Kind, revision: str | None, is_offline: bool) -> str | None:
    """Return the commit of a revision. It is asked for once, so that all files of a run are of the same one."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RevisionResolutionError

    try:
        found = HfApi().resolve_revision(
            repository, repo_type=kind, revision=revision, cache_dir=cache, local_files_only=is_offline
        )
    except (HfHubHTTPError, RevisionResolutionError, OSError, ValueError):
        return None
    return found.resolved


def _is_cached(repository: str, kind: Kind) -> bool:
    """Return whether a copy of a repository is on this machine. A data set must have been prepared by `datasets`."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    if kind == "model":
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type=kind)
        return (folder / "snapshots").is_dir()
    from datasets import config
    from datasets.naming import camelcase_to_snakecase

    *owner, name = repository.split("/")
    return (Path(config.HF_DATASETS_CACHE) / "___".join([*owner, camelcase_to_snakecase(name)])).is_dir()


def _failure() -> str | None:
    """Return why the hub does not answer; None if it does."""
    from huggingface_hub import constants

    if _hub.endpoint != constants.ENDPOINT or time.monotonic() - _hub.asked > VALID_FOR:
        if _hub.is_set_offline:
            _work_offline(False)
        _hub.failure = _ask()
        _hub.endpoint, _hub.asked = constants.ENDPOINT, time.monotonic()
    return _hub.failure


def _ask() -> str | None:
    """Ask the hub for its first page in another thread: looking up a name or a proxy may take longer than any limit."""
    from huggingface_hub import constants, get_session

    found: list[str | None] = []

    def ask() -> None:
        try:
            answer = get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
            found.append(f"status {answer.status_code}" if answer.status_code >= 500 else None)
        except Exception as error:  # the library behind it, and so its classes, differ between versions
            found.append(str(error) or type(error).__name__)

    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return found[0] if found else f"no answer in {TIMEOUT:g} seconds"


def _work_offline(is_offline: bool) -> None:
    """Switch the libraries of this process, and of those that it starts, to work offline or not."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = is_offline
    os.environ["HF_HUB_OFFLINE"] = str(int(is_offline))
    if (datasets := sys.modules.get("datasets")) is not None:  # it has read the variable when it was imported
        datasets.config.HF_HUB_OFFLINE = datasets.config.HF_DATASETS_OFFLINE = is_offline
    _hub.is_set_offline = is_offline
