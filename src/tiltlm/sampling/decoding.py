"""The decoding loop: many rows at once, each prompt read once, finished rows dropped as they become many.

Rows of a batch stand at the same position: a prompt longer than the shortest of its batch feeds its remaining tokens
while the others already draw. So there is no padding and no mask, and every model is exact as it is.
"""

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from tiltlm.core.example import TokenIds
from tiltlm.sampling.cache import make_roomy
from tiltlm.sampling.drawing import Drawn, SamplingSettings, draw

log = logging.getLogger(__name__)


@dataclass
class Decoder:
    """Rows of equal length that a model continues; `select` drops and repeats rows, `step` appends a token to each."""

    model: nn.Module
    token_ids: Int[Tensor, "D T"]
    """What has been read; kept up to date only where there is no cache."""
    cache: Cache | None

    @classmethod
    def prefill(cls, model: nn.Module, token_ids: Int[Tensor, "D T"]) -> tuple["Decoder", Float[Tensor, "D V"]]:
        """Read the rows, and return the logits of the token after them."""
        output = _forward(model, token_ids, use_cache=True)
        cache = getattr(output, "past_key_values", None)
        if not isinstance(cache, DynamicCache):
            log.warning(
                "sampling: %s has no cache whose rows can be repeated; every sequence is read again for each token,"
                " which is slow",
                type(_inner(model)).__name__,
            )
            cache = None
        else:
            make_roomy(cache)
        return cls(model, token_ids, cache), output.logits[:, -1]

    def select(self, rows: Int[Tensor, " E"]) -> None:
        """Go on with these rows, in this order; an index may repeat."""
        if self.cache is None:
            self.token_ids = self.token_ids.index_select(0, rows)
        else:
            self.cache.reorder_cache(rows)  # type: ignore[arg-type]

    def step(self, tokens: Int[Tensor, " D"]) -> Float[Tensor, "D V"]:
        """Append one token to each row, and return the logits of the token after it."""
        if self.cache is None:
            self.token_ids = torch.cat([self.token_ids, tokens[:, None]], dim=1)
            output = _forward(self.model, self.token_ids, use_cache=False)
        else:
            output = _forward(self.model, tokens[:, None], use_cache=True, past_key_values=self.cache)
        logits: Tensor = output.logits
        return logits[:, -1]


def _inner(model: nn.Module) -> Any:
    """The architecture itself: an adapter's wrapper passes keywords on and does not name them."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def _forward(model: nn.Module, token_ids: Int[Tensor, "D T"], **cache: Any) -> Any:
    """The model's own forward, with logits of the last position only where it can."""
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(_inner(model).forward).parameters else {}
    return model(input_ids=token_ids, **cache, **last)


@dataclass(frozen=True, eq=False)
class Draws:
    """What D rows drew, at most T tokens each; beyond `num_tokens` there is nothing."""

    tokens: Int[Tensor, "D T"]
    logps: Float[Tensor, "D T"]
    behaviour_logps: Float[Tensor, "D T"]
    num_tokens: Int[Tensor, " D"]
    ended: Bool[Tensor, " D"]

    @classmethod
    def empty(cls, num_rows: int, max_tokens: int, device: torch.device) -> "Draws":
        def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls(
            tokens=zeros(num_rows, max_tokens, dtype=torch.int32),
            logps=zeros(num_rows, max_tokens, dtype=torch.float32),
            behaviour_logps=zeros(num_rows, max_tokens, dtype=torch.float32),
            num_tokens=zeros(num_rows, dtype=torch.int64),
            ended=zeros(num_rows, dtype=torch.bool),
        )

    def record(self, rows: Int[Tensor, " E"], at: Int[Tensor, " E"], drawn: Drawn, ends: Bool[Tensor, " E"]) -> None:
        """Row `rows[e]` drew its token number `at[e]`."""
        self.tokens[rows, at] = drawn.tokens.to(self.tokens.dtype)
        self.logps[rows, at] = drawn.logps
        self.behaviour_logps[rows, at] = drawn.behaviour_logps
        self.num_tokens[rows] = at + 1
        self.ended[rows] = ends


def decode(
    model: nn.Module,
    prompts: Sequence[TokenIds],
    uniform: Float[Tensor, "D T"],
    end_token_ids: Int[Tensor, " E"],
    settings: SamplingSettings,
) -> Draws:
    """Draw up to T tokens for each of D rows; row r continues prompt r // (D / P) and uses the numbers uniform[r]."""
    device, (num_rows, max_tokens) = uniform.device, uniform.shape
    shortest = min(len(prompt) for prompt in prompts)
    rows = torch.arange(num_rows, device=device)
    prompt = rows // (num_rows // len(prompts))
    unread, num_unread = _unread(prompts, shortest, device)
    decoder, logits = Decoder.prefill(model, _stack([p[:shortest] for p in prompts]).to(device))
    decoder.select(prompt)
    logits, unread, num_unread = (t.index_select(0, prompt) for t in (logits, unread, num_unread))
    draws, going, step = Draws.empty(num_rows, max_tokens, device), torch.ones_like(rows, dtype=torch.bool), 0
    while True:
        at = step - num_unread  # which of its own tokens a row draws; negative while it still reads its prompt
        drawn = draw(logits, uniform[rows, at.clamp(0, max_tokens - 1)], settings)
        ends = torch.isin(drawn.tokens, end_token_ids)
        new = (going & (at >= 0)).nonzero()[:, 0]
        draws.record(rows[new], at[new], Drawn(*(t[new] for t in drawn)), ends[new])
        going &= (at < 0) | ~(ends | (at == max_tokens - 1))
        tokens = torch.where(at < 0, unread[:, min(step, unread.shape[1] - 1)], drawn.tokens)
        num_going = int(going.sum())
        if num_going == 0:
            return draws
        if num_going <= 0.75 * len(rows):  # a copy of the cache: not for every row that ends
            keep = going.nonzero()[:, 0]
            decoder.select(keep)
            rows, tokens, unread, num_unread, going = (t[keep] for t in (rows, tokens, unread, num_unread, going))
        logits = decoder.step(tokens)
        step += 1


def _unread(
    prompts: Sequence[TokenIds], read: int, device: torch.device
) -> tuple[Int[Tensor, "P U"], Int[Tensor, " P"]]:
    """The tokens of each prompt after the first `read`, padded with zeros that nobody reads, and how many they are."""
    counts = [len(p) - read for p in prompts]
    padded = [np.pad(p[read:], (0, max(1, *counts) - c)) for p, c in zip(prompts, counts, strict=True)]
    return _stack(padded).to(device), torch.tensor(counts, device=device)


def _stack(arrays: Sequence[TokenIds]) -> Int[Tensor, "P T"]:
    return torch.from_numpy(np.stack(arrays).astype(np.int64))
