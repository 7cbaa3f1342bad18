"""The Hugging Face Hub: whether a repository can be read, known in seconds and not after the retries of a library."""

from pathlib import Path
from typing import Literal

TIMEOUT = 5.0
"""Seconds in which the hub must answer."""


def unreachable(repository: str, kind: Literal["model", "dataset"]) -> str | None:
    """Return why a repository of the hub cannot be read from here, and the way out; None if nothing speaks against it.

    Args:
        repository: Its name on the hub.
        kind: Whether it holds a model or a data set.
    """
    from huggingface_hub import constants, get_session  # imported here: most runs read local folders
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(constants.HF_HUB_CACHE)
    is_cached = (cache / repo_folder_name(repo_id=repository, repo_type=kind) / "snapshots").is_dir()
    if constants.HF_HUB_OFFLINE:
        if is_cached or kind == "dataset":  # `datasets` has a cache of its own, and says at once what is not in it
            return None
        return (
            f"HF_HUB_OFFLINE is set, and {repository} is not in the cache ({cache}). Unset it, download the {kind} "
            "where there is a network, or name a local folder"
        )
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except Exception as error:  # the library behind it, and so its classes, differ between versions
        way_out = "a copy is in the cache: set HF_HUB_OFFLINE=1 to use it" if is_cached else "name a local folder"
        return f"{constants.ENDPOINT} does not answer ({error}). Connect to the network, or {way_out}"
    return None
