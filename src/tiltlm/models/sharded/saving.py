"""Saving of a model as an ordinary folder, one file of the folder at a time. Shards are written by torch's own writer.

No process holds the whole model: its tensors are shards, or are read from a checkpoint one after the other. Where an
adapter is merged, or where transformers stores other tensors than it computes with, one layer is whole at a time, and
the new tensors of a sharded model are sharded again until their file is written.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tiltlm.distributed.ranks import Ranks
from tiltlm.distributed.sharding import Sharding
from tiltlm.distributed.wrapping import full_tensor, laid_out_as, reshard, with_local_part
from tiltlm.logprobs.attention.last_layer import decoder_layers
from tiltlm.logprobs.module import ForestModule

FILE_SIZE = 5_000_000_000
"""Bytes after which the next layer begins a new file."""
NONE: Mapping[str, Tensor] = {}
Read = Callable[[Tensor], Tensor]
"""Returns the value of a tensor of the model, which may be in a checkpoint."""


def write_weights(
    policy: ForestModule,
    folder: Path,
    sharding: Sharding | None,
    file_size: int = FILE_SIZE,
    values: Mapping[str, Tensor] = NONE,
) -> None:
    """Write the weights of a model, with its adapter merged, as safetensors.

    Args:
        policy: The module.
        folder: An existing folder that all processes can write to.
        sharding: The processes that share the module, which call this together; None: this one has all of it.
        file_size: As `FILE_SIZE`.
        values: Values of parameters that are written in place of their own, by their names. Each is read once, and not
            kept longer than its file takes.

    Raises:
        OSError: a file cannot be written.
    """
    reshard(policy)
    own: dict[Tensor, str] = {parameter: name for name, parameter in policy.named_parameters() if name in values}

    def read(tensor: Tensor) -> Tensor:
        return values[own[tensor]].to(tensor.dtype) if tensor in own else tensor

    write = _write_whole if sharding is None else _write_shards
    files: list[dict[str, Tensor]] = []
    for part in _parts(policy.bare_model):
        if not files or sum(map(_num_bytes, files[-1].values())) >= file_size:
            if files:
                write(files[-1], folder, len(files))
                files[-1] = {name: tensor.to("meta") for name, tensor in files[-1].items()}
            files.append({})
        files[-1] |= _saved_form(policy.bare_model, part, read)
    write(files[-1], folder, len(files))
    (sharding.ranks if sharding else Ranks()).first(lambda: _name_files(folder, files))


def adapter_tensors_of(policy: ForestModule) -> dict[str, Tensor]:
    """Return the trained tensors of an adapter, each whole and on the CPU. All processes call it together."""
    reshard(policy)
    trained = [(name, p.detach()) for name, p in policy.model.named_parameters() if p.requires_grad]
    return {name: full_tensor(tensor).cpu() for name, tensor in trained}


def _parts(model: Any) -> Iterator[list[tuple[str, nn.Module]]]:
    """Yield the modules of the model by name, in parts: each decoder layer with all in it, then the rest."""
    inside: set[nn.Module] = set()
    layers = set(decoder_layers(model))
    for prefix, module in model.named_modules():
        if module in layers:
            part = [(f"{prefix}.{name}" if name else prefix, child) for name, child in module.named_modules()]
            inside.update(child for _, child in part)
            yield part
    yield [(name, module) for name, module in model.named_modules() if module not in inside]


def _saved_form(model: Any, part: list[tuple[str, nn.Module]], read: Read) -> dict[str, Tensor]:
    """Return the tensors of a part as transformers stores them, sharded where the model is."""
    tensors = _merged(model, part, read)
    if not getattr(model, "_weight_conversions", None):
        return tensors
    from transformers.core_model_loading import revert_weight_conversion

    parameters = list(model.parameters())
    like = next((tensor for tensor in parameters if isinstance(tensor.data, DTensor)), parameters[0])
    whole = {name: full_tensor(tensor) for name, tensor in tensors.items()}
    return {name: _divided(tensor, like) for name, tensor in revert_weight_conversion(model, whole).items()}


def _merged(model: Any, part: list[tuple[str, nn.Module]], read: Read) -> dict[str, Tensor]:
    """Return the tensors of a part without its adapter, by the names that they have without one."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    tied, ignored = getattr(model, "all_tied_weights_keys", None) or {}, model._keys_to_ignore_on_save or ()
    tensors: dict[str, Tensor] = {}
    done: list[str] = []
    for prefix, module in part:
        if any(prefix.startswith(f"{name}.") for name in done):
            continue
        if isinstance(module, BaseTunerLayer):
            done.append(prefix)
            own = _merged_layer(module)
        elif isinstance(module, ModulesToSaveWrapper):
            done.append(prefix)
            own = dict(module.modules_to_save[module.active_adapters[0]].named_parameters())
        else:
            kept = module.state_dict(keep_vars=True).keys()
            own = dict[str, Tensor](module.named_parameters(recurse=False))
            own |= {key: tensor for key, tensor in module.named_buffers(recurse=False) if key in kept}
        named = {f"{prefix}.{key}" if prefix else key: tensor for key, tensor in own.items()}
        kept_names = [name for name in named if name not in tied and name not in ignored]
        tensors |= {name: read(named[name]).detach() for name in kept_names}
    return tensors


@torch.no_grad()
def _merged_layer(layer: Any) -> dict[str, Tensor]:
    """Return the parameters of the layer under an adapter after merging, sharded. The layer stays as it is."""
    base = layer.get_base_layer()
    merged = dict(base.named_parameters(recurse=False))
    with _whole(layer):
        weight = base.weight.data.clone()
        for adapter in layer.active_adapters:
            if adapter in {*getattr(layer, "lora_A", ()), *getattr(layer, "lora_embedding_A", ())}:
                weight += layer.get_delta_weight(adapter).to(weight.dtype)
    return merged | {"weight": _divided(weight, merged["weight"])}


@contextmanager
def _whole(layer: nn.Module) -> Iterator[None]:
    """Give a layer whole parameters inside the block."""
    places = [(m, key, p) for m in layer.modules() for key, p in m._parameters.items() if p is not None]
    for module, key, parameter in places:
        module._parameters[key] = nn.Parameter(full_tensor(parameter.detach()), requires_grad=False)
    try:
        yield
    finally:
        for module, key, parameter in places:
            module._parameters[key] = parameter


def _num_bytes(tensor: Tensor) -> int:
    """Return the size of a tensor, of all of it where it is sharded."""
    return tensor.numel() * tensor.itemsize


def _divided(whole: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor as shards, laid out as `like`; the whole is not kept. Where `like` is whole, so is it."""
    if not isinstance(like, DTensor):
        return whole
    sharded: Any = laid_out_as(whole, like)
    return with_local_part(sharded.to_local().clone(), sharded)


def _write_whole(tensors: dict[str, Tensor], folder: Path, number: int) -> None:
    """Write one file of the folder."""
    part = folder / f"part-{number:05d}"
    part.mkdir()
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, part / "weights.safetensors", {"format": "pt"})


def _write_shards(tensors: dict[str, Tensor], folder: Path, number: int) -> None:
    """Write one file of the folder: every process its shards, which rank 0 then puts together."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    part = folder / f"part-{number:05d}"
    writer = HuggingFaceStorageWriter(str(part), save_distributed=True, enable_consolidation=True)
    try:
        save(tensors, storage_writer=writer)
    except CheckpointException as error:
        (first, _), *_ = error.failures.values()
        raise first if isinstance(first, OSError) else OSError(f"{type(first).__name__}: {first}") from error


def _name_files(folder: Path, files: list[dict[str, Tensor]]) -> None:
    """Give the files their names in the folder, and write the index if there are several."""
    names = ["model.safetensors"]
    if len(files) > 1:
        names = [f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)]
    for number, name in enumerate(names, start=1):
        part = folder / f"part-{number:05d}"
        (written,) = part.glob("*.safetensors")
        written.rename(folder / name)
        shutil.rmtree(part)
    if len(files) > 1:
        places = {tensor: name for name, tensors in zip(names, files, strict=True) for tensor in tensors}
        sizes = [_num_bytes(tensor) for tensors in files for tensor in tensors.values()]
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": dict(sorted(places.items()))}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
