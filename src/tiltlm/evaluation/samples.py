"""Samples of the policy at held-out prompts, before and after training: their KL to the reference and their length.

Log-ratios on the pairs of a data set are no KL. Here the policy is sampled at temperature 1 from its full distribution,
and the same forward scores its samples under the policy and the reference.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from tiltlm.core import ConfigError, Response, TokenIds, Tree, pack_trees
from tiltlm.diagnostics import Interval, SequenceKL, bootstrap_mean, paired_difference, sequence_kl
from tiltlm.distributed import Ranks
from tiltlm.evaluation.example_rows import measure_responses, on_host, seq_logps
from tiltlm.logprobs import PolicyModule
from tiltlm.logprobs.module import evaluating
from tiltlm.reference import Reference
from tiltlm.sampling import Sampled, SamplingSettings, sample

Draw = Callable[..., list[list[Sampled]]]
"""What draws samples of a policy, with the arguments of `sample`: the own sampler, or a server."""


@dataclass(frozen=True, eq=False)
class SampleSet:
    """n samples of one policy at each of P prompts."""

    prompts: tuple[TokenIds, ...]
    samples: tuple[tuple[Sampled, ...], ...]
    """[P][n] samples of each prompt."""
    logps: NDArray[np.float64]
    """[P, n] log-probability of each sample under the policy that drew it, nats per response."""
    ref_logps: NDArray[np.float64] | None
    """[P, n] the same under the reference; None if there was no reference."""
    max_new_tokens: int
    """Length at which samples were cut."""

    @cached_property
    def num_tokens(self) -> NDArray[np.int64]:
        """[P, n] tokens of each sample, end token included."""
        return np.array([[len(s.token_ids) for s in of_prompt] for of_prompt in self.samples])

    @cached_property
    def ended(self) -> NDArray[np.bool_]:
        """[P, n] True where a sample ended by itself."""
        return np.array([[s.ended for s in of_prompt] for of_prompt in self.samples])

    @cached_property
    def prompt(self) -> NDArray[np.intp]:
        """[P, n] number of each sample's prompt."""
        return np.broadcast_to(np.arange(len(self.prompts))[:, None], self.logps.shape)

    def sequence_kl(self, seed: int = 0) -> SequenceKL | None:
        """Estimate KL(π‖π_ref) with bootstrap intervals; None if there was no reference."""
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
    ranks: Ranks | None = None,
    draw: Draw = sample,
) -> SampleSet:
    """Sample a policy with its present weights, and score the samples under the policy and a reference.

    Call it before and after training, because full fine-tuning overwrites the untrained weights. With the same seed
    both calls use the same uniform random numbers, which makes their difference less noisy.

    Args:
        policy: The policy itself, not a wrapper around it.
        prompts: Distinct prompts.
        n: Samples per prompt.
        max_new_tokens: Length at which a sample that has not ended is cut.
        seed: Seed of the samples.
        end_token_ids: A sample ends with the first of these.
        reference: The reference for the KL. It must be able to compute log-probabilities of new texts (a copy, another
            model, or the policy with its adapters off). None means that nothing is scored and there is no KL.
        max_tokens: Most input tokens of one scoring forward.
        progress: Called with (tokens done, all tokens), as `sample` does.
        ranks: Processes that share the work; all must call this function together. None: this one alone.
        draw: What draws the samples of this policy.

    Raises:
        ConfigError: a prompt leaves no room for `max_new_tokens` in the model's window.
    """
    settings = SamplingSettings(max_new_tokens)
    samples = draw(policy, prompts, n, settings, seed=seed, end_token_ids=end_token_ids, progress=progress, ranks=ranks)
    ref_logps = None
    if reference is not None:
        logps, ref_logps = score_samples(policy, prompts, samples, reference, max_tokens, ranks)
    elif draw is sample:
        logps = np.array([[s.token_logps.sum(dtype=np.float64) for s in of_prompt] for of_prompt in samples])
    else:
        trees = _all_trees(prompts, samples, max_tokens)
        logps = seq_logps(policy, trees, max_tokens, ranks or Ranks()).reshape(len(prompts), n)
    return SampleSet(tuple(prompts), tuple(map(tuple, samples)), logps, ref_logps, max_new_tokens)


def score_samples(
    module: nn.Module,
    prompts: Sequence[TokenIds],
    samples: Sequence[Sequence[Sampled]],
    reference: Reference,
    max_tokens: int,
    ranks: Ranks | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the log-probabilities of samples under a policy and a reference, [P, n] each, nats per response.

    Both are computed by the forward of training, not taken from the sampler, so that both have the same rounding.
    """
    trees = _all_trees(prompts, samples, max_tokens)

    def score(pack: Sequence[Tree]) -> NDArray[np.float64]:
        responses = reference.attach(module(pack_trees(pack)), pack)
        return on_host(torch.stack([responses.seq_logps, responses.ref_sums.to(responses.seq_logps)]))

    with evaluating(module), torch.no_grad():
        logps, ref_logps = measure_responses(trees, max_tokens, score, ranks or Ranks())
    shape = len(prompts), len(samples[0])
    return logps.reshape(shape), ref_logps.reshape(shape)


def _all_trees(prompts: Sequence[TokenIds], samples: Sequence[Sequence[Sampled]], max_tokens: int) -> list[Tree]:
    """Return the samples of all prompts, in order, as trees that fit into a forward."""
    return [tree for p, of_prompt in zip(prompts, samples, strict=True) for tree in _trees(p, of_prompt, max_tokens)]


def _trees(prompt: TokenIds, samples: Sequence[Sampled], max_tokens: int) -> Iterator[Tree]:
    """Yield the samples of a prompt, in order, as one tree or as several trees that fit into a forward."""
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
    """Numbers of one policy's samples, with intervals over prompts."""

    kl: Interval | None
    """Sequence KL(π‖π_ref), nats per response: the mean of log π − log π_ref. None without a reference."""
    kl_k3: Interval | None
    """The same by an estimator that is never negative. If the two differ much, the samples are too few."""
    length: Interval
    """Tokens of a response, end token included."""
    cut_share: float
    """Share of samples cut at `max_new_tokens`. Above 0, KL and length are those of the texts up to the cut."""


@dataclass(frozen=True)
class SampleText:
    """Responses to one prompt before and after training; sample i of both used the same random numbers."""

    prompt: str
    before: tuple[str, ...]
    """Responses of the untrained policy."""
    after: tuple[str, ...]
    """Responses of the trained policy."""
    gold_before: tuple[float, ...] | None = None
    """Gold reward of each response of the untrained policy; None if there is no gold reward."""
    gold_after: tuple[float, ...] | None = None
    """Gold reward of each response of the trained policy."""


@dataclass(frozen=True)
class SampleComparison:
    """Samples at held-out prompts before and after training."""

    num_prompts: int
    samples_per_prompt: int
    max_new_tokens: int
    before: SampleNumbers
    after: SampleNumbers
    length_difference: Interval
    """Mean tokens of a response after − before, paired by prompt."""
    texts: tuple[SampleText, ...]
    """Some of the samples, to be shown."""


def compare_samples(
    before: SampleSet,
    after: SampleSet,
    texts: Sequence[SampleText] = (),
    *,
    starts_at_reference: bool = False,
    seed: int = 0,
) -> SampleComparison:
    """Compare KL and length before and after training, with intervals over prompts.

    Args:
        before: Samples of the untrained policy.
        after: Samples of the trained one.
        texts: Some of the samples, to be shown.
        starts_at_reference: The untrained policy is the reference, so its KL is 0 and its samples need no scoring.
        seed: Seed of the bootstrap.

    Raises:
        ConfigError: the prompts differ.
    """
    if len(before.prompts) != len(after.prompts) or any(map(_differ, before.prompts, after.prompts)):
        raise ConfigError(
            "the samples before and after training have different prompts; draw both at the same prompts",
            code="other_rows",
        )
    numbers_before, numbers_after = _numbers(before, seed), _numbers(after, seed)
    if starts_at_reference and numbers_after.kl is not None:
        zero = replace(numbers_after.kl, estimate=0.0, low=0.0, high=0.0)
        numbers_before = replace(numbers_before, kl=zero, kl_k3=zero)
    return SampleComparison(
        num_prompts=len(after.prompts),
        samples_per_prompt=after.logps.shape[1],
        max_new_tokens=after.max_new_tokens,
        before=numbers_before,
        after=numbers_after,
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
    gold: tuple[ArrayLike, ArrayLike] | None = None,
) -> tuple[SampleText, ...]:
    """Return the first samples of the first prompts as text.

    Args:
        before: Samples of the untrained policy.
        after: Samples of the trained one, at the same prompts.
        decode: Function from token ids to text.
        num_prompts: Most prompts to return.
        samples_per_prompt: Most samples of each prompt to return.
        gold: [P, n] gold rewards of the samples in `before` and in `after`. None means that there is no gold reward.
    """
    num_samples = min(samples_per_prompt, before.logps.shape[1], after.logps.shape[1])
    rewards = None if gold is None else [np.asarray(side, dtype=np.float64)[:, :num_samples] for side in gold]
    texts = []
    for i in range(min(num_prompts, len(after.prompts))):
        text_before, text_after = (
            tuple(decode(s.token_ids) for s in side.samples[i][:num_samples]) for side in (before, after)
        )
        gold_before, gold_after = (None, None) if rewards is None else (tuple(side[i].tolist()) for side in rewards)
        texts.append(SampleText(decode(after.prompts[i]), text_before, text_after, gold_before, gold_after))
    return tuple(texts)
