"""Models from others run no code: pickled weights are never opened, and kernels of the hub are never loaded.

`check_weights` refuses what it can name. `without_pickles` is the last guard, for ways that a library may find.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from tiltlm.core.errors import ModelError

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
INDEX = "model.safetensors.index.json"
NAMES_WEIGHTS = "transformers_weights"
"""Key of config.json that names a file of weights."""
NAMES_CODE = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
"""Keys of config.json whose value may be a kernel on the hub: owner/name."""
WAY_OUT = (
    "Convert them on a machine where you trust them: AutoModelForCausalLM.from_pretrained(…).save_pretrained(…) writes "
    "safetensors"
)


def check_weights(folder: Path, key: str) -> None:
    """Require that transformers would read all weights of a model folder from safetensors files in it.

    Args:
        folder: A model folder.
        key: The setting that names it, for the error.

    Raises:
        ModelError: it has no such files, or its index or its configuration names others.
    """
    _refuse_without_safetensors(folder, "*.safetensors", key)
    config = _read_mapping(folder / "config.json")
    named = config.get(NAMES_WEIGHTS)
    if named is not None:
        _check_name(folder, str(named), "config.json", key)
    for name in NAMES_CODE:
        values = config.get(name)
        for value in values.values() if isinstance(values, dict) else [values]:
            if isinstance(value, str) and "/" in value:
                raise ModelError(
                    f"{key}: {folder / 'config.json'} names a kernel on the hub ({name}={value}), which is code and is "
                    f"never loaded; remove {name} from config.json",
                    code="remote_code",
                    key=key,
                )
    if named is None and not (folder / "model.safetensors").exists() and (folder / INDEX).exists():
        _check_index(folder, key)


def check_adapter_weights(folder: Path, key: str) -> None:
    """Require that PEFT would read the weights of an adapter from its safetensors file.

    Raises:
        ModelError: it has none.
    """
    _refuse_without_safetensors(folder, "adapter_model.safetensors", key)


@contextmanager
def without_pickles(key: str) -> Iterator[None]:
    """Let `torch.load` raise in this block, whichever library calls it.

    Args:
        key: The setting that names the model, for the error.

    Raises:
        ModelError: a library tried to open a pickle.
    """
    import torch

    def refuse(file: Any, *_: Any, **__: Any) -> NoReturn:
        raise ModelError(
            f"{key}: the weights are in a pickle ({file}), which is never opened: a pickle can run any code. {WAY_OUT}",
            code="only_pickles",
            key=key,
        )

    before = torch.load
    torch.load = refuse  # type: ignore[assignment]  # it accepts every call, and returns from none
    try:
        yield
    finally:
        torch.load = before


def _check_index(folder: Path, key: str) -> None:
    """Require that the index of a folder names only safetensors files in this folder."""
    names = _read_mapping(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(
            f"{key}: {folder / INDEX} has no weight_map that names a file for each tensor; check that the copy is "
            "complete",
            code="unsafe_index",
            key=key,
        )
    for name in sorted(set(names.values())):
        _check_name(folder, name, INDEX, key)


def _check_name(folder: Path, name: str, where: str, key: str) -> None:
    """Require that a name is that of a safetensors file directly in the folder."""
    if Path(name).name != name:
        raise ModelError(
            f"{key}: {folder / where} names {name} as a file of weights, which is not directly in the folder; such "
            "files are not read",
            code="unsafe_index",
            key=key,
        )
    if not name.endswith((".safetensors", ".safetensors.index.json")):
        raise ModelError(
            f"{key}: {folder / where} names {name} as a file of weights. It is no safetensors file and is never "
            f"opened: a pickle can run any code. {WAY_OUT}",
            code="only_pickles",
            key=key,
        )


def _read_mapping(file: Path) -> dict[str, Any]:
    """Return the content of a JSON file; an empty mapping if it is none, which its reader then says."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _refuse_without_safetensors(folder: Path, pattern: str, key: str) -> None:
    if any(folder.glob(pattern)):
        return
    pickles = sorted(p.name for kind in PICKLES for p in folder.glob(kind))
    if pickles:
        raise ModelError(
            f"{key}: {folder} has its weights only as pickles ({', '.join(pickles[:3])}), which are never opened: a "
            f"pickle can run any code. {WAY_OUT}",
            code="only_pickles",
            key=key,
        )
    raise ModelError(
        f"{key}: {folder} contains no weights ({pattern}); check that the download or copy is complete",
        code="no_weights",
        key=key,
    )
