"""Sampling: n responses of the policy per prompt, as token ids with their log-probabilities.

Measurements of a policy on its own samples (sequence KL, win rates, the frontier) use it. Samples are never tokenised
again: training on them uses the tokens that were drawn.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tiltlm.core.errors import ConfigError, NumericsError
from tiltlm.core.example import Response, TokenIds, token_ids
from tiltlm.logprobs import PolicyModule
from tiltlm.logprobs.module import evaluating
from tiltlm.sampling.decoding import DecodedBatch, Mixture, decode, pads_exactly
from tiltlm.sampling.drawing import SamplingSettings, prompt_seeds, uniforms


@dataclass(frozen=True, eq=False)
class Sampled:
    """One sampled response."""

    token_ids: TokenIds
    """Its tokens, with the end token if it has ended."""
    ended: bool
    """False if `max_new_tokens` cut it."""
    token_logps: NDArray[np.float32]
    """Log-probability of each token under the policy itself (temperature 1, whole vocabulary), in nats."""
    behaviour_logps: NDArray[np.float32]
    """The same under the distribution of the draw, after temperature and truncation; 0 at temperature 0."""

    @property
    def response(self) -> Response:
        """These tokens as a response of an example; nothing is tokenised again."""
        return Response(self.token_ids, ended=self.ended)


@torch.no_grad()
def sample(
    policy: PolicyModule,
    prompts: Sequence[TokenIds],
    n: int,
    settings: SamplingSettings,
    *,
    seed: int,
    end_token_ids: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
    mixture: Mixture | None = None,
) -> list[list[Sampled]]:
    """Draw n responses to each prompt.

    Token t of sample i of a prompt depends only on (policy, prompt, temperature and truncation, seed, i, t), up to
    rounding of the logits. So more samples, longer ones or other prompts beside it change none. A prompt that occurs
    again gets other samples. Policies sampled with one seed use the same uniform numbers, which makes
    differences between them less noisy.

    Args:
        policy: Sampled with the model's stock attention, in evaluation mode, without gradient.
        prompts: Token ids of each prompt, at least one token each.
        n: Responses to each prompt.
        settings: Length, temperature, truncation.
        seed: Seed of the uniform numbers.
        end_token_ids: A response ends at the first of these tokens.
        progress: Called with (tokens done, all tokens) at the start and as decoding goes on. A response that has ended
            has all its `max_new_tokens` done.
        mixture: Another model whose logits are mixed in; then all log-probabilities are those of the mixture.

    Returns:
        The n samples of each prompt, in the order of the prompts.

    Raises:
        ConfigError: a prompt leaves no room for `max_new_tokens`, or n is not positive.
        NumericsError: the policy's log-probabilities are not finite.
    """
    if n < 1:
        raise ConfigError(f"n is {n}; it must be at least 1", code="not_positive", key="n")
    _check_lengths(policy, prompts, settings.max_new_tokens)
    device = policy.device
    ends = torch.tensor(sorted(set(end_token_ids)), dtype=torch.int64, device=device)
    seeds = prompt_seeds(seed, prompts)
    samples: list[list[Sampled]] = [[] for _ in prompts]
    precision = torch.autocast(device.type, torch.bfloat16, enabled=policy.precision == "bf16")
    report = progress or (lambda *_: None)
    done, total = 0, n * len(prompts) * settings.max_new_tokens
    report(done, total)
    others = [] if mixture is None or mixture.module is policy else [mixture.module]
    with ExitStack() as stack:
        for module in (policy, *others):
            stack.enter_context(evaluating(module))
            stack.enter_context(module.stock_attention())
        stack.enter_context(precision)
        mixed = len({len(p) for p in prompts}) > 1 and all(
            pads_exactly(module.model, prompts) for module in (policy, *others)
        )
        for members, copies in _batches(prompts, n, settings, mixed):
            uniform = torch.cat([uniforms(seeds[i], copies, settings.max_new_tokens) for i in members])
            draws = decode(
                policy.model,
                [prompts[i] for i in members],
                uniform.to(device),
                ends,
                settings,
                lambda tokens: report(done + tokens, total),  # noqa: B023
                mixture,
            )
            drawn = _unpack(draws)
            share = len(drawn) // len(members)
            for slot, i in enumerate(members):
                samples[i] += drawn[slot * share : (slot + 1) * share]
            done += uniform.numel()
            report(done, total)
    return samples


def _check_lengths(policy: PolicyModule, prompts: Sequence[TokenIds], max_new_tokens: int) -> None:
    limit = policy.max_positions
    for i, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ConfigError(
                f"prompt {i} has no token; give it at least the beginning token",
                code="empty",
                key="prompts",
                row=f"prompt {i}",
            )
        if limit is not None and len(prompt) + max_new_tokens > limit:
            raise ConfigError(
                f"prompt {i} has {len(prompt)} tokens; with max_new_tokens={max_new_tokens} that is more than the"
                f" {limit} positions of the model. Shorten the prompt, or lower max_new_tokens.",
                code="too_long",
                key="sampling.max_new_tokens",
                row=f"prompt {i}",
            )


def _batches(
    prompts: Sequence[TokenIds], n: int, settings: SamplingSettings, mixed: bool
) -> Iterator[tuple[list[int], range]]:
    """Yield the prompts to decode together, shortest first, and which of their n samples.

    Args:
        prompts: Token ids of each prompt.
        n: Samples per prompt.
        settings: Most rows of a batch, and most new tokens.
        mixed: Prompts of a batch may differ in length, as long as padding does not double the tokens of the batch.
    """
    batches: list[list[int]] = []
    tokens = 0  # of the last batch, without padding
    for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
        last = batches[-1] if batches else []
        row = len(prompts[i]) + settings.max_new_tokens
        fits = (
            (len(last) + 1) * row <= 2 * (tokens + row) if mixed else last and len(prompts[last[0]]) == len(prompts[i])
        )
        if last and len(last) < max(1, settings.max_rows // n) and fits:
            last.append(i)
            tokens += row
        else:
            batches.append([i])
            tokens = row
    for batch in batches:
        for start in range(0, n, settings.max_rows):
            yield batch, range(start, min(n, start + settings.max_rows))


def _unpack(draws: DecodedBatch) -> list[Sampled]:
    """Return the rows of a batch as samples, on the host."""
    tokens, logps, behaviour = (t.cpu().numpy() for t in (draws.tokens, draws.logps, draws.behaviour_logps))
    samples = []
    for row, (num_tokens, ended) in enumerate(zip(draws.num_tokens.tolist(), draws.ended.tolist(), strict=True)):
        drawn = logps[row, :num_tokens].copy()
        if not np.isfinite(drawn).all():
            raise NumericsError(
                f"sampling: token {int(np.argmin(np.isfinite(drawn)))} of a response has log-probability"
                f" {drawn[~np.isfinite(drawn)][0]}; the policy's logits are not finite. Check its weights.",
                code="not_finite",
            )
        samples.append(Sampled(token_ids(tokens[row, :num_tokens]), ended, drawn, behaviour[row, :num_tokens].copy()))
    return samples
