"""A cache of the Hugging Face Hub as its libraries write it, and a server that never answers."""

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants

from tiltlm.storage import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def unset_hub(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Let this process look for the hub, with its caches in a folder, as if it had not asked so far."""
    monkeypatch.setattr(hub, "_hub", hub._Hub())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(home / "datasets"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub._resolve.cache_clear()


def fake_model(home: Path, name: str, folder: Path | None = None, commit: str = COMMIT) -> None:
    """Write a model into a cache, as the commit that its branch `main` names.

    Args:
        home: The folder of the cache (`HF_HOME`).
        name: Name of the repository.
        folder: A model folder; None: no files.
        commit: The commit.
    """
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    if folder is not None:
        shutil.copytree(folder, snapshot, dirs_exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)


@contextmanager
def silent_server() -> Iterator[str]:
    """Yield the address of a server that accepts connections and never answers."""
    held: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                held.append(server.accept()[0])
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in held:
        connection.close()
