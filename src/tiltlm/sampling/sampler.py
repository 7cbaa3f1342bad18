"""Sampling: n responses of the policy per prompt, as token ids with their log-probabilities.

Measurements of a policy on its own samples (sequence KL, win rates, the frontier) use it. Samples are never tokenised
again: training on them uses the tokens that were drawn.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from tiltlm.core.errors import ConfigError, NumericsError
from tiltlm.core.example import Response, TokenIds, token_ids
from tiltlm.distributed import Ranks
from tiltlm.distributed.wrapping import is_sharded
from tiltlm.logprobs import PolicyModule
from tiltlm.logprobs.module import evaluating
from tiltlm.sampling.decoding import DecodedBatch, InStep, Mixture, alone, decode, pads_exactly
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
    ranks: Ranks | None = None,
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
        progress: Called with (tokens done, all tokens) of this process, at the start and as decoding goes on. A
            response that has ended has all its `max_new_tokens` done.
        mixture: Another model whose logits are mixed in; then all log-probabilities are those of the mixture.
        ranks: Processes that share the prompts; all must call this function together, with equal arguments. None: this
            one alone.

    Returns:
        The n samples of each prompt, in the order of the prompts.

    Raises:
        ConfigError: a prompt leaves no room for `max_new_tokens`, or n is not positive.
        NumericsError: the policy's log-probabilities are not finite.
    """
    if n < 1:
        raise ConfigError(f"n is {n}; it must be at least 1", code="not_positive", key="n")
    _check_lengths(policy, prompts, settings.max_new_tokens)
    ranks = ranks or Ranks()
    modules = [policy] if mixture is None or mixture.module is policy else [policy, mixture.module]
    ends = torch.tensor(sorted(set(end_token_ids)), dtype=torch.int64, device=policy.device)
    work = _Work(policy, prompts, prompt_seeds(seed, prompts), settings, ends, mixture)
    if any(map(is_sharded, modules)):
        work = replace(work, in_step=ranks.any)
    own = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))[ranks.rank :: ranks.size]
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(evaluating(module))
            stack.enter_context(module.stock_attention())
        stack.enter_context(torch.autocast(policy.device.type, torch.bfloat16, enabled=policy.precision == "bf16"))
        mixed = len({len(p) for p in prompts}) > 1 and all(pads_exactly(m, prompts) for m in modules)
        mixed = not ranks.any(not mixed)
        batches = [
            ([own[k] for k in batch], copies)
            for batch, copies in _batches([prompts[i] for i in own], n, settings, mixed)
        ]
        most = max(ranks.gather(len(batches)))
        samples = work.draw(batches, n * len(own) * settings.max_new_tokens, progress)
        for _ in range(most - len(batches) if work.in_step is not alone else 0):
            work.take_part(min(prompts, key=len))
    found = {i: drawn for of_rank in ranks.gather(samples) for i, drawn in of_rank.items()}
    _refuse_not_finite([one for drawn in found.values() for one in drawn])
    return [found[i] for i in range(len(prompts))]


@dataclass(frozen=True, eq=False)
class _Work:
    """What draws the samples of one call."""

    policy: PolicyModule
    prompts: Sequence[TokenIds]
    seeds: Sequence[int]
    """Seed of each prompt."""
    settings: SamplingSettings
    ends: Int[Tensor, " E"]
    """Tokens that end a sample."""
    mixture: Mixture | None
    in_step: InStep = alone
    """As for `decode`."""

    def draw(
        self,
        batches: Sequence[tuple[list[int], range]],
        total: int,
        progress: Callable[[int, int], None] | None,
    ) -> dict[int, list[Sampled]]:
        """Draw these samples of these prompts, and return them by the number of the prompt.

        Args:
            batches: Numbers of prompts that are decoded together, and which samples of each.
            total: Most tokens of all these samples.
            progress: As for `sample`.
        """
        samples: dict[int, list[Sampled]] = defaultdict(list)
        report = progress if progress is not None and batches else (lambda *_: None)
        done = 0
        report(done, total)
        for members, copies in batches:
            uniform = torch.cat([uniforms(self.seeds[i], copies, self.settings.max_new_tokens) for i in members])
            draws = decode(
                self.policy,
                [self.prompts[i] for i in members],
                uniform.to(self.policy.device),
                self.ends,
                self.settings,
                lambda tokens: report(done + tokens, total),  # noqa: B023
                self.mixture,
                self.in_step,
            )
            drawn = _unpack(draws)
            for slot, i in enumerate(members):
                samples[i] += drawn[slot * len(copies) : (slot + 1) * len(copies)]
            done += uniform.numel()
            report(done, total)
        return dict(samples)

    def take_part(self, prompt: TokenIds) -> None:
        """Run the model as often as the other processes run it for a batch, and draw nothing."""
        uniform = torch.zeros(1, self.settings.max_new_tokens, dtype=torch.float64, device=self.policy.device)
        decode(self.policy, [prompt], uniform, self.ends, self.settings, None, self.mixture, self.in_step, idle=True)


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
    return [
        Sampled(
            token_ids(tokens[row, :num_tokens]),
            ended,
            logps[row, :num_tokens].copy(),
            behaviour[row, :num_tokens].copy(),
        )
        for row, (num_tokens, ended) in enumerate(zip(draws.num_tokens.tolist(), draws.ended.tolist(), strict=True))
    ]


def _refuse_not_finite(samples: Sequence[Sampled]) -> None:
    """Require finite log-probabilities. All processes check all samples, so that all raise the same error."""
    for sampled in samples:
        is_finite = np.isfinite(sampled.token_logps)
        if not is_finite.all():
            raise NumericsError(
                f"sampling: token {int(np.argmin(is_finite))} of a response has log-probability"
                f" {sampled.token_logps[~is_finite][0]}; the policy's logits are not finite. Check its weights.",
                code="not_finite",
            )
