"""A model whose weights are read in shards: its structure first, then the part of each tensor that this process holds.

transformers reads the shards (`from_pretrained(distributed_config=…)`): it knows how the names and shapes in files
become those of a model. What it loads has no adapter and another root than our forward. So its shards are moved to a
second model without weights, the skeleton, which gets the adapter, the forward around it and torch's `fully_shard`.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tiltlm.core.errors import ModelError
from tiltlm.distributed.sharding import Sharding
from tiltlm.distributed.wrapping import laid_out_as, with_local_part
from tiltlm.logprobs.attention.last_layer import decoder_layers
from tiltlm.logprobs.module import ForestModule

Places = dict[nn.Parameter, list[tuple[nn.Module, str]]]
"""Parameter → the modules and keys that hold it; a tied one has several."""


@dataclass(frozen=True, eq=False)
class Skeleton:
    """A transformers model without weights, and the shards that belong into it."""

    model: Any
    """Its parameters have shapes and no memory. Buffers are real."""
    shards: dict[nn.Parameter, Tensor]
    """Parameter of the model → its shard, or a whole tensor that every process has."""
    sharding: Sharding

    def replace(self, name: str, whole: Tensor) -> None:
        """Use a whole tensor, equal in all processes, as the weight of this name."""
        self.shards[self.model.get_parameter(name)] = whole

    def fill(
        self,
        policy: ForestModule,
        *,
        half: bool,
        has_new_adapter: bool,
        own_dtype: tuple[nn.Module, ...] = (),
    ) -> None:
        """Shard the module around the model, and give every parameter its shard.

        Args:
            policy: The module; parameters that are not of the skeleton, such as those of an adapter, have their values.
            half: As for `Sharding.divide`.
            has_new_adapter: What PEFT trains in place of a layer starts with the weights of the layer.
            own_dtype: As for `Sharding.divide`.
        """
        if has_new_adapter:
            self._find_copies(policy)
        places = _places(policy, self.shards)
        empty = {own: nn.Parameter(own.to("meta"), own.requires_grad) for own in places}
        for own, found in places.items():
            for module, key in found:
                module._parameters[key] = empty[own]
        self.sharding.divide(policy, half=half, own_dtype=own_dtype)
        values: dict[str, nn.Parameter] = {}
        names = {module: prefix for prefix, module in policy.named_modules()}
        for own, found in places.items():
            divided = found[0][0]._parameters[found[0][1]]
            value = nn.Parameter(self._shard(self.shards.pop(own), divided), own.requires_grad)
            values |= {f"{names[module]}.{key}": value for module, key in found}
        policy.load_state_dict(values, strict=False, assign=True)
        policy.computes_on = self.sharding.ranks.device
        policy.has_half_weights = half

    def _shard(self, value: Tensor, divided: Any) -> DTensor:
        """Return a shard or a whole tensor as the sharded tensor that belongs into the place of `divided`."""
        if isinstance(value, DTensor):
            return with_local_part(value.to_local(), divided)
        sharded: Any = laid_out_as(value.to(divided.dtype), divided)
        return with_local_part(sharded.to_local().clone(), divided)

    def _find_copies(self, policy: nn.Module) -> None:
        """Find the copies of layers that PEFT trains in place of the layers, and give them the same shards."""
        from peft.utils.other import ModulesToSaveWrapper

        for wrapper in policy.modules():
            if isinstance(wrapper, ModulesToSaveWrapper):
                for trained in wrapper.modules_to_save.values():
                    for name, parameter in trained.named_parameters():
                        value = self.shards[wrapper.original_module.get_parameter(name)]
                        self.shards[parameter] = value.clone()


def load_skeleton(
    kind: Any, path: str, config: Any, sharding: Sharding, **keywords: Any
) -> tuple[Skeleton, dict[str, Any]]:
    """Read the shards of this process, and return them with a model that has none; and transformers' loading report.

    Args:
        kind: An auto class of transformers.
        path: A model folder or a name on the hub.
        config: The configuration of the model, which the skeleton gets.
        sharding: The processes that share the model.
        keywords: Further arguments of `from_pretrained`.

    Raises:
        ModelError: a tensor of this model cannot be sharded.
    """
    from transformers.distributed.configuration_utils import DistributedConfig

    dtype, code = keywords["dtype"], keywords["trust_remote_code"]
    with torch.device("meta"):
        model = kind.from_config(config, dtype=dtype, trust_remote_code=code)
    layers = {id(layer) for layer in decoder_layers(model)}
    named = [name for name, module in model.named_modules() if id(module) in layers]
    plan = DistributedConfig(
        fsdp_size=sharding.shard_size,
        dp_replicate_size=sharding.num_copies,
        fsdp_plan={re.sub(r"\.\d+(?=\.|$)", ".*", name): "free_full_weight" for name in named},
    )
    source, info = kind.from_pretrained(path, distributed_config=plan, output_loading_info=True, **keywords)
    shards = _move_tensors(source, model)
    model.config.name_or_path = source.config.name_or_path
    if hasattr(source, "generation_config"):
        model.generation_config = source.generation_config
    model._weight_conversions = getattr(source, "_weight_conversions", None)
    return Skeleton(model.eval(), shards, sharding), info


def _move_tensors(source: Any, model: Any) -> dict[nn.Parameter, Tensor]:
    """Give the model empty parameters and real buffers, and return the shards of `source` by these parameters."""
    empty: dict[nn.Parameter, nn.Parameter] = {}
    for name, parameter in source.named_parameters(remove_duplicate=False):
        if parameter not in empty:  # tied ones are one parameter
            if not isinstance(parameter.data, DTensor):
                raise ModelError(
                    f"{type(source).__name__}: {name} was not sharded; use training.parallel=replicate",
                    code="not_supported",
                    key="training.parallel",
                )
            numbers = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
            empty[parameter] = nn.Parameter(numbers, parameter.requires_grad)
        _module(model, name)._parameters[name.rpartition(".")[2]] = empty[parameter]
    for name, buffer in source.named_buffers(remove_duplicate=False):
        _module(model, name)._buffers[name.rpartition(".")[2]] = buffer
    return {own: parameter.detach() for parameter, own in empty.items()}


def _module(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _places(policy: nn.Module, parameters: dict[nn.Parameter, Tensor]) -> Places:
    """Return the modules and keys that hold each of these parameters; a tied one has several."""
    found: Places = {}
    for module in policy.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None and parameter in parameters:
                found.setdefault(parameter, []).append((module, key))
    return found
