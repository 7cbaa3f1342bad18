"""Settings of engines."""

from dataclasses import dataclass
from typing import Literal

from tiltlm.core.checks import suggestion
from tiltlm.core.errors import ConfigError

NAMES = ("own", "generate_batch")

ServerLogps = Literal["unknown", "raw", "processed"]


@dataclass(frozen=True)
class EngineSettings:
    """Where answers come from."""

    name: str = "own"
    """`own`: this library's sampler; the same request draws the same tokens. `generate_batch`: continuous batching of
    transformers, for GPUs. A URL such as http://127.0.0.1:8000/v1: an OpenAI-compatible server that takes and returns
    token ids (vLLM)."""
    model: str | None = None
    """Name of the model on the server. None: the only one it has."""
    logprobs: ServerLogps = "unknown"
    """What the log-probabilities of the server are. `raw`: those of the model at temperature 1 (vLLM by default).
    `processed`: those of the draw, after temperature and truncation (vLLM with --logprobs-mode processed_logprobs).
    `unknown`: used only where both are the same."""
    score: bool = False
    """Compute log-probabilities at temperature 1 of a server's answers with the local model. It must have the weights
    that the server has."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key for the server; a server of your own needs none."""
    timeout: float = 600.0
    """Seconds until a request to the server counts as failed; it is sent again up to 3 times."""

    def __post_init__(self) -> None:
        if not self.is_server and self.name not in NAMES:
            raise ConfigError(
                f"engine.name is {self.name!r}; it must be own, generate_batch or the URL of a server"
                f"{suggestion(self.name, NAMES)}",
                code="unknown_name",
                key="engine.name",
            )
        if not self.timeout > 0:
            raise ConfigError(
                f"engine.timeout is {self.timeout}; it must be above 0", code="not_positive", key="engine.timeout"
            )
        for name in () if self.is_server else ("model", "logprobs", "score", "key_variable", "timeout"):
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ConfigError(
                    f"engine.{name} has no effect: the engine is {self.name}, not a server; remove it",
                    code="no_effect",
                    key=f"engine.{name}",
                )

    @property
    def is_server(self) -> bool:
        """True if the name is the URL of a server."""
        return self.name.startswith(("http://", "https://"))
