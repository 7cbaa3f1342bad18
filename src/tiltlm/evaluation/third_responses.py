"""Where probability went: responses that no row compares, before and after training.

A loss of margins says nothing about the other responses to a prompt. If both sides of a comparison lose probability, it
is these that gain: the policy's own most likely response, its usual samples, or texts of other prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from tiltlm.core import Example, Response, TokenIds, Tree, build_trees, pack_trees
from tiltlm.diagnostics import Interval, bootstrap_mean, paired_difference
from tiltlm.distributed import Ranks
from tiltlm.evaluation.example_rows import measure_responses, on_host, seq_logps
from tiltlm.logprobs import PolicyModule
from tiltlm.logprobs.module import evaluating
from tiltlm.sampling import Sampled

Floats = NDArray[np.float64]
Kind = Literal["samples", "greedy", "others"]
KINDS: tuple[Kind, ...] = get_args(Kind)

CELLS = 2**24
"""Log-probabilities (rows × vocabulary) that are in memory at the same time."""


@dataclass(frozen=True, eq=False)
class ThirdResponses:
    """Responses to held-out prompts that no row compares. They are chosen before training and stay the same."""

    trees: tuple[Tree, ...]
    kind: NDArray[np.intp]
    """[N] index in `KINDS` of each response, tree by tree."""
    prompt: NDArray[np.intp]
    """[N] number of its prompt."""


@dataclass(frozen=True)
class ProbabilityShift:
    """Changes of log-probability from before to after training, intervals over prompts."""

    samples: Interval
    """Of samples of the untrained policy, nats per response. Its negative estimates KL(untrained‖trained)."""
    greedy: Interval
    """Of the untrained policy's greedy responses (the most likely token at every step), nats per response."""
    others: Interval | None
    """Of responses of the data to other prompts, nats per response. None with a single prompt."""
    top_token: Interval
    """Of the most likely token at each position of the better held-out responses, nats per token. If it rises while the
    responses fall, the policy moves what they lose to its own first choice (squeezing)."""
    top_token_before: Interval
    """Log-probability of that token before training, nats per token."""
    greedy_changed: Interval
    """Share of prompts at which the greedy response is another one after training."""


def choose_third_responses(
    prompts: Sequence[TokenIds],
    samples: Sequence[Sequence[Sampled]],
    greedy: Sequence[Sampled],
    examples: Sequence[Example],
) -> ThirdResponses:
    """Gather the untrained policy's samples and greedy responses, and a response of another prompt for each prompt.

    Args:
        prompts: Held-out prompts.
        samples: Samples of the untrained policy at each.
        greedy: Its greedy response to each.
        examples: Held-out examples.
    """
    of_prompt = {example.prompt_ids.tobytes(): _better(example) for example in examples}
    own = [of_prompt.get(ids.tobytes()) for ids in prompts]
    trees, kinds, numbers = [], [], []
    for i, ids in enumerate(prompts):
        members = [(s.response, 0) for s in samples[i]] + [(greedy[i].response, 1)]
        other = own[(i + 1) % len(prompts)]
        if len(prompts) > 1 and other is not None:
            members.append((replace(other, ref_logps=None), 2))
        trees.append(Tree(ids, tuple(response for response, _ in members)))
        kinds += [kind for _, kind in members]
        numbers += [i] * len(members)
    return ThirdResponses(tuple(trees), np.array(kinds, dtype=np.intp), np.array(numbers, dtype=np.intp))


def _better(example: Example) -> Response:
    """Return the better response of an example; its first one if it compares none."""
    return example.responses[example.comparisons[0].chosen if example.comparisons else 0]


def third_logps(module: PolicyModule, third: ThirdResponses, max_tokens: int, ranks: Ranks | None = None) -> Floats:
    """Return the log-probability of each third response with the module's present weights, [N] nats per response."""
    return seq_logps(module, third.trees, max_tokens, ranks or Ranks())


def top_token_logps(
    module: PolicyModule, examples: Sequence[Example], max_tokens: int, ranks: Ranks | None = None
) -> Floats:
    """Return the mean log-probability of the most likely token along the better response of each example, [E].

    Args:
        module: The policy itself, not a wrapper around it.
        examples: Rows of data.
        max_tokens: Most input tokens of one forward.
        ranks: Processes that share the forwards; all must call this function together. None: this one alone.
    """
    better = [replace(e, responses=(_better(e),), comparisons=(), labels=(), ranks=(), scores=(), partners=())
              for e in examples]  # fmt: skip
    trees, slots = build_trees(better)
    with evaluating(module), torch.no_grad():
        means = measure_responses(trees, max_tokens, partial(_mean_tops, module), ranks or Ranks())
    return means[[own[0] for own in slots]]


def _mean_tops(module: PolicyModule, trees: Sequence[Tree]) -> Floats:
    """Return the mean log-probability of the most likely token along each response of these trees."""
    forest = pack_trees(trees).to(module.device)
    states = module.states(forest).for_products()
    step = max(1, CELLS // states.num_logits)
    parts = [slice(start, start + step) for start in range(0, len(forest.targets), step)]
    tops = torch.cat([states.log_softmax(part, forest.targets[part])[0].amax(-1) for part in parts])
    sums = np.bincount(forest.response_index.cpu().numpy(), on_host(tops))
    means: Floats = sums / forest.num_tokens.cpu().numpy()
    return means


def measure_shift(
    third: ThirdResponses,
    before: Floats,
    after: Floats,
    top_before: Floats,
    top_after: Floats,
    example_prompt: NDArray[np.intp],
    greedy_changed: Sequence[bool],
    *,
    seed: int = 0,
) -> ProbabilityShift:
    """Compare log-probabilities before and after training.

    Args:
        third: The responses.
        before: [N] their log-probabilities before training.
        after: [N] the same after training.
        top_before: [E] `top_token_logps` of held-out examples before training.
        top_after: [E] the same after training.
        example_prompt: [E] number of the prompt of each of these examples.
        greedy_changed: For each prompt whether its greedy response changed.
        seed: Seed of the bootstrap.
    """

    def shift(kind: Kind) -> Interval | None:
        own = third.kind == KINDS.index(kind)
        if not own.any():
            return None
        return paired_difference(after[own], before[own], third.prompt[own], seed=seed)

    samples, greedy = shift("samples"), shift("greedy")
    assert samples is not None
    assert greedy is not None
    return ProbabilityShift(
        samples=samples,
        greedy=greedy,
        others=shift("others"),
        top_token=paired_difference(top_after, top_before, example_prompt, seed=seed),
        top_token_before=bootstrap_mean(top_before, example_prompt, seed=seed),
        greedy_changed=bootstrap_mean(np.asarray(greedy_changed, dtype=np.float64), seed=seed),
    )
