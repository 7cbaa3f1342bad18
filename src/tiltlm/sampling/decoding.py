"""The decoding loop: many rows at once, each prompt read once, finished rows dropped when they are many.

Prompts of different lengths are in one batch, right-aligned with a mask and positions, where `pads_exactly` finds that
this does not change the model's results. For other models a batch has prompts of one length, without mask.
"""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tiltlm.core.example import TokenIds
from tiltlm.logprobs import PolicyModule
from tiltlm.sampling.cache import make_roomy
from tiltlm.sampling.drawing import SamplingSettings, draw

log = logging.getLogger(__name__)

InStep = Callable[[bool], bool]

LOOK_EVERY = {"cpu": 1, "cuda": 8}
"""Steps between two checks of which rows have ended: on a device each check waits for it."""


def alone(going: bool) -> bool:
    """Return whether rows go on where no other process has any."""
    return going


@dataclass
class Decoder:
    """Rows that a model continues: `select` drops and repeats rows, `step` appends a token to each."""

    policy: PolicyModule
    token_ids: Int[Tensor, "D T"]
    """The tokens read so far; current only where there is no cache."""
    cache: Cache | None
    """Keys and values; None for a model without a cache that can repeat rows."""
    mask: Bool[Tensor, "D T"] | None
    """False where a row is padding; None means no padding."""

    @classmethod
    def prefill(cls, policy: PolicyModule, prompts: Sequence[TokenIds]) -> tuple["Decoder", Float[Tensor, "D V"]]:
        """Read the prompts, and return the logits of the token after them."""
        width = max(len(p) for p in prompts)
        device = policy.device
        token_ids = torch.from_numpy(np.stack([np.pad(p, (width - len(p), 0)) for p in prompts]).astype(np.int64))
        lengths = torch.tensor([len(p) for p in prompts])
        mask = (torch.arange(width) >= width - lengths[:, None]).to(device) if int(lengths.min()) < width else None
        token_ids = token_ids.to(device)
        output = _forward(policy, token_ids, **_placed(mask, width), use_cache=True)
        cache = getattr(output, _cache_name(policy), None)
        if not isinstance(cache, DynamicCache):
            log.warning(
                "sampling: %s has no cache whose rows can be repeated; every sequence is read again for each token, so"
                " sampling is slow",
                type(policy.bare_model).__name__,
                extra={"event": "sampling_without_cache", "model": type(policy.bare_model).__name__},
            )
            cache = None
        else:
            make_roomy(cache)
        return cls(policy, token_ids, cache, mask), output.logits[:, -1]

    def select(self, rows: Int[Tensor, " E"]) -> None:
        """Keep these rows, in this order; an index may repeat."""
        if self.mask is not None:
            self.mask = self.mask.index_select(0, rows)
        if self.cache is None:
            self.token_ids = self.token_ids.index_select(0, rows)
        else:
            self.cache.reorder_cache(rows)  # type: ignore[arg-type]

    def step(self, tokens: Int[Tensor, " D"]) -> Float[Tensor, "D V"]:
        """Append one token to each row, and return the logits of the token after it."""
        if self.mask is not None:
            self.mask = nn.functional.pad(self.mask, (0, 1), value=True)
        if self.cache is None:
            self.token_ids = torch.cat([self.token_ids, tokens[:, None]], dim=1)
            output = _forward(self.policy, self.token_ids, **_placed(self.mask), use_cache=False)
        else:
            keywords = {**_placed(self.mask, 1), _cache_name(self.policy): self.cache}
            output = _forward(self.policy, tokens[:, None], **keywords, use_cache=True)
        logits: Tensor = output.logits
        return logits[:, -1]


@dataclass(frozen=True, eq=False)
class Mixture:
    """Another model whose logits are mixed with the policy's, token by token: softmax((1 − share)·l + share·l_other).

    It is the geometric mixture π^(1 − share) π_other^share of each token's distribution, normalised per token, not per
    response.
    """

    module: PolicyModule
    """The other model; it may be the policy's own module, with other weights in place."""
    in_place: Callable[[], AbstractContextManager[None]]
    """A context manager inside which `module` has the other model's weights."""
    share: float
    """In (0, 1]; 1 is the other model itself."""

    @property
    def is_alone(self) -> bool:
        """True if the policy's logits are not read."""
        return self.share == 1


@dataclass
class MixedDecoder:
    """Two models that continue the same rows."""

    own: Decoder
    other: Decoder
    mixture: Mixture

    @classmethod
    def prefill(
        cls, policy: PolicyModule, mixture: Mixture, prompts: Sequence[TokenIds]
    ) -> tuple["MixedDecoder", Float[Tensor, "D V"]]:
        """Read the prompts with both models, and return the mixed logits of the token after them."""
        own, logits = Decoder.prefill(policy, prompts)
        with mixture.in_place():
            other, of_other = Decoder.prefill(mixture.module, prompts)
        found = cls(own, other, mixture)
        return found, found._mixed(logits, of_other)

    def select(self, rows: Int[Tensor, " E"]) -> None:
        """Keep these rows, in this order; an index may repeat."""
        self.own.select(rows)
        self.other.select(rows)

    def step(self, tokens: Int[Tensor, " D"]) -> Float[Tensor, "D V"]:
        """Append one token to each row, and return the mixed logits of the token after it."""
        logits = self.own.step(tokens)
        with self.mixture.in_place():
            of_other = self.other.step(tokens)
        return self._mixed(logits, of_other)

    def _mixed(self, logits: Float[Tensor, "D V"], of_other: Float[Tensor, "D V"]) -> Float[Tensor, "D V"]:
        share = self.mixture.share
        return (1 - share) * logits.float().log_softmax(-1) + share * of_other.float().log_softmax(-1)


def _placed(mask: Bool[Tensor, "D T"] | None, num_new: int | None = None) -> dict[str, Tensor]:
    """Return mask and positions of the last `num_new` tokens as keywords of a model call; none without padding."""
    if mask is None:
        return {}
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return {"attention_mask": mask.long(), "position_ids": positions[:, -(num_new or mask.shape[1]) :]}


def _keywords(policy: PolicyModule) -> Mapping[str, Any]:
    """Return the keywords of the transformers model; the signature of an adapter's wrapper does not name them."""
    return inspect.signature(policy.bare_model.forward).parameters


def _cache_name(policy: PolicyModule) -> str:
    """Return the name of the cache in the model's calls and outputs; transformers 5.24 renamed it."""
    return "cache" if "cache" in _keywords(policy) else "past_key_values"


def _forward(policy: PolicyModule, token_ids: Int[Tensor, "D T"], **keywords: Any) -> Any:
    """Call the model; where it has the options, compute logits of the last position only, and none of its routers."""
    options: dict[str, Any] = {}
    if "logits_to_keep" in _keywords(policy):
        options["logits_to_keep"] = 1
    if getattr(policy.config.get_text_config(), "output_router_logits", False):
        options["output_router_logits"] = False  # the loss of the routers needs a mask of one token a column
    return policy.language_model(input_ids=token_ids, **keywords, **options)


def pads_exactly(policy: PolicyModule, prompts: Sequence[TokenIds]) -> bool:
    """Return whether the shortest prompt has the same next-token distributions with padding as without.

    The padded batch contains the longest prompt too. A model with recurrent states or convolutions is refused: they
    would read the padding.
    """
    if not {"attention_mask", "position_ids"} <= set(_keywords(policy)):
        return False
    shortest, longest = min(prompts, key=len), max(prompts, key=len)
    single, expected = Decoder.prefill(policy, [shortest])
    padded, found = Decoder.prefill(policy, [shortest, longest])
    if padded.cache is None or any(
        not isinstance(layer, (DynamicLayer, DynamicSlidingWindowLayer)) for layer in padded.cache.layers
    ):
        return False
    token = expected.argmax(-1)
    pairs = [(expected, found[:1]), (single.step(token), padded.step(token.repeat(2))[:1])]
    tolerance = 1e-3 if expected.dtype in (torch.float32, torch.float64) else 0.1
    return all(bool((a.log_softmax(-1) - b.log_softmax(-1)).abs().max() < tolerance) for a, b in pairs)


@dataclass(frozen=True, eq=False)
class DecodedBatch:
    """The draws of D rows, at most T tokens each; entries after `num_tokens` mean nothing."""

    tokens: Int[Tensor, "D T"]
    logps: Float[Tensor, "D T"]
    behaviour_logps: Float[Tensor, "D T"]
    num_tokens: Int[Tensor, " D"]
    ended: Bool[Tensor, " D"]

    @classmethod
    def empty(cls, num_rows: int, max_tokens: int, device: torch.device) -> "DecodedBatch":
        """Allocate the batch with zeros."""

        def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls(
            tokens=zeros(num_rows, max_tokens, dtype=torch.int32),
            logps=zeros(num_rows, max_tokens, dtype=torch.float32),
            behaviour_logps=zeros(num_rows, max_tokens, dtype=torch.float32),
            num_tokens=zeros(num_rows, dtype=torch.int64),
            ended=zeros(num_rows, dtype=torch.bool),
        )


def decode(
    policy: PolicyModule,
    prompts: Sequence[TokenIds],
    uniform: Float[Tensor, "D T"],
    end_token_ids: Int[Tensor, " E"],
    settings: SamplingSettings,
    progress: Callable[[int], None] | None = None,
    mixture: Mixture | None = None,
    in_step: InStep = alone,
    idle: bool = False,
) -> DecodedBatch:
    """Draw up to T tokens for each of D rows.

    Args:
        policy: A causal language model, inside `stock_attention`.
        prompts: Token ids of P prompts; D is a multiple of P. Different lengths need a model that `pads_exactly`.
        uniform: Numbers in [0, 1). Row r continues prompt r // (D / P) and uses uniform[r].
        end_token_ids: Tokens that end a response.
        settings: Temperature and truncation.
        progress: Called with the number of the D·T tokens that are done, as decoding goes on. A row that has ended has
            all its T tokens done.
        mixture: Another model whose logits are mixed in; log-probabilities are then those of the mixture.
        in_step: Function from whether rows of this process go on to whether rows of any process do. A sharded model
            must run equally often in all processes, so one whose rows have ended repeats one of them until all are
            done.
        idle: The rows are drawn for other processes only, and nobody reads them.
    """
    device, (num_rows, max_tokens) = uniform.device, uniform.shape
    rows = torch.arange(num_rows, device=device)
    prompt = rows // (num_rows // len(prompts))
    decoder: Decoder | MixedDecoder
    if mixture is None:
        decoder, logits = Decoder.prefill(policy, prompts)
    else:
        decoder, logits = MixedDecoder.prefill(policy, mixture, prompts)
    decoder.select(prompt)
    logits = logits.index_select(0, prompt)
    draws, going = DecodedBatch.empty(num_rows, max_tokens, device), torch.full_like(rows, not idle, dtype=torch.bool)
    look_every = LOOK_EVERY.get(device.type, 1)
    for step in range(max_tokens):
        drawn = draw(logits, uniform[rows, step], settings)
        ends = torch.isin(drawn.tokens, end_token_ids)
        draws.tokens[rows, step] = drawn.tokens.to(draws.tokens.dtype)
        draws.logps[rows, step] = drawn.logps
        draws.behaviour_logps[rows, step] = drawn.behaviour_logps
        draws.num_tokens[rows] += going
        draws.ended[rows] |= going & ends
        going = going & ~ends
        if step == max_tokens - 1:
            break
        tokens = drawn.tokens
        if (step + 1) % look_every == 0:
            keep = going.nonzero()[:, 0]
            if not in_step(len(keep) > 0):
                break
            if progress is not None:
                progress(num_rows * max_tokens - len(keep) * (max_tokens - step - 1))
            keep = keep if len(keep) else torch.zeros_like(rows[:1])
            if len(keep) <= 0.75 * len(rows):  # it copies the cache, so not for every row that ends
                decoder.select(keep)
                rows, tokens, going = rows[keep], tokens[keep], going[keep]
        logits = decoder.step(tokens)
    return draws
