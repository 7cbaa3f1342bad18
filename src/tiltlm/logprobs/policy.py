"""`PolicyModule`: the one forward, from a forest to one log-probability per scored token.

It is what data parallelism wraps and what trainer, reference, scoring and evaluation call, always through the wrapped
root: a call past the wrapper leaves ranks unsynchronised without a word. Saving and `generate` go to the child.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tiltlm.core.errors import ModelError
from tiltlm.core.forest import Forest
from tiltlm.core.logps import ResponseLogps
from tiltlm.logprobs import attention
from tiltlm.logprobs.expand import Inputs, LayoutName, arrange
from tiltlm.logprobs.head import Head, find_head, select_logps
from tiltlm.logprobs.precision import Precision


class PolicyModule(nn.Module):
    """A causal language model as a function from forests to log-probabilities."""

    def __init__(
        self, model: Any, layout: LayoutName = "shared", precision: Precision = "float32", head: Head | None = None
    ) -> None:
        """Wrap a loaded model; its attention implementation is switched to what the layout needs.

        Args:
            model: A transformers causal language model, or a PEFT model around one.
            layout: `shared`: each prompt once. `packed`: one row, prompts repeated. `padded`: a batch, stock attention.
            precision: `float32`: the dtype of the weights, no autocast. `bf16`: matrix products under autocast.
            head: How hidden states become log-probabilities; None: found by a probe.
        """
        super().__init__()
        self.model = model
        self.layout = layout
        self.precision = precision
        self.max_positions = exact_positions(self.config)
        self._stock = stock_attention_name(self.causal_lm)
        self.causal_lm.set_attn_implementation(self._stock)
        self.head = head or find_head(self.causal_lm)
        if layout != "padded":
            self.causal_lm.set_attn_implementation(attention.NAME)

    @property
    def causal_lm(self) -> Any:
        """The transformers model itself, without PEFT around it."""
        return causal_lm_of(self.model)

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def config(self) -> Any:
        return self.causal_lm.config

    @property
    def _no_split_modules(self) -> Any:
        return self.causal_lm._no_split_modules

    def tie_weights(self, *args: Any, **kwargs: Any) -> Any:
        return self.causal_lm.tie_weights(*args, **kwargs)

    def get_input_embeddings(self) -> Any:
        return self.causal_lm.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        return self.causal_lm.get_output_embeddings()

    def forward(self, forest: Forest) -> ResponseLogps:
        """Log-probability of every scored token, float32 (float64 for a float64 model), with gradient.

        Values and gradients are those of separate, unpadded forwards.
        """
        forest = forest.to(self.device)
        self._refuse_too_long(forest)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            token_logps = self.logps_of(arrange(forest, self.layout), forest.targets)
        return ResponseLogps(token_logps, forest.response, forest.num_tokens)

    def logps_of(self, inputs: Inputs, targets: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
        """The forward on arranged inputs. For `forward` and the self-check; everyone else calls the module."""
        if self.head.route == "model":
            return own_logit_logps(self.causal_lm, inputs, targets)
        hidden = self.causal_lm.base_model(**inputs.keywords, use_cache=False)[0]
        # `index_select`: the backward of plain indexing is not deterministic on a CPU once a row repeats.
        rows = hidden.flatten(0, 1).index_select(0, inputs.predicts)
        return self.head.logps(rows, self.get_output_embeddings(), targets)

    def _refuse_too_long(self, forest: Forest) -> None:
        pairs = zip(forest.prompt_lengths, forest.branch_lengths, strict=True)
        longest = max(prompt + max(branches, default=0) for prompt, branches in pairs)
        if self.max_positions is not None and longest > self.max_positions:
            raise ModelError(
                f"a sequence of {longest} tokens, and {type(self.causal_lm).__name__} places {self.max_positions} "
                "exactly; shorten prompts and responses (data.max_length)"
            )

    @contextmanager
    def stock_attention(self) -> Iterator[None]:
        """Inside, the model has its stock attention: for `generate`, decoding with a cache, saving."""
        before = self.config._attn_implementation
        self.causal_lm.set_attn_implementation(self._stock)
        try:
            yield
        finally:
            self.causal_lm.set_attn_implementation(before)

    @contextmanager
    def adapters_disabled(self) -> Iterator[None]:
        """Inside, the model is its base, without adapters.

        Raises:
            ModelError: the model has none.
        """
        if not hasattr(self.model, "peft_config"):
            raise ModelError(
                "the model has no adapter to switch off; a reference `base` needs one: name a path instead"
            )
        with self.model.disable_adapter():
            yield


def causal_lm_of(model: Any) -> Any:
    """The transformers model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def stock_attention_name(model: Any) -> str:
    """The attention a model runs with outside packed rows: as loaded, but explicit where scores are capped.

    The fused kernels of transformers do not cap scores.
    """
    name = model.config._attn_implementation
    if name == attention.NAME or name is None:
        name = "sdpa" if model._supports_sdpa else "eager"
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if capped and name == "sdpa" else name


def exact_positions(config: Any) -> int | None:
    """How many positions separate and packed rows place alike; None: no limit.

    Learned positions end with their table. Rotary embeddings of kind `dynamic` or `longrope` change for the whole row
    once its longest sequence is longer than the original length: a long neighbour would change a short one.
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
    return min((limit for limit in limits if limit), default=None)


def own_logit_logps(model: Any, inputs: Inputs, targets: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
    """Log-probabilities through the model's own logits, at the rows that predict: for heads of unknown shape.

    Rows are named once each; a 1-D index serves every model that takes one, and repeats follow afterwards.
    """
    rows, repeat = torch.unique(inputs.predicts, return_inverse=True)
    keep = {"logits_to_keep": rows} if _keeps_rows(model, inputs) else {}
    logits = model(**inputs.keywords, use_cache=False, **keep).logits.flatten(0, 1)
    if not keep:
        logits = logits.index_select(0, rows)
    return select_logps(logits.index_select(0, repeat), targets)


def _keeps_rows(model: Any, inputs: Inputs) -> bool:
    """A 1-D index names columns, which are rows of the flattened batch only where the batch is one row."""
    one_row = len(inputs.keywords["input_ids"]) == 1
    return one_row and "logits_to_keep" in inspect.signature(model.forward).parameters
