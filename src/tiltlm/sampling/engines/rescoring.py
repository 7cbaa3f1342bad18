"""Log-probabilities at temperature 1 of answers that an engine drew without them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from tiltlm.core.example import Response, TokenIds
from tiltlm.core.forest import Tree, pack_trees
from tiltlm.distributed import Ranks
from tiltlm.logprobs import PolicyModule
from tiltlm.logprobs.module import evaluating
from tiltlm.sampling.engines.engine import EngineAnswer, Floats32

MAX_TOKENS = 16_384
"""Most tokens of one forward, if a single answer is not longer."""


def with_logps(
    policy: PolicyModule,
    prompts: Sequence[TokenIds],
    answers: Sequence[Sequence[EngineAnswer]],
    ranks: Ranks | None = None,
) -> list[list[EngineAnswer]]:
    """Return the answers with `logp` as this policy's forward computes it; `ranks` as for `token_logps`."""
    found = token_logps(policy, prompts, [[answer.response for answer in own] for own in answers], ranks)
    return [
        [replace(answer, logp=float(logps.sum(dtype=np.float64))) for answer, logps in zip(own, of_prompt, strict=True)]
        for own, of_prompt in zip(answers, found, strict=True)
    ]


@torch.no_grad()
def token_logps(
    policy: PolicyModule,
    prompts: Sequence[TokenIds],
    responses: Sequence[Sequence[Response]],
    ranks: Ranks | None = None,
) -> list[list[Floats32]]:
    """Return the log-probability of every token of responses to each prompt, as this policy's forward computes it.

    Args:
        policy: The policy.
        prompts: Token ids of each prompt.
        responses: The responses to each prompt.
        ranks: Processes that share the forwards; all must call this function together, with equal arguments. None: this
            one alone.
    """
    asked = [(i, part) for i, own in enumerate(responses) for part in _parts(prompts[i], own)]

    def score(one: tuple[int, list[Response]]) -> list[Floats32]:
        i, part = one
        scored = policy(pack_trees([Tree(prompts[i], tuple(part))]))
        pieces = torch.split(scored.token_logps.float().cpu(), scored.num_tokens.tolist())
        return [piece.numpy() for piece in pieces]

    found: list[list[Floats32]] = [[] for _ in prompts]
    with evaluating(policy):
        for (i, _), logps in zip(asked, (ranks or Ranks()).map(score, asked), strict=True):
            found[i] += logps
    return found


def _parts(prompt: TokenIds, responses: Sequence[Response]) -> Iterator[list[Response]]:
    """Yield the responses in parts that fit into one forward, even if each repeats the prompt."""
    part: list[Response] = []
    size = 0
    for response in responses:
        length = len(prompt) + len(response.token_ids)
        if part and size + length > MAX_TOKENS:
            yield part
            part, size = [], 0
        part.append(response)
        size += length
    if part:
        yield part
