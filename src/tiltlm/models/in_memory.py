"""A model that was loaded or made in Python, as a folder of the user's cache named by its content.

A run then starts from this folder as from any other. The given objects stay as they are: nothing is trained in place.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tiltlm.core.errors import ConfigError, ModelError
from tiltlm.models.digests import tensors_digest
from tiltlm.models.loading import Loaded
from tiltlm.storage.objects import write_once
from tiltlm.storage.scratch import scratch_folder


def write_model(value: Any, key: str) -> Path:
    """Write a model with its tokenizer to a folder of the user's cache and return the folder.

    The same content always gets the same folder, and is written once.

    Args:
        value: A model of transformers and its tokenizer, in this order; or what `tiltlm.load_policy` returned.
        key: The setting that holds the value, for messages.

    Raises:
        ConfigError: The tokenizer is missing.
        ModelError: The model cannot be written as a folder that is the same model when it is loaded.
    """
    model, tokenizer = _parts(value, key)
    _refuse_other_models(model, key)
    model = _twin(model)
    with scratch_folder() as temporary:
        inner = temporary / "tokenizer"
        inner.mkdir()
        _save_tokenizer(tokenizer, inner)
        texts = {file.name: file.read_bytes().hex() for file in inner.iterdir()}
    generation = getattr(model, "generation_config", None)
    facts = {
        "class": type(model).__name__,
        "config": model.config.to_json_string(),
        "generation": None if generation is None else generation.to_dict(),
        "tokenizer": texts,
    }
    name = f"{model.config.model_type}-{tensors_digest(model.state_dict(), facts)[:16]}"
    return write_once("models", name, lambda folder: _save(model, tokenizer, folder))


def _parts(value: Any, key: str) -> tuple[Any, Any]:
    """Return model and tokenizer."""
    if isinstance(value, Loaded):
        return value.module.model, value.tokenizer
    if isinstance(value, tuple | list) and len(value) == 2:
        model, tokenizer = value
        if (
            isinstance(model, nn.Module)
            and hasattr(tokenizer, "eos_token_id")
            and hasattr(tokenizer, "save_pretrained")
        ):
            return model, tokenizer
    raise ConfigError(
        f"{key} is a loaded model without a tokenizer; give both, the model first: {key}=(model, tokenizer)",
        code="no_tokenizer",
        key=key,
    )


def _refuse_other_models(model: Any, key: str) -> None:
    """Refuse a model whose folder would not be the same model when it is loaded.

    Raises:
        ModelError: The message says what to give in its place.
    """
    tensors = [*model.parameters(), *model.buffers()]
    changed = sorted({type(tensor.data).__name__ for tensor in tensors if type(tensor.data) is not torch.Tensor})
    has_adapter = any(type(module).__module__.split(".")[0] == "peft" for module in model.modules())
    settings = getattr(getattr(model, "config", None), "quantization_config", None)
    is_quantised = settings is not None or not all(weight.is_floating_point() for weight in model.parameters())
    reasons = {
        "it has an adapter of PEFT. Merge it (model.merge_and_unload()); or save it (model.save_pretrained(FOLDER)) "
        "and name its folder; or give the model without it and model.lora, which starts a new one": has_adapter,
        "its weights are quantised, and training needs them in full. Load it without quantization_config": is_quantised,
        f"its weights are of type {', '.join(changed)}. Give a model with plain tensors": bool(changed),
        "some of its weights are not in memory. Load it without device_map": any(tensor.is_meta for tensor in tensors),
        "its class is not one of transformers, and its folder would be loaded as another class. Give its name on the "
        "hub, with model.revision and model.trust_remote_code": not type(model).__module__.startswith("transformers."),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ModelError(
                f"{key}: this {type(model).__name__} cannot be used: {reason}", code="not_supported", key=key
            )


def _twin(model: Any) -> Any:
    """Return a model with the same weights and a configuration of its own, which saving changes."""
    twin = copy.copy(model)
    twin.config = copy.deepcopy(model.config)
    twin.config.name_or_path = ""
    twin.config.dtype = str(model.dtype).removeprefix("torch.")
    twin.config.architectures = [type(model).__name__]
    return twin


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the files of a tokenizer, without the padding and truncation of its last call."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer("", padding=False, truncation=False)
    tokenizer.save_pretrained(folder)


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write weights, configurations and tokenizer. The twin of the model is used up."""
    from transformers import GenerationConfig

    generation = getattr(model, "generation_config", None)
    if generation is not None:
        model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]  # some are refused when saved
    model.save_pretrained(folder)
    if generation is not None:
        generation.to_json_file(folder / "generation_config.json", keys_to_pop=["compile_config"])
    _save_tokenizer(tokenizer, folder)
