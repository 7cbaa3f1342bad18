"""Settings of engines."""

from dataclasses import dataclass, fields
from typing import Literal

from tiltlm.core.checks import suggestion
from tiltlm.core.errors import ConfigError

NAMES = ("own", "generate_batch")

ServerLogps = Literal["unknown", "raw", "processed"]
ServerKind = Literal["vllm", "sglang"]
Sync = Literal["none", "lora", "full"]


@dataclass(frozen=True)
class EngineSettings:
    """Where answers come from."""

    name: str = "own"
    """`own`: this library's sampler; the same request draws the same tokens. `generate_batch`: continuous batching of
    transformers, for GPUs. A URL such as http://127.0.0.1:8000/v1: an OpenAI-compatible server that takes and returns
    token ids (vLLM, SGLang)."""
    server: ServerKind = "vllm"
    """What the server runs: `vllm` is asked by `/v1/completions`, `sglang` by its own route `/generate`."""
    sync: Sync = "none"
    """How the server gets the weights of each round of a loop, and those before and after a training run. They are
    written to `sync/` in the output folder. `lora`: as a LoRA adapter, if that is what is trained. `full`: as a whole
    model. `none`: it does not, so only a loop of one round is possible."""
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
        unread = () if self.is_server else (f.name for f in fields(self) if f.name != "name")
        for name in unread:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ConfigError(
                    f"engine.{name} has no effect: the engine is {self.name}, not a server; remove it",
                    code="no_effect",
                    key=f"engine.{name}",
                )
        if self.sync == "lora" and self.model is not None:
            raise ConfigError(
                "engine.model has no effect: with engine.sync=lora requests name the adapter of the round; remove it",
                code="no_effect",
                key="engine.model",
            )
        if self.server == "sglang" and self.model is not None:
            raise ConfigError(
                "engine.model has no effect: an SGLang server has one model; remove it",
                code="no_effect",
                key="engine.model",
            )

    @property
    def is_exact(self) -> bool:
        """True if the same request draws the same tokens again."""
        return self.name == "own"

    @property
    def is_server(self) -> bool:
        """True if the name is the URL of a server."""
        return self.name.startswith(("http://", "https://"))
