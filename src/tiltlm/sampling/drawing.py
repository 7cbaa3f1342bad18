"""The draw of a token from logits and a uniform number: temperature, truncation, inverse distribution function.

Each uniform number belongs to a prompt, a sample and a position, and is passed in. So the samples of a prompt do not
depend on the rest of the batch, and two policies sampled with one seed use the same numbers.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tiltlm.core.checks import not_negative, prefix_errors
from tiltlm.core.errors import ConfigError
from tiltlm.core.example import TokenIds

BLOCK = 128
"""Tokens of the vocabulary in one block: the draw finds a block by its sum first, and then the token in it."""


@dataclass(frozen=True)
class SamplingSettings:
    """Settings of sampling. The defaults sample the policy itself: temperature 1 and no truncation."""

    max_new_tokens: int = 128
    """Most tokens of a response; one that has not ended by then is cut."""
    temperature: float = 1.0
    """Divisor of the logits; 0 takes the most probable token."""
    top_k: int | None = None
    """Draw only among the k most probable tokens (more where others are as probable as the k-th)."""
    top_p: float | None = None
    """Draw only among the most probable tokens, as few as reach this probability together, after `top_k`."""
    min_p: float | None = None
    """Draw only among tokens with at least this share of the largest probability, after `temperature` and `top_p`."""
    max_rows: int = 1024
    """Responses decoded at the same time; fewer need less memory. `tiltlm sample` takes 128 where none is given, and
    writes after each such chunk."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "max_rows", "top_k"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(
                    f"sampling.{name} is {value}; it must be at least 1", code="not_positive", key=f"sampling.{name}"
                )
        with prefix_errors("sampling"):
            not_negative(temperature=float(self.temperature))
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ConfigError(
                    f"sampling.{name} is {value}; it must be above 0 and at most 1",
                    code="out_of_range",
                    key=f"sampling.{name}",
                )
        if self.temperature == 0 and self.truncation:
            raise ConfigError(
                f"sampling.temperature is 0, so {' and '.join(self.truncation)} have no effect; remove them",
                code="no_effect",
                key=f"sampling.{next(iter(self.truncation))}",
            )

    @property
    def truncation(self) -> dict[str, float]:
        """The settings that remove tokens, by name; empty if none does."""
        given = {"top_k": self.top_k, "top_p": self.top_p, "min_p": self.min_p}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def is_exact(self) -> bool:
        """True where draws have the policy's own distribution."""
        return self.temperature == 1 and not self.truncation


class Drawn(NamedTuple):
    """One token for each of D rows, with its log-probability in nats, float32."""

    tokens: Int[Tensor, " D"]
    logps: Float[Tensor, " D"]
    """Log-probability under the policy itself: temperature 1, whole vocabulary."""
    behaviour_logps: Float[Tensor, " D"]
    """Log-probability under the distribution that the token was drawn from."""


def draw(logits: Float[Tensor, "D V"], uniform: Float[Tensor, " D"], settings: SamplingSettings) -> Drawn:
    """Draw token i with F(i−1) ≤ u < F(i), F the cumulative probability in the order of the vocabulary.

    Args:
        logits: The policy's logits, before any temperature.
        uniform: u in [0, 1), float64, one for each row.
        settings: Temperature and truncation.
    """
    logps = logits.float().log_softmax(-1)
    if settings.temperature == 0:
        tokens = logps.argmax(-1, keepdim=True)
        return Drawn(tokens[:, 0], logps.gather(-1, tokens)[:, 0], torch.zeros_like(logps[:, 0]))
    behaviour = logps if settings.is_exact else _truncated(logps / settings.temperature, settings).log_softmax(-1)
    tokens = _invert(behaviour.exp(), uniform)
    return Drawn(tokens[:, 0], logps.gather(-1, tokens)[:, 0], behaviour.gather(-1, tokens)[:, 0])


def _invert(probs: Float[Tensor, "D V"], uniform: Float[Tensor, " D"]) -> Int[Tensor, "D 1"]:
    """Return token i with F(i−1) ≤ u·F(V) < F(i): find its block of the vocabulary, then the token in the block.

    A running sum over all of V, in float64, would cost more than the softmax.
    """
    missing = -probs.shape[-1] % BLOCK
    whole = nn.functional.pad(probs, (0, missing)) if missing else probs
    blocks = whole.reshape(len(whole), -1, BLOCK)
    masses = blocks.sum(-1, dtype=_wide(probs))
    block, rest = _first_above(masses, uniform.to(masses.dtype)[:, None] * masses.sum(-1, keepdim=True))
    members = blocks.gather(1, block[..., None].expand(-1, -1, BLOCK))[:, 0].to(masses.dtype)
    offset, _ = _first_above(members, rest)
    return (block * BLOCK + offset).clamp(max=probs.shape[-1] - 1)  # larger only where a probability is NaN


def _first_above(masses: Float[Tensor, "D K"], goal: Float[Tensor, "D 1"]) -> tuple[Tensor, Tensor]:
    """Return the first index whose running sum exceeds `goal`, and `goal` minus the masses before it; both [D, 1].

    Where no running sum exceeds it, return the last index with any mass.
    """
    running = masses.cumsum(-1)
    total = running[:, -1:]
    index = torch.searchsorted(running, torch.minimum(goal, total.nextafter(torch.zeros_like(total))), right=True)
    index = index.clamp(max=masses.shape[-1] - 1)
    return index, (goal - running.gather(-1, index) + masses.gather(-1, index)).clamp(min=0)


def _truncated(scores: Float[Tensor, "D V"], settings: SamplingSettings) -> Float[Tensor, "D V"]:
    """Return the scores with −∞ where a truncation removes a token: `top_k` first, then `top_p`, then `min_p`.

    What `top_p` keeps depends on `top_k` before it. `min_p` compares with the largest probability, which no truncation
    removes, so it keeps the same tokens at any place; but before `top_p` it would change what that keeps.
    """
    if settings.top_k is not None:
        least = scores.topk(min(settings.top_k, scores.shape[-1]), dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if settings.top_p is not None:
        ordered, order = scores.sort(dim=-1, descending=True)
        probs = ordered.softmax(-1)
        before = probs.cumsum(-1, dtype=_wide(probs)) - probs
        cut = torch.empty_like(before, dtype=torch.bool).scatter_(-1, order, before >= settings.top_p)
        scores = scores.masked_fill(cut, -torch.inf)
    if settings.min_p is not None:
        largest = scores.max(dim=-1, keepdim=True).values
        scores = scores.masked_fill(scores < largest + math.log(settings.min_p), -torch.inf)
    return scores


def _wide(probs: Tensor) -> torch.dtype:
    """Return float64 where the device has it: a float32 running sum over 100,000 tokens loses rare ones."""
    return torch.float32 if probs.device.type == "mps" else torch.float64


def prompt_seeds(seed: int, prompts: Sequence[TokenIds]) -> list[int]:
    """Return a seed for each prompt, from (seed, the prompt's tokens, its number of earlier occurrences)."""
    seen: Counter[bytes] = Counter()
    seeds = []
    for prompt in prompts:
        content = prompt.tobytes()
        digest = hashlib.blake2b(f"{seed}/{seen[content]}/".encode() + content, digest_size=8).digest()
        seen[content] += 1
        seeds.append(int.from_bytes(digest, "big") >> 1)
    return seeds


def uniforms(prompt_seed: int, samples: range, num_tokens: int) -> Float[Tensor, "n T"]:
    """Return the numbers in [0, 1) of these samples of one prompt, computed on the CPU for every device.

    Number t of sample i depends on (prompt_seed, i, t) alone. So neither more tokens nor more samples change it.
    """
    streams = [np.random.Philox(key=prompt_seed, counter=[0, i, 0, 0]).random_raw(num_tokens) for i in samples]
    return torch.from_numpy((np.stack(streams) >> 11) * 2.0**-53)
