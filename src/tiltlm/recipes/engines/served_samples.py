"""Samples of a training run's evaluation by a server, which gets the policy's weights before training and after it.

The policy itself computes all log-probabilities of the samples, so that KL has the rounding of training.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tiltlm.core import RunError
from tiltlm.core.example import TokenIds
from tiltlm.distributed import Ranks
from tiltlm.evaluation.samples import Draw
from tiltlm.logprobs import PolicyModule
from tiltlm.models import Policy
from tiltlm.recipes.engines.policy_folders import PolicyFolders
from tiltlm.recipes.engines.synced_server import PROBES, RESTART, SyncedServer
from tiltlm.recipes.prepare import Prepared
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.sampling import Sampled, SamplingSettings
from tiltlm.sampling.engines.engine import EngineAnswer, Progress

BEFORE, AFTER = "before training", "after training"


@dataclass(frozen=True)
class ServedSamples:
    """A server as what draws samples of the policy, with the weights of one moment."""

    server: SyncedServer
    moment: str

    def __call__(
        self,
        policy: PolicyModule,
        prompts: Sequence[TokenIds],
        n: int,
        settings: SamplingSettings,
        *,
        seed: int,
        end_token_ids: Sequence[int],
        progress: Progress | None = None,
        ranks: Ranks | None = None,  # the server knows them
    ) -> list[list[Sampled]]:
        """Draw n samples for each prompt, as `sample` does. The processes of the run call it together.

        Log-probabilities of the samples are not those of the policy: NaN, until the policy computes them.

        Raises:
            RunError: the server has other weights, before or after it drew, or an answer is missing.
        """
        del policy, ranks
        engine, _ = self.server.engine((BEFORE, AFTER).index(self.moment), self.moment)
        asked: dict[str, Any] = {"seed": seed, "end_token_ids": end_token_ids, "progress": progress}
        batch = self.server.ranks.first(partial(engine.draw, prompts, n, settings, **asked))
        if batch.dropped:
            causes = ", ".join(f"{number} {cause}" for cause, number in sorted(batch.dropped.items()))
            raise RunError(
                f"engine {engine.settings.name}: {batch.dropped.total()} of {n * len(prompts)} samples are missing "
                f"({causes}), so the samples before and after training could not be compared. {RESTART}",
                code="samples_missing",
                key="engine.name",
            )
        self.server.prove(engine, self.moment)  # one that started anew meanwhile has other weights
        return [[_sampled(answer) for answer in own] for own in batch.answers]


def _sampled(answer: EngineAnswer) -> Sampled:
    unknown = np.full(len(answer.token_ids), np.nan, dtype=np.float32)
    return Sampled(answer.token_ids, answer.ended, unknown, unknown)


def open_server(run: Path, ready: Prepared, settings: RunSettings, ranks: Ranks) -> SyncedServer | None:
    """Return the server that draws the samples of a run; nothing is sent. None if the policy's own process draws.

    Args:
        run: The run directory; weights for the server are written to `sync/` in it.
        ready: Model and data.
        settings: All settings of the run.
        ranks: The processes of the run.

    Raises:
        ConfigError: an adapter should be synced and none is trained, or the package openai is missing.
    """
    if not settings.engine.is_server or not isinstance(ready.policy, Policy):
        return None
    whole = settings.engine.sync == "full"
    folders = PolicyFolders(run.absolute() / "sync", ready.policy, ready.data.encoder, ready.data.end_token_id, whole)
    prompts = list({example.prompt_ids.tobytes(): example.prompt_ids for example in ready.data.held_out}.values())
    evaluation = settings.evaluation
    return SyncedServer(
        settings.engine, ready.policy, folders, prompts[:PROBES], evaluation.max_new_tokens, evaluation.seed, ranks
    )


def with_draws(ready: Prepared, server: SyncedServer | None, moment: str) -> Prepared:
    """Return the prepared run whose samples the server draws with the weights of a moment; unchanged without one."""
    if server is None:
        return ready
    draw: Draw = ServedSamples(server, moment)
    return replace(ready, draw=draw)
