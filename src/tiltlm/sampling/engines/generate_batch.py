"""Continuous batching of transformers as an engine: finished answers leave the batch, and others take their place.

The library has one seed for a whole call, so a request is not exact. Its log-probabilities are those after temperature
and truncation; those at temperature 1 come from one more forward.
"""

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tiltlm.core.errors import ConfigError, RunError
from tiltlm.core.example import TokenIds, token_ids
from tiltlm.distributed import Ranks
from tiltlm.logprobs import PolicyModule
from tiltlm.logprobs.module import evaluating
from tiltlm.sampling.drawing import SamplingSettings
from tiltlm.sampling.engines.engine import Batch, EngineAnswer, Progress
from tiltlm.sampling.engines.rescoring import with_logps

PAGE = 32
"""Tokens of a page of the cache on a CPU."""


@dataclass(frozen=True, eq=False)
class GenerateBatchEngine:
    """Method `generate_batch` of transformers' models, with the weights of a loaded policy."""

    policy: PolicyModule
    digest: str
    ranks: Ranks = field(default_factory=Ranks)
    """Processes that share the prompts of a draw, and call it together. Each has the whole model."""
    name: str = "generate_batch"
    is_exact: bool = False

    def draw(
        self,
        prompts: Sequence[TokenIds],
        n: int,
        settings: SamplingSettings,
        *,
        seed: int,
        end_token_ids: Sequence[int],
        progress: Progress | None = None,
    ) -> Batch:
        """Draw n answers to each prompt; see `Engine.draw`.

        Raises:
            ConfigError: The model does not support continuous batching.
            RunError: A request failed, or an answer has not one finite log-probability a token.
        """
        model = self.policy.bare_model
        if not hasattr(model, "generate_batch"):
            raise ConfigError(
                f"engine generate_batch: {type(model).__name__} has no continuous batching; use engine=own",
                code="not_supported",
                key="engine.name",
            )
        own = prompts[self.ranks.rank :: self.ranks.size]
        answers = self._draw(own, n, settings, seed, end_token_ids) if own else []
        if progress is not None:
            progress(n * len(prompts), n * len(prompts))
        of_ranks = self.ranks.gather(answers)
        return Batch([of_ranks[k % len(of_ranks)][k // len(of_ranks)] for k in range(len(prompts))], Counter())

    def _draw(
        self,
        prompts: Sequence[TokenIds],
        n: int,
        settings: SamplingSettings,
        seed: int,
        end_token_ids: Sequence[int],
    ) -> list[list[EngineAnswer]]:
        """Draw the answers of this process to its share of the prompts."""
        seed = int.from_bytes(
            hashlib.blake2b(f"{seed}/{prompts[0].tobytes()!r}".encode(), digest_size=4).digest(), "big"
        )
        with evaluating(self.policy), self.policy.stock_attention(), _quiet():
            found = self.policy.bare_model.generate_batch(
                [prompt.tolist() for prompt in prompts],
                generation_config=_generation(settings, n, end_token_ids),
                continuous_batching_config=_batching(self.policy, prompts, n, settings, seed),
                warmup=False,
            )
        return with_logps(self.policy, prompts, list(_by_prompt(found, len(prompts), n, set(end_token_ids), settings)))


def _generation(settings: SamplingSettings, n: int, end_token_ids: Sequence[int]) -> Any:
    """Return the settings in transformers' names; none is left to the model's own configuration."""
    from transformers import GenerationConfig

    draws = settings.temperature > 0
    knobs = {"temperature": settings.temperature, "top_k": settings.top_k or 0, "top_p": settings.top_p or 1.0}
    if settings.min_p is not None:
        knobs["min_p"] = settings.min_p
    ends = sorted(set(end_token_ids)) or [-1]
    return GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=settings.max_new_tokens,
        do_sample=draws,
        num_return_sequences=n,
        eos_token_id=ends,
        pad_token_id=max(ends[0], 0),
        **(knobs if draws else {}),
    )


def _batching(policy: PolicyModule, prompts: Sequence[TokenIds], n: int, settings: SamplingSettings, seed: int) -> Any:
    """Return the settings of the batches. On a CPU the sizes are given: the library's own suit a GPU's memory."""
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    sizes: dict[str, Any] = {}
    if policy.device.type == "cpu":
        longest = max(map(len, prompts)) + settings.max_new_tokens
        rows = min(n * len(prompts), settings.max_rows)
        sizes = {
            "page_size": PAGE,
            "num_blocks": rows * (math.ceil(longest / PAGE) + 1),
            "max_batch_tokens": max(rows, longest),
        }
    return ContinuousBatchingConfig(
        return_logprobs=True, seed=seed, auto_switch_to_flash=False, drop_unsupported_processors=False, **sizes
    )


def _by_prompt(
    found: dict[str, Any], num_prompts: int, n: int, ends: set[int], settings: SamplingSettings
) -> Iterator[list[EngineAnswer]]:
    """Yield the answers to each prompt. The library keeps the order: the n of a prompt stand together.

    Raises:
        RunError: A request failed or is missing, or log-probabilities are.
    """
    outputs = list(found.values())
    failed = [output.error for output in outputs if output.error is not None]
    if failed or len(outputs) != n * num_prompts:
        raise RunError(
            f"engine generate_batch: {len(failed)} requests failed and {n * num_prompts - len(outputs)} are missing; "
            f"the first error is {failed[0] if failed else 'not known'}. Use engine=own",
            code="engine_failed",
            key="engine.name",
        )
    for start in range(0, len(outputs), n):
        yield [_answer(output, ends, settings) for output in outputs[start : start + n]]


def _answer(output: Any, ends: set[int], settings: SamplingSettings) -> EngineAnswer:
    ids = token_ids(output.generated_tokens)
    given = np.zeros(len(ids)) if settings.temperature == 0 else np.array(output.logprobs, dtype=np.float64)
    if len(given) != len(ids) or not np.isfinite(given).all():
        raise RunError(
            f"engine generate_batch: an answer has {len(ids)} tokens and {int(np.isfinite(given).sum())} finite "
            "log-probabilities; one for each is needed. Check the weights of the model, or use engine=own",
            code="bad_logps",
            key="engine.name",
        )
    return EngineAnswer(ids, int(ids[-1]) in ends, None, math.fsum(given), given.astype(np.float32))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's own log inside the block; its errors are raised by us."""
    log = logging.getLogger("ContinuousBatchingLogger")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
