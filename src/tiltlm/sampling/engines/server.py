"""An OpenAI-compatible server as an engine: prompts go as token ids, and answers come back as token ids.

Text is never sent: tokenised again, it may have other tokens, and then log-probabilities belong to another answer.
"""

import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiltlm.core.errors import ConfigError
from tiltlm.core.example import TokenIds, token_ids
from tiltlm.distributed.position import HERE
from tiltlm.logprobs import PolicyModule
from tiltlm.sampling.drawing import SamplingSettings, prompt_seeds
from tiltlm.sampling.engines.connection import Asked, BadChoice, Choice, Connection, Dialect
from tiltlm.sampling.engines.engine import Batch, EngineAnswer, Progress
from tiltlm.sampling.engines.engine_settings import EngineSettings
from tiltlm.sampling.engines.rescoring import with_logps
from tiltlm.sampling.engines.sglang import Sglang
from tiltlm.sampling.engines.vllm import Vllm

Floats = NDArray[np.float64]

PARALLEL = 16
"""Requests that are sent at the same time."""
ATTEMPTS = 3
"""Requests for one prompt, until it has its n answers."""


@dataclass(frozen=True, eq=False)
class ServerEngine:
    """A server with the route `/v1/completions`."""

    settings: EngineSettings
    dialect: Dialect
    model: str
    """Name of the model on the server; of an SGLang server, that of the adapter, "" without one."""
    policy: PolicyModule | None = None
    """Computes log-probabilities at temperature 1; None: only those of the server are known."""
    digest: str = ""
    salt: str = ""
    """Answers with another salt share no cached prompts."""
    name: str = "server"
    is_exact: bool = False

    @classmethod
    def connect(cls, settings: EngineSettings, policy: PolicyModule | None, digest: str) -> "ServerEngine":
        """Connect to a server and find its model.

        Raises:
            ConfigError: The package openai is missing, or the server has several models and none is named.
            RunError: The server does not answer.
        """
        dialect = dialect_of(settings)
        return cls(settings, dialect, served_model(dialect), policy, digest)

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
        """Draw n answers to each prompt; see `Engine.draw`. A prompt may get fewer: the causes are counted.

        Raises:
            ConfigError: The server does not return token ids.
            RunError: The server refuses a request, or fails again and again.
        """
        seeds = prompt_seeds(seed, prompts)
        results: dict[int, tuple[list[EngineAnswer], Counter[str]]] = {}
        with ThreadPoolExecutor(PARALLEL) as pool:
            waiting = {
                pool.submit(self._answers, prompt, n, settings, seeds[i] % 2**31, frozenset(end_token_ids)): i
                for i, prompt in enumerate(prompts)
            }
            try:
                for future in as_completed(waiting):
                    results[waiting[future]] = future.result()
                    if progress is not None:
                        progress(n * len(results), n * len(prompts))
            finally:
                pool.shutdown(cancel_futures=True)
        answers = [results[i][0] for i in range(len(prompts))]
        dropped = sum((results[i][1] for i in range(len(prompts))), Counter[str]())
        return Batch(answers if self.policy is None else with_logps(self.policy, prompts, answers), dropped)

    def _answers(
        self, prompt: TokenIds, n: int, settings: SamplingSettings, seed: int, ends: frozenset[int]
    ) -> tuple[list[EngineAnswer], Counter[str]]:
        """Return the answers to one prompt, and why some are missing after all attempts."""
        answers: list[EngineAnswer] = []
        causes: Counter[str] = Counter()
        for attempt in range(ATTEMPTS):
            HERE.tick()
            missing = n - len(answers)
            if missing == 0:
                break
            asked = Asked(prompt, missing, settings, seed + attempt * n, ends, self.model, self.salt)
            try:
                choices = self.dialect.complete(asked)
            except BadChoice as bad:
                causes = Counter({str(bad): missing})
                continue
            causes = Counter({"fewer_choices": missing - len(choices)} if len(choices) < missing else {})
            for choice in choices[:missing]:
                try:
                    answers.append(self._read(choice, settings, ends))
                except BadChoice as bad:
                    causes[str(bad)] += 1
        return answers, causes

    def _read(self, choice: Choice, settings: SamplingSettings, ends: frozenset[int]) -> EngineAnswer:
        """Read one choice.

        Raises:
            ConfigError: It has no token ids.
            BadChoice: It has no tokens, was not finished, or its log-probabilities are no numbers.
        """
        ids = choice.token_ids
        if ids is None:
            raise ConfigError(
                f"engine {self.settings.name}: the server returns text without token ids (it does not know"
                " return_token_ids), and tokenising text again may change it. Use a server that returns them (vLLM), or"
                " engine=own",
                code="no_token_ids",
                key="engine.name",
            )
        if not ids:
            raise BadChoice("no_tokens")
        ended = ids[-1] in ends
        if choice.finish not in ("stop", "length") or len(ids) > settings.max_new_tokens:
            raise BadChoice("not_finished")
        if choice.finish == "stop" and not ended:
            raise BadChoice("no_end_token")
        if any(p is None or not math.isfinite(p) or p > 1e-3 for p in choice.logps) or len(choice.logps) != len(ids):
            raise BadChoice("bad_logps")
        given = np.array(choice.logps, dtype=np.float64)
        logp, behaviour = self._both_logps(given, settings)
        return EngineAnswer(
            token_ids(ids),
            ended,
            None if logp is None else math.fsum(logp),
            None if behaviour is None else math.fsum(behaviour),
            None if behaviour is None else behaviour.astype(np.float32),
        )

    def _both_logps(self, given: Floats, settings: SamplingSettings) -> tuple[Floats | None, Floats | None]:
        """Return the log-probabilities at temperature 1 and those of the draw, as far as the server's say them."""
        if settings.is_exact:
            return given, given
        raw = given if self.settings.logprobs == "raw" else None
        processed = given if self.settings.logprobs == "processed" else None
        return raw, np.zeros_like(given) if settings.temperature == 0 else processed


def dialect_of(settings: EngineSettings) -> Dialect:
    """Return the routes of a server; nothing is sent.

    Raises:
        ConfigError: The package openai is missing.
    """
    connection = Connection.open(settings)
    return Sglang(connection) if settings.server == "sglang" else Vllm(connection)


def served_model(dialect: Dialect) -> str:
    """Return the name that requests give as model: that of the settings, else the only one that the server has.

    Raises:
        ConfigError: The server has several models, and none is named.
        RunError: The server does not answer.
    """
    settings = dialect.connection.settings
    return settings.model or ("" if settings.server == "sglang" else dialect.connection.only_model())
