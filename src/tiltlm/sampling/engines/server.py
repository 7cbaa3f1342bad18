"""An OpenAI-compatible server as an engine: prompts go as token ids, and answers come back as token ids.

Text is never sent: tokenised again, it may have other tokens, and then log-probabilities belong to another answer.
"""

import math
import os
import weakref
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from tiltlm.core.errors import ConfigError, RunError
from tiltlm.core.example import TokenIds, token_ids
from tiltlm.logprobs import PolicyModule
from tiltlm.sampling.drawing import SamplingSettings, prompt_seeds
from tiltlm.sampling.engines.engine import Batch, EngineAnswer, Progress
from tiltlm.sampling.engines.engine_settings import EngineSettings
from tiltlm.sampling.engines.rescoring import with_logps

PARALLEL = 16
"""Requests that are sent at the same time."""
ATTEMPTS = 3
"""Requests for one prompt, until it has its n answers."""
RETRIES = 3
"""Further attempts of the client at one request after a time-out or the status 408, 409, 429 or 5xx."""


class BadChoice(Exception):
    """A choice or a reply that is no answer; its text is the cause."""


@dataclass(frozen=True, eq=False)
class ServerEngine:
    """A server with the route `/v1/completions`."""

    settings: EngineSettings
    client: Any
    model: str
    policy: PolicyModule | None = None
    """Computes log-probabilities at temperature 1; None: only those of the server are known."""
    digest: str = ""
    name: str = "server"
    is_exact: bool = False

    @classmethod
    def connect(cls, settings: EngineSettings, policy: PolicyModule | None, digest: str) -> "ServerEngine":
        """Connect to a server and find its model.

        Raises:
            ConfigError: The package openai is missing, or the server has several models and none is named.
            RunError: The server does not answer.
        """
        client = _client(settings)
        try:
            model = settings.model or _only_model(client, settings)
        except BaseException:
            client.close()
            raise
        engine = cls(settings, client, model, policy, digest)
        weakref.finalize(engine, client.close)  # the garbage collector may drop its sockets before itself
        return engine

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
            missing = n - len(answers)
            if missing == 0:
                break
            try:
                choices = self._ask(prompt, missing, settings, seed + attempt * n, ends)
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

    def _ask(
        self, prompt: TokenIds, n: int, settings: SamplingSettings, seed: int, ends: frozenset[int]
    ) -> Sequence[Any]:
        """Send one request and return its choices. Every knob is given: servers have defaults of their own.

        Raises:
            BadChoice: The reply is no JSON.
            RunError: The server refuses it, or fails again and again.
        """
        import openai

        body = {
            "top_k": settings.top_k or -1,
            "min_p": settings.min_p or 0.0,
            "repetition_penalty": 1.0,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
            "stop_token_ids": sorted(ends),
        }
        try:
            reply = self.client.completions.create(
                model=self.model,
                prompt=prompt.tolist(),
                n=n,
                max_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                top_p=1.0 if settings.top_p is None else settings.top_p,
                seed=seed,
                logprobs=0,
                extra_body=body,
            )
        except openai.OpenAIError as error:
            raise _failed(self.settings, error) from error
        except ValueError as error:  # the client does not turn it into an error of its own
            raise BadChoice("damaged_reply") from error
        return getattr(reply, "choices", None) or ()

    def _read(self, choice: Any, settings: SamplingSettings, ends: frozenset[int]) -> EngineAnswer:
        """Read one choice.

        Raises:
            ConfigError: It has no token ids.
            BadChoice: It has no tokens, was not finished, or its log-probabilities are no numbers.
        """
        ids = getattr(choice, "token_ids", None)
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
        if choice.finish_reason not in ("stop", "length") or len(ids) > settings.max_new_tokens:
            raise BadChoice("not_finished")
        if choice.finish_reason == "stop" and not ended:
            raise BadChoice("no_end_token")
        given = getattr(choice.logprobs, "token_logprobs", None) or ()
        if len(given) != len(ids) or any(p is None or not math.isfinite(p) or p > 1e-3 for p in given):
            raise BadChoice("bad_logps")
        logp, behaviour = self._both_logps(math.fsum(given), settings)
        return EngineAnswer(token_ids(ids), ended, logp, behaviour)

    def _both_logps(self, total: float, settings: SamplingSettings) -> tuple[float | None, float | None]:
        """Return the log-probability at temperature 1 and that of the draw, as far as the server's one says them."""
        if settings.is_exact:
            return total, total
        raw = total if self.settings.logprobs == "raw" else None
        processed = total if self.settings.logprobs == "processed" else None
        return raw, 0.0 if settings.temperature == 0 else processed


def _client(settings: EngineSettings) -> Any:
    try:
        import openai
    except ImportError as error:
        raise ConfigError(
            "a server as engine needs the package openai: pip install 'tiltlm[judge]'",
            code="missing_dependency",
            key="engine.name",
        ) from error
    key = os.environ.get(settings.key_variable) or "none"
    return openai.OpenAI(base_url=settings.name, api_key=key, timeout=settings.timeout, max_retries=RETRIES)


def _only_model(client: Any, settings: EngineSettings) -> str:
    """Return the only model of a server.

    Raises:
        ConfigError: It has several, or none.
        RunError: It does not answer.
    """
    import openai

    try:
        names = [model.id for model in client.models.list()]
    except openai.OpenAIError as error:
        raise _failed(settings, error) from error
    if len(names) != 1:
        raise ConfigError(
            f"engine {settings.name}: the server has {len(names)} models ({', '.join(names[:5])}); choose one: "
            "engine.model=NAME",
            code="missing_setting",
            key="engine.model",
        )
    return str(names[0])


def _failed(settings: EngineSettings, error: Exception) -> RunError:
    return RunError(
        f"engine {settings.name}: the server failed or refused a request: {error}. Nothing that was finished before is"
        " lost: run the command again with --resume",
        code="server_failed",
        key="engine.name",
    )
