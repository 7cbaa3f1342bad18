"""`ForestModule`: a loaded transformers model that reads forests, with any head.

It holds what policies and reward models share: the layout of the model call, its attention, precision and limits. Data
parallelism wraps this module. Always call the wrapped root: a call to the module inside leaves ranks unsynchronised
without any error. Saving and `generate` use the child `model`.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import nn

from tiltlm.core.errors import ModelError
from tiltlm.core.forest import Forest
from tiltlm.distributed.wrapping import reshard
from tiltlm.logprobs.attention import hook as attention
from tiltlm.logprobs.attention.compiling import compile_layers
from tiltlm.logprobs.attention.last_layer import trim_last_layer
from tiltlm.logprobs.inputs import Inputs, arrange
from tiltlm.logprobs.layout_name import LayoutName
from tiltlm.logprobs.precision import Precision


class ForestModule(nn.Module):
    """A transformers model whose body runs on forests. Subclasses are final and define what its head reads."""

    forward_methods: ClassVar[tuple[str, ...]] = ("attention_routes",)
    """Methods beside `forward` that run the model. Sharding gathers the weights of the root for them too."""
    computes_on: torch.device | None = None
    """Device of the forward of a sharded module, whose shards may lie elsewhere."""
    has_half_weights = False
    """True if a sharded module gathers its weights in bfloat16, so that nothing is cast in the forward."""
    is_exact = True
    """False for a layout that was forced although the self-check found that it deviates from separate forwards."""

    def __init__(self, model: Any, layout: LayoutName, precision: Precision, trims: bool) -> None:
        """Wrap a loaded model with its stock attention; `_lay_out` sets the attention that the layout needs."""
        super().__init__()
        self.model = model
        self.layout = layout
        self.trims = trims
        self.precision = precision
        self.max_positions = exact_positions(self.config)
        self._stock = stock_attention_name(self.bare_model)
        self._compiler: str | None = None
        self.bare_model.set_attn_implementation(self._stock)

    def _lay_out(self) -> None:
        if self.layout != "padded":
            self.bare_model.set_attn_implementation(attention.NAME)
        trim_last_layer(self.bare_model, self.trims and self.layout == "shared")

    def compile_layers(self, backend: str = "inductor") -> None:
        """Compile the decoder layers (`compiling.py`); a copy of this module compiles its own layers."""
        self._compiler = backend
        compile_layers(self.bare_model, backend)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy; compile its layers where the original's were compiled."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if self._compiler is not None:
            self.compile_layers(self._compiler)

    @property
    def bare_model(self) -> Any:
        """The transformers model itself, without PEFT around it."""
        return bare_model_of(self.model)

    @property
    def device(self) -> torch.device:
        """The device of the forward."""
        device: torch.device = self.computes_on or next(self.model.parameters()).device
        return device

    @property
    def config(self) -> Any:
        """The configuration of the transformers model."""
        return self.bare_model.config

    @property
    def _no_split_modules(self) -> Any:
        return self.bare_model._no_split_modules

    def tie_weights(self, *args: Any, **kwargs: Any) -> Any:
        """Tie the weights of the transformers model, as the wrappers of data parallelism ask for."""
        return self.bare_model.tie_weights(*args, **kwargs)

    def get_input_embeddings(self) -> Any:
        """Return the input embeddings of the transformers model."""
        return self.bare_model.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """Return the output head of the transformers model."""
        return self.bare_model.get_output_embeddings()

    def _autocast(self) -> torch.autocast:
        enabled = self.precision == "bf16" and not self.has_half_weights
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _body(self, inputs: Inputs, **options: bool) -> Any:
        """Run the model without its head; `options` are its own `output_…` options."""
        return self.bare_model.base_model(**inputs.keywords, use_cache=False, **options)

    @torch.no_grad()
    def attention_routes(self, forest: Forest) -> list[str]:
        """Return the routes that compute attention in a forward, with reasons; empty for stock attention."""
        if self.layout == "padded":
            return []
        inputs, record = arrange(forest.to(self.device), self.layout), attention.AttentionRecord()
        inputs.keywords["attention_record"] = record
        with evaluating(self), self._autocast():
            self._body(inputs)
        return [str(route) for route in record.routes]

    def _refuse_too_long(self, forest: Forest) -> None:
        pairs = zip(forest.prompt_lengths, forest.branch_lengths, strict=True)
        longest = max(prompt + max(branches, default=0) for prompt, branches in pairs)
        if self.max_positions is not None and longest > self.max_positions:
            raise ModelError(
                f"a sequence has {longest} tokens, and {type(self.bare_model).__name__} has {self.max_positions} "
                "exact positions; shorten prompts and responses (data.max_length)",
                code="too_long",
                key="data.max_length",
            )

    @contextmanager
    def stock_attention(self) -> Iterator[None]:
        """Use the model's stock attention, uncompiled, inside the block: for `generate` and decoding with a cache."""
        before = self.config._attn_implementation
        self.bare_model.set_attn_implementation(self._stock)
        try:
            with torch.compiler.set_stance("force_eager") if self._compiler is not None else nullcontext():
                yield
        finally:
            self.bare_model.set_attn_implementation(before)

    @contextmanager
    def adapters_disabled(self) -> Iterator[None]:
        """Disable the adapters inside the block, so that the model is its base.

        Raises:
            ModelError: the model has no adapter.
        """
        if not hasattr(self.model, "peft_config"):
            raise ModelError(
                "the model has no adapter to disable; reference.name=base needs one. Name a model folder instead",
                code="no_adapter",
            )
        with self.model.disable_adapter():
            yield


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Set evaluation mode inside the block, and restore the mode of every submodule afterwards.

    It is for forwards that are not part of training: the reference, sampling, measuring. After the block the parameters
    of a sharded module are its shards.
    """
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        yield
    finally:
        reshard(module)
        for m in training:
            m.training = True


def bare_model_of(model: Any) -> Any:
    """Return the transformers model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def stock_attention_name(model: Any) -> str:
    """Return the attention of a model outside packed rows: as loaded, but `eager` where scores are capped.

    The fused kernels of transformers do not cap scores.
    """
    name = model.config._attn_implementation
    if name == attention.NAME or name is None:
        name = "sdpa" if model._supports_sdpa else "eager"
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if capped and name == "sdpa" else name


def exact_positions(config: Any) -> int | None:
    """Return the number of positions that are the same in separate and packed rows; None means no limit.

    Learned positions end with their table. Rotary embeddings of kind `dynamic` or `longrope` change for the whole row
    when its longest sequence exceeds the original length. There a long sequence would change a short one.
    """
    config = config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(r for r in rope.values() if isinstance(r, dict))]
    limits = [
        r.get("original_max_position_embeddings") or config.max_position_embeddings
        for r in kinds
        if r.get("rope_type") in ("dynamic", "longrope")
    ]
    if not rope:
        limits.append(getattr(config, "n_positions", None) or getattr(config, "max_position_embeddings", None))
    return min((limit for limit in limits if limit and limit > 0), default=None)
