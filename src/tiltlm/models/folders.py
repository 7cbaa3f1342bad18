"""The parts that a model path names, and the checks of a folder before anything in it is opened.

Weights must be safetensors: a pickle can run any code when it is opened.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiltlm.core.errors import ModelError
from tiltlm.models.foreign_code import check_adapter_weights, check_weights
from tiltlm.storage.hub import unreachable

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Located:
    """The parts of a model: folders, or names on the hub."""

    base: str
    """The model itself."""
    adapter: str | None
    """A PEFT adapter to put on it."""
    tokenizer: str
    """Where the tokenizer is."""
    is_folder: bool
    """False for a name on the hub."""
    key: str = "model.path"
    """The setting that names the model, for error messages."""
    commit: str | None = None
    """The commit of a name on the hub that is loaded; None for a folder, or if it is unknown."""


def locate(path: str, adapter: str | None = None, key: str = "model.path") -> Located:
    """Find the parts of a model, and refuse what cannot be loaded.

    Args:
        path: A model folder, an adapter folder, or a name on the hub.
        adapter: Folder of an adapter to put on it.
        key: The setting that names the path, for error messages.

    Raises:
        ModelError: there is no such folder, or no weights in it, or weights only as pickles.
    """
    folder = Path(path)
    if not folder.exists():
        if folder.is_absolute() or path.startswith((".", "~")) or not _HUB_NAME.fullmatch(path):
            raise ModelError(f"{key}: there is no folder {path}", code="no_such_path", key=key)
        return Located(path, _adapter(adapter), _tokenizer(adapter, path), is_folder=False, key=key)
    if not folder.is_dir():
        raise ModelError(
            f"{key}: {path} is a file; name the folder that holds config.json and the weights",
            code="not_a_folder",
            key=key,
        )
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        if adapter is not None:
            raise ModelError(
                f"{key}: {path} is already an adapter, and model.adapter names another; set {key} to its base model",
                code="conflict",
                key="model.adapter",
            )
        check_adapter_weights(folder, key)
        base = _located_base(folder, key)
        return Located(base.base, path, _tokenizer(path, base.tokenizer), base.is_folder, key)
    if not (folder / "config.json").exists():
        raise ModelError(
            f"{key}: {path} contains no config.json, so it is not a model folder of transformers",
            code="not_a_model",
            key=key,
        )
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{key}: {path} holds config.json and adapter_config.json, so it may mean a model or an adapter; put the "
            f"files of the adapter (adapter_*) into a folder of their own, and name it with model.adapter if it is "
            "wanted",
            code="conflict",
            key=key,
        )
    check_weights(folder, key)
    return Located(path, _adapter(adapter), _tokenizer(adapter, path), is_folder=True, key=key)


def _tokenizer(adapter: str | None, base: str) -> str:
    """Return the folder of the tokenizer: the adapter's where it has one, else the base model's."""
    has_own = adapter is not None and (Path(adapter) / "tokenizer_config.json").exists()
    return adapter if adapter is not None and has_own else base


def place_of(located: Located, path: str) -> str:
    """Return the beginning of a message about a part of the model: the setting, the path, and where it was read."""
    place = f"{located.key}: {path}"
    if not Path(path).exists():
        at = f", commit {located.commit}" if located.commit else ""
        place += f" on the hub{at} (there is no such folder)"
    if located.adapter is not None and path == located.base:
        place += (
            f", the base model of the adapter {located.adapter} (to name another place of it, set {located.key} to "
        )
        place += f"the base model and model.adapter={located.adapter})"
    return place


def check_reachable(located: Located) -> None:
    """Require that a model on the hub can be read from here. It takes seconds, where loading would try for minutes.

    Raises:
        ModelError: the hub does not answer, or is switched off and has left no copy in the cache.
    """
    if not located.is_folder and (reason := unreachable(located.base, "model")):
        raise ModelError(
            f"{place_of(located, located.base)} cannot be read: {reason}",
            code="not_reachable",
            key=located.key,
        )


def _adapter(adapter: str | None) -> str | None:
    """Check the folder of an adapter, and return it."""
    if adapter is None:
        return None
    folder = Path(adapter)
    if not (folder / "adapter_config.json").exists():
        raise ModelError(
            f"model.adapter: {adapter} contains no adapter_config.json, so it is not the folder of a PEFT adapter",
            code="not_an_adapter",
            key="model.adapter",
        )
    check_adapter_weights(folder, "model.adapter")
    return adapter


def _located_base(folder: Path, key: str) -> Located:
    """Find the base model that an adapter's configuration names."""
    base = _base_of(folder, key)
    try:
        return locate(base, key=key)
    except ModelError as error:
        raise ModelError(
            f"{key}: the adapter {folder} names its base model {base}, which cannot be used: {error}. If the base "
            f"model has another place, set {key} to it and model.adapter={folder}",
            code="no_base_model",
            key="model.adapter",
        ) from error


def _base_of(folder: Path, key: str) -> str:
    """Return the base model that an adapter's configuration names."""
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    if not base:
        raise ModelError(
            f"{key}: {folder / 'adapter_config.json'} has no base_model_name_or_path, so its base model is unknown",
            code="no_base_model",
            key=key,
        )
    return str(base)


def short_name(path: str) -> str:
    """Return a name for tables: of a file without its endings, of the folder `model` of a run that of the run."""
    found = Path(path)
    if found.is_file():
        return found.name.split(".")[0]
    if not found.is_dir():
        return path
    found = found.resolve()
    return found.parent.name if found.name == "model" else found.name
