"""Log-probabilities at temperature 1 of answers that an engine drew without them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from tiltlm.core.example import TokenIds
from tiltlm.core.forest import Tree, pack_trees
from tiltlm.logprobs import PolicyModule
from tiltlm.logprobs.module import evaluating
from tiltlm.sampling.engines.engine import EngineAnswer

MAX_TOKENS = 16_384
"""Most tokens of one forward, if a single answer is not longer."""


@torch.no_grad()
def with_logps(
    policy: PolicyModule, prompts: Sequence[TokenIds], answers: Sequence[Sequence[EngineAnswer]]
) -> list[list[EngineAnswer]]:
    """Return the answers with `logp` as this policy's forward computes it."""
    scored: list[list[EngineAnswer]] = []
    with evaluating(policy):
        for prompt, own in zip(prompts, answers, strict=True):
            logps: list[float] = []
            for part in _parts(prompt, own):
                forest = pack_trees([Tree(prompt, tuple(answer.response for answer in part))])
                logps += policy(forest).seq_logps.tolist()
            scored.append([replace(answer, logp=logp) for answer, logp in zip(own, logps, strict=True)])
    return scored


def _parts(prompt: TokenIds, answers: Sequence[EngineAnswer]) -> Iterator[list[EngineAnswer]]:
    """Yield the answers in parts that fit into one forward, even if each repeats the prompt."""
    part: list[EngineAnswer] = []
    size = 0
    for answer in answers:
        length = len(prompt) + len(answer.token_ids)
        if part and size + length > MAX_TOKENS:
            yield part
            part, size = [], 0
        part.append(answer)
        size += length
    if part:
        yield part
