"""What engines on a server have in common: the client, errors that name the route, and the interface of a dialect."""

import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tiltlm.core.errors import ConfigError, RunError
from tiltlm.core.example import TokenIds
from tiltlm.data.accounting import excerpt
from tiltlm.sampling.drawing import SamplingSettings
from tiltlm.sampling.engines.engine_settings import EngineSettings

RETRIES = 3
"""Further attempts of the client at one request after a time-out or the status 408, 409, 429 or 5xx."""
KEPT = "Nothing that was finished before is lost: run the command again with --resume"


class BadChoice(Exception):
    """A choice or a reply that is no answer; its text is the cause."""


class Choice(NamedTuple):
    """One answer as a server gives it, not yet checked."""

    token_ids: Sequence[int] | None
    """None: the server gives text only."""
    logps: Sequence[float | None]
    """The log-probability of each token, as far as the server gives it."""
    finish: str
    """Why it ends: `stop`, `length`, or something else."""


class Asked(NamedTuple):
    """One request for answers."""

    prompt: TokenIds
    n: int
    settings: SamplingSettings
    seed: int
    ends: frozenset[int]
    """An answer ends at the first of these tokens."""
    model: str
    """Name of the model or adapter on the server."""
    salt: str = ""
    """Answers with another salt share no cached prompts."""


class Dialect(Protocol):
    """The routes of one kind of server."""

    @property
    def connection(self) -> "Connection":
        """The connection to the server."""
        ...

    def complete(self, asked: Asked) -> Sequence[Choice]:
        """Draw answers to one prompt; the server may return fewer than were asked for.

        Raises:
            BadChoice: The reply cannot be read.
            RunError: The server refuses the request, or fails again and again.
        """
        ...

    def score(self, ids: TokenIds, model: str, salt: str) -> list[float | None]:
        """Return the log-probability at temperature 1 of each token but the first; None where there is none.

        Raises:
            RunError: As `complete`, or the reply cannot be read.
        """
        ...

    def load_adapter(self, folder: Path, name: str) -> None:
        """Load a LoRA adapter under a new name.

        Raises:
            RunError: The server refuses.
        """
        ...

    def unload_adapter(self, name: str) -> None:
        """Unload a LoRA adapter.

        Raises:
            RunError: The server refuses.
        """
        ...

    def load_weights(self, folder: Path) -> None:
        """Replace the weights of the server by those of a model folder, and empty its cache of prompts.

        Raises:
            RunError: The server refuses.
        """
        ...


@dataclass(frozen=True, eq=False)
class Connection:
    """A server by its URL."""

    settings: EngineSettings
    client: Any

    @classmethod
    def open(cls, settings: EngineSettings) -> "Connection":
        """Return a connection; nothing is sent.

        Raises:
            ConfigError: The package openai is missing.
        """
        try:
            import openai
        except ImportError as error:
            raise ConfigError(
                "a server as engine needs the package openai: pip install 'tiltlm[judge]'",
                code="missing_dependency",
                key="engine.name",
            ) from error
        key = os.environ.get(settings.key_variable) or "none"
        client = openai.OpenAI(base_url=settings.name, api_key=key, timeout=settings.timeout, max_retries=RETRIES)
        found = cls(settings, client)
        weakref.finalize(found, client.close)  # the garbage collector may drop its sockets before itself
        return found

    def post(self, route: str, body: Mapping[str, Any] | None = None, *, key: str = "name", way_out: str = KEPT) -> Any:
        """Send a request and return the JSON of the reply; None if it is damaged, text if it is of another type.

        Args:
            route: Path from the root of the server, such as `/v1/completions`.
            body: Sent as JSON.
            key: Setting of the engine that an error names.
            way_out: What to do about an error.

        Raises:
            RunError: The server refuses, or fails again and again.
        """
        import openai

        code = "server_failed" if key == "name" else "sync_failed"
        root = self.settings.name.rstrip("/").removesuffix("/v1")
        try:
            return self.client.post(root + route, cast_to=object, body=body)
        except openai.APIStatusError as error:
            said = f"status {error.status_code}: {excerpt(error.response.text, 300)}"
            raise self.failure(route, said, way_out, code=code, key=key) from error
        except openai.OpenAIError as error:
            raise self.failure(route, str(error), way_out, code=code, key=key) from error
        except ValueError:  # not even an empty object; the client has no error of its own for it
            return None

    def failure(
        self, route: str, said: str, way_out: str = KEPT, *, code: str = "server_failed", key: str = "name"
    ) -> RunError:
        """Return an error that names server, route, and what it said."""
        return RunError(
            f"engine {self.settings.name}: the server failed or refused {route}: {said.rstrip('.')}. {way_out}",
            code=code,
            key=f"engine.{key}",
        )

    def models(self) -> dict[str, str]:
        """Return the models of the server by name, each with the name of its base if it is an adapter, else "".

        Raises:
            RunError: The server does not answer.
        """
        import openai

        try:
            return {model.id: getattr(model, "parent", None) or "" for model in self.client.models.list()}
        except openai.OpenAIError as error:
            raise self.failure("/v1/models", str(error)) from error

    def only_model(self) -> str:
        """Return the only model of the server, adapters apart.

        Raises:
            ConfigError: It has several, or none.
            RunError: It does not answer.
        """
        names = [name for name, base in self.models().items() if not base]
        if len(names) != 1:
            raise ConfigError(
                f"engine {self.settings.name}: the server has {len(names)} models ({', '.join(names[:5])}); choose "
                "one: engine.model=NAME",
                code="missing_setting",
                key="engine.model",
            )
        return names[0]
