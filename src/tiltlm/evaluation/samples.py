"""The policy's own responses to held-out prompts, before and after training: how far it went, and how long it talks.

Log-ratios on the pairs of a data set are no KL. Here the policy is sampled at temperature 1 with nothing cut off its
distribution, and its samples are scored under policy and reference by the same forward.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tiltlm.core import ConfigError, Response, TokenIds, Tree
from tiltlm.diagnostics import Interval, SequenceKL, bootstrap_mean, paired_difference, sequence_kl
from tiltlm.evaluation.example_rows import sequence_logps
from tiltlm.logprobs import PolicyModule
from tiltlm.logprobs.modes import evaluating
from tiltlm.reference import Reference
from tiltlm.sampling import Sampled, SamplingSettings, sample


@dataclass(frozen=True, eq=False)
class SampleSet:
    """n samples of one policy to each of P prompts."""

    prompts: tuple[TokenIds, ...]
    samples: tuple[tuple[Sampled, ...], ...]
    """[P][n]"""
    logps: NDArray[np.float64]
    """[P, n] log-probability of each sample under the policy that drew it, nats per response."""
    ref_logps: NDArray[np.float64] | None
    """[P, n] the same under the reference."""
    max_new_tokens: int

    @cached_property
    def num_tokens(self) -> NDArray[np.int64]:
        """[P, n] tokens of each sample, its end token included."""
        return np.array([[len(s.token_ids) for s in own] for own in self.samples])

    @cached_property
    def ended(self) -> NDArray[np.bool_]:
        """[P, n] whether each ended by itself."""
        return np.array([[s.ended for s in own] for own in self.samples])

    @cached_property
    def prompt(self) -> NDArray[np.intp]:
        """[P, n] which prompt each answers."""
        return np.broadcast_to(np.arange(len(self.prompts))[:, None], self.logps.shape)

    def sequence_kl(self, seed: int = 0) -> SequenceKL | None:
        """KL(π‖π_ref); None where the samples were not scored under a reference."""
        if self.ref_logps is None:
            return None
        return sequence_kl(
            self.logps.ravel(), self.ref_logps.ravel(), self.prompt.ravel(),
            temperature=1.0, ended=self.ended.ravel(), allow_cut=True, seed=seed,
        )  # fmt: skip


def draw_samples(
    policy: PolicyModule,
    prompts: Sequence[TokenIds],
    *,
    n: int,
    max_new_tokens: int,
    seed: int,
    end_token_ids: Sequence[int],
    reference: Reference | None,
    max_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> SampleSet:
    """Sample a policy as it is now, and score what it says.

    Call it before training and after: full fine-tuning leaves no untrained weights behind. With one seed both share
    their uniform numbers, so that their difference is less noisy.

    Args:
        policy: The policy, not a wrapper around it.
        prompts: Distinct prompts.
        n: Samples a prompt.
        max_new_tokens: Where a sample that has not ended is cut.
        seed: Another seed, other samples.
        end_token_ids: A sample ends with the first of these.
        reference: Policy and reference score the samples by the same forward; it must be able to compute (a copy,
            another model, or adapters off). None: nothing is scored, there is no KL.
        max_tokens: Input tokens of a scoring forward.
        progress: Called with (samples done, samples in all).

    Raises:
        ConfigError: a prompt leaves no room for `max_new_tokens`.
    """
    settings = SamplingSettings(max_new_tokens)
    samples = sample(policy, prompts, n, settings, seed=seed, end_token_ids=end_token_ids, progress=progress)
    if reference is None:
        logps = np.array([[s.token_logps.sum(dtype=np.float64) for s in own] for own in samples])
        return SampleSet(tuple(prompts), tuple(map(tuple, samples)), logps, None, max_new_tokens)
    logps, ref_logps = score_samples(policy, prompts, samples, reference, max_tokens)
    return SampleSet(tuple(prompts), tuple(map(tuple, samples)), logps, ref_logps, max_new_tokens)


def score_samples(
    module: nn.Module,
    prompts: Sequence[TokenIds],
    samples: Sequence[Sequence[Sampled]],
    reference: Reference,
    max_tokens: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log-probability of n samples a prompt under a policy and under the reference, [P, n] each, nats per response.

    By the forward of training and not as the sampler saw them, so that both sides of a KL are rounded alike.
    """
    trees = [tree for p, own in zip(prompts, samples, strict=True) for tree in _trees(p, own, max_tokens)]
    shape = len(prompts), len(samples[0])
    logps, ref_logps = np.empty(shape), np.empty(shape)
    with evaluating(module), torch.no_grad():
        for index, responses in sequence_logps(module, trees, reference, max_tokens):
            logps.flat[index] = responses.seq_logps.cpu().numpy()
            ref_logps.flat[index] = responses.ref_sums.cpu().numpy()
    return logps, ref_logps


def _trees(prompt: TokenIds, samples: Sequence[Sampled], max_tokens: int) -> Iterator[Tree]:
    """The samples of a prompt, in order, as one tree or as several that fit a forward."""
    branches: list[Response] = []
    room = max_tokens - len(prompt)
    for sampled in samples:
        if branches and len(sampled.token_ids) - 1 > room:
            yield Tree(prompt, tuple(branches))
            branches, room = [], max_tokens - len(prompt)
        branches.append(sampled.response)
        room -= len(sampled.token_ids) - 1
    yield Tree(prompt, tuple(branches))


@dataclass(frozen=True)
class SampleNumbers:
    """What a policy's samples amount to."""

    kl: Interval | None
    """Sequence KL(π‖π_ref), nats per response, mean of log π − log π_ref; None without a reference."""
    kl_k3: Interval | None
    """The same by the estimator that is never negative; the two agree when all is well."""
    length: Interval
    """Tokens of a response, end token included."""
    cut_share: float
    """Share of samples cut at `max_new_tokens`: above 0, KL and length are those of the texts up to the cut."""


@dataclass(frozen=True)
class SampleText:
    """What the policy said to one prompt before and after, sample by sample with the same luck."""

    prompt: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    gold_before: tuple[float, ...] | None = None
    """Gold reward of each, in a world that has one."""
    gold_after: tuple[float, ...] | None = None


@dataclass(frozen=True)
class SampleComparison:
    """Samples on held-out prompts before and after training."""

    num_prompts: int
    samples_per_prompt: int
    max_new_tokens: int
    before: SampleNumbers
    after: SampleNumbers
    length_difference: Interval
    """Tokens after − before, paired by prompt."""
    texts: tuple[SampleText, ...]


def compare_samples(
    before: SampleSet,
    after: SampleSet,
    texts: Sequence[SampleText] = (),
    *,
    starts_at_reference: bool = False,
    seed: int = 0,
) -> SampleComparison:
    """KL and length before and after, with intervals by prompt.

    Args:
        before: Samples of the untrained policy.
        after: Samples of the trained one.
        texts: Some of them to show.
        starts_at_reference: The untrained policy is the reference: its KL is 0, and its samples need no scoring.
        seed: Of the bootstrap.

    Raises:
        ConfigError: the two are not of the same prompts.
    """
    if len(before.prompts) != len(after.prompts) or any(map(_differ, before.prompts, after.prompts)):
        raise ConfigError(
            "the samples before and after training are not of the same prompts; draw both for the same",
            code="other_rows",
        )
    early, late = _numbers(before, seed), _numbers(after, seed)
    if starts_at_reference and late.kl is not None:
        zero = replace(late.kl, estimate=0.0, low=0.0, high=0.0)
        early = replace(early, kl=zero, kl_k3=zero)
    return SampleComparison(
        num_prompts=len(after.prompts),
        samples_per_prompt=after.logps.shape[1],
        max_new_tokens=after.max_new_tokens,
        before=early,
        after=late,
        length_difference=paired_difference(after.num_tokens.mean(1), before.num_tokens.mean(1), seed=seed),
        texts=tuple(texts),
    )


def _numbers(draws: SampleSet, seed: int) -> SampleNumbers:
    kl = draws.sequence_kl(seed)
    return SampleNumbers(
        kl=None if kl is None else kl.k1,
        kl_k3=None if kl is None else kl.k3,
        length=bootstrap_mean(draws.num_tokens.ravel(), draws.prompt.ravel(), seed=seed),
        cut_share=float(1 - draws.ended.mean()),
    )


def _differ(a: TokenIds, b: TokenIds) -> bool:
    return not np.array_equal(a, b)


def sample_texts(
    before: SampleSet,
    after: SampleSet,
    decode: Callable[[TokenIds], str],
    *,
    num_prompts: int = 8,
    samples_per_prompt: int = 1,
    gold: Callable[[str, str], float] | None = None,
) -> tuple[SampleText, ...]:
    """The first samples of the first prompts as text.

    Args:
        before: Samples of the untrained policy.
        after: Samples of the trained one, to the same prompts.
        decode: From token ids to text; special tokens are the caller's choice.
        num_prompts: How many prompts to show.
        samples_per_prompt: How many samples of each, where both have as many.
        gold: (prompt, response) → gold reward, where there is one.
    """
    texts, num_samples = [], min(samples_per_prompt, before.logps.shape[1], after.logps.shape[1])
    for i in range(min(num_prompts, len(after.prompts))):
        prompt = decode(after.prompts[i])
        early, late = (tuple(decode(s.token_ids) for s in draws.samples[i][:num_samples]) for draws in (before, after))
        rewards = [None if gold is None else tuple(gold(prompt, text) for text in side) for side in (early, late)]
        texts.append(SampleText(prompt, early, late, rewards[0], rewards[1]))
    return tuple(texts)
