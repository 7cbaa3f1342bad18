"""What kind of thing a model path is, and what must be true of a folder before anything in it is opened.

Weights are safetensors or they are not loaded: a pickle can run any code it likes.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiltlm.core.errors import ModelError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Located:
    """Where a model's parts are: folders, or names on the hub."""

    base: str
    """The model itself."""
    adapter: str | None
    """A PEFT adapter on top of it."""
    tokenizer: str
    is_folder: bool
    """False for a name on the hub."""


def locate(path: str, adapter: str | None = None) -> Located:
    """Find the parts of a model, and refuse what cannot be loaded.

    Args:
        path: A model folder, an adapter folder, or a name on the hub.
        adapter: Folder of an adapter to put on top.

    Raises:
        ModelError: no such folder, no weights in it, or weights only as pickles.
    """
    folder = Path(path)
    if not folder.exists():
        if folder.is_absolute() or path.startswith((".", "~")) or not _HUB_NAME.fullmatch(path):
            raise ModelError(f"model.path: there is no folder {path}", code="no_such_path", key="model.path")
        return Located(path, _adapter(adapter), path, is_folder=False)
    if not folder.is_dir():
        raise ModelError(
            f"model.path: {path} is a file; name the folder that holds config.json and the weights",
            code="not_a_folder",
            key="model.path",
        )
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        if adapter is not None:
            raise ModelError(
                f"model.path {path} is an adapter already, and model.adapter names another; name its base",
                code="conflict",
                key="model.adapter",
            )
        _refuse_without_safetensors(folder, "adapter_model*.safetensors", "model.path")
        base = _base_of(folder)
        below = locate(base)
        tokenizer = path if (folder / "tokenizer_config.json").exists() else below.tokenizer
        return Located(base, path, tokenizer, below.is_folder)
    if not (folder / "config.json").exists():
        raise ModelError(
            f"model.path: {path} holds no config.json; it is no model folder of transformers",
            code="not_a_model",
            key="model.path",
        )
    _refuse_without_safetensors(folder, "*.safetensors", "model.path")
    return Located(path, _adapter(adapter), path, is_folder=True)


def _adapter(adapter: str | None) -> str | None:
    if adapter is None:
        return None
    folder = Path(adapter)
    if not (folder / "adapter_config.json").exists():
        raise ModelError(
            f"model.adapter: {adapter} holds no adapter_config.json; it is no folder of a PEFT adapter",
            code="not_an_adapter",
            key="model.adapter",
        )
    _refuse_without_safetensors(folder, "adapter_model*.safetensors", "model.adapter")
    return adapter


def _base_of(folder: Path) -> str:
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    if not base:
        raise ModelError(
            f"{folder / 'adapter_config.json'}: no base_model_name_or_path, so its base model is unknown",
            code="no_base_model",
            key="model.path",
        )
    return str(base)


def _refuse_without_safetensors(folder: Path, pattern: str, key: str) -> None:
    if any(folder.glob(pattern)):
        return
    pickles = sorted(p.name for kind in _PICKLES for p in folder.glob(kind))
    if pickles:
        raise ModelError(
            f"{folder} has its weights only as pickles ({', '.join(pickles[:3])}), which are never loaded: opening one "
            "can run any code. Convert them where you trust them: "
            "AutoModelForCausalLM.from_pretrained(…).save_pretrained(…) writes safetensors",
            code="only_pickles",
            key=key,
        )
    raise ModelError(
        f"{folder} holds no weights ({pattern}); is the download or the copy complete?", code="no_weights", key=key
    )
