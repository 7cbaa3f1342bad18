"""Digests of a model's weights: short strings to print, to compare, and to store log-probabilities under.

Equal digests mean equal log-probabilities up to rounding. A digest is computed from the content of the weights and the
names that they have without an adapter, so a LoRA run and full fine-tuning of the same model share one reference.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from tiltlm.distributed.wrapping import full_tensor, reshard
from tiltlm.logprobs import ForestModule
from tiltlm.models.digests import tensors_digest

_NO_LOGIT = frozenset(
    {
        "_name_or_path", "architectures", "attn_implementation", "_attn_implementation", "auto_map", "bos_token_id",
        "chunk_size_feed_forward", "dtype", "eos_token_id", "id2label", "initializer_range", "label2id",
        "output_attentions", "output_hidden_states", "output_router_logits", "pad_token_id", "problem_type",
        "return_dict", "router_aux_loss_coef", "tokenizer_class", "torch_dtype", "transformers_version", "use_cache",
    }
)  # fmt: skip
"""Configuration that changes no logit. All other entries count: at worst, log-probabilities are computed again."""

_WRAPPED = ("base_layer", "original_module")
"""PEFT's names for a layer of the model that it wrapped in an adapter, or copied for training."""


def base_tensors(policy: ForestModule) -> dict[str, Tensor]:
    """Return the parameters and saved buffers of the model itself, by the names they have without an adapter."""
    return {name: tensor for name, tensor, is_adapter in _tensors(policy) if not is_adapter}


def adapter_tensors(policy: ForestModule) -> dict[str, Tensor]:
    """Return the parameters of adapters, and of copies that are trained in place of a layer."""
    return {name: tensor for name, tensor, is_adapter in _tensors(policy) if is_adapter}


def _tensors(policy: ForestModule) -> Iterator[tuple[str, Tensor, bool]]:
    """Yield name, tensor, and whether it is part of an adapter."""
    reshard(policy)  # gathered weights of a sharded module are copies
    model: nn.Module = policy.bare_model
    wrappers = {name for name, m in model.named_modules() if any(inner in m._modules for inner in _WRAPPED)}
    saved = model.state_dict().keys()
    buffers = ((name, buffer) for name, buffer in model.named_buffers() if name in saved)
    for name, tensor in [*model.named_parameters(), *buffers]:
        parts = name.split(".")
        inside = [parts[i] in _WRAPPED for i in range(1, len(parts)) if ".".join(parts[:i]) in wrappers]
        plain = ".".join(part for part in parts if part not in _WRAPPED)
        yield (plain, tensor, False) if all(inside) else (name, tensor, True)


def adapter_is_zero(policy: ForestModule) -> bool:
    """Return True if the adapters, if any, certainly change nothing: low-rank updates B·A with B = 0."""
    tensors = adapter_tensors(policy)
    is_plain = all("lora_A" in n or "lora_B" in n or "lora_embedding_" in n for n in tensors)
    return is_plain and not any(
        full_tensor(tensor).any() for name, tensor in tensors.items() if "lora_B" in name or "lora_embedding_B" in name
    )


def base_digest(policy: ForestModule) -> str:
    """Digest the model without its adapters: tensors, architecture, and the configuration that changes a logit."""
    facts = {"class": type(policy.bare_model).__name__, "config": _logit_config(policy)}
    return tensors_digest(base_tensors(policy), facts)


def _logit_config(policy: ForestModule) -> dict[str, Any]:
    """Return the configuration that changes a logit."""
    return {k: v for k, v in policy.config.to_dict().items() if k not in _NO_LOGIT and "dropout" not in k}


def model_digest(policy: ForestModule) -> str:
    """Digest the model as it is now, adapter included. With a zero adapter this is the `base_digest`."""
    base = base_digest(policy)
    if adapter_is_zero(policy):
        return base
    scaling = {n: s for n, m in policy.bare_model.named_modules() if isinstance(s := getattr(m, "scaling", None), dict)}
    return tensors_digest(adapter_tensors(policy), {"base": base, "scaling": scaling})


def model_facts(policy: ForestModule, digest: str) -> dict[str, str]:
    """Return what a run must share with the one that it continues, by names for users: a difference is then readable.

    Args:
        policy: The model before its first step, and without layers that its objective adds.
        digest: Its `model_digest`.

    Returns:
        The digest, the class, each entry of the configuration that changes a logit, the adapter with its scale and
        start, the dtype of the weights and the precision of products. A layout that deviates from separate forwards is
        named; the others are equal to rounding.
    """
    model = policy.model
    facts = {"weights and configuration": digest, "class": type(policy.bare_model).__name__}
    facts |= {f"config.{name}": str(value) for name, value in _flat(_logit_config(policy))}
    for name, adapter in getattr(model, "peft_config", {}).items():
        settings = {k: v for k, v in adapter.to_dict().items() if k not in _NO_EFFECT_OF_ADAPTER}
        facts |= {f"adapter {name}.{key}": str(value) for key, value in _flat(settings)}
    if adapters := adapter_tensors(policy):
        facts["adapter start"] = tensors_digest(adapters, {})
    dtype = str(next(policy.parameters()).dtype).removeprefix("torch.")
    facts |= {"dtype": dtype, "precision of products": policy.precision}
    if not policy.is_exact:
        facts["layout"] = f"{policy.layout}, with deviations"
    return {f"model {name}": value for name, value in facts.items()}


_NO_EFFECT_OF_ADAPTER = frozenset(
    {"base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping"}
)
"""Entries of an adapter's configuration that change no logit; the weights of the base are compared themselves."""


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of nested mappings; sets in the order of their sorted texts."""
    for name, value in sorted(values.items()):
        if isinstance(value, Mapping):
            yield from _flat({str(key): item for key, item in value.items()}, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", sorted(map(str, value)) if isinstance(value, set | frozenset) else value


def numeric_path(policy: ForestModule) -> str:
    """Describe what changes a log-probability beside weights and tokens: precision, device, and library versions.

    The layout is left out where it is verified equal to separate forwards; one that was forced and deviates is part of
    the path. Versions count to the minor number: a new one may bring other kernels (torch) or a corrected model
    (transformers). One more forward over the data costs less than a wrong number.
    """
    dtype = next(policy.parameters()).dtype
    versions = [".".join(module.__version__.split(".")[:2]) for module in (torch, transformers)]
    layout = "" if policy.is_exact else f", {policy.layout} layout with deviations"
    matmul = "" if policy.device.type == "cpu" else f" {torch.get_float32_matmul_precision()}"
    products = f"{policy.precision} weights in products" if policy.has_half_weights else f"{policy.precision} products"
    return (
        f"{str(dtype).removeprefix('torch.')} weights, {products}, {policy.device.type}{matmul},"
        f" torch {versions[0]}, transformers {versions[1]}{layout}"
    )
