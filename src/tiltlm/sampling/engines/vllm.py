"""The routes of a vLLM server, and of others that know its additions to `/v1/completions`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiltlm.core.example import TokenIds
from tiltlm.data.accounting import excerpt
from tiltlm.sampling.engines.connection import Asked, BadChoice, Choice, Connection

LORA = (
    "Start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, --enable-lora and --max-lora-rank of at least "
    "model.lora.r, where it sees the folder under the same path; then go on with --resume"
)
FULL = (
    "Start vLLM with VLLM_SERVER_DEV_MODE=1 and --host 127.0.0.1, where it sees the folder under the same path; then "
    "go on with --resume. The server may be paused now; the next round's weights let it go on"
)


@dataclass(frozen=True, eq=False)
class Vllm:
    """A vLLM server."""

    connection: Connection

    def complete(self, asked: Asked) -> Sequence[Choice]:
        """Draw answers to one prompt; see `Dialect.complete`.

        Every knob is sent: servers have defaults of their own.
        """
        settings = asked.settings
        body = {
            "model": asked.model,
            "prompt": asked.prompt.tolist(),
            "n": asked.n,
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": 1.0 if settings.top_p is None else settings.top_p,
            "top_k": settings.top_k or -1,
            "min_p": settings.min_p or 0.0,
            "repetition_penalty": 1.0,
            "seed": asked.seed,
            "logprobs": 0,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
            "stop_token_ids": sorted(asked.ends),
            **({"cache_salt": asked.salt} if asked.salt else {}),
        }
        return [_choice(one) for one in self._choices(body)]

    def score(self, ids: TokenIds, model: str, salt: str) -> list[float | None]:
        """Return the log-probability of each token but the first; see `Dialect.score`."""
        body = {
            "model": model,
            "prompt": ids.tolist(),
            "max_tokens": 1,
            "temperature": 1.0,
            "prompt_logprobs": 1,
            **({"cache_salt": salt} if salt else {}),
        }
        try:
            given = self._choices(body)[0]["prompt_logprobs"][1:]
            entries = [entry[str(token)]["logprob"] for entry, token in zip(given, ids[1:].tolist(), strict=True)]
        except (BadChoice, LookupError, TypeError, ValueError) as error:
            raise self.connection.failure(
                "/v1/completions",
                f"no log-probabilities of the prompt ({type(error).__name__}: {error})",
                "The probe needs `prompt_logprobs`, which vLLM has; for SGLang set engine.server=sglang",
                code="no_prompt_logps",
                key="server",
            ) from error
        return [None if value is None else float(value) for value in entries]

    def load_adapter(self, folder: Path, name: str) -> None:
        """Load a LoRA adapter; see `Dialect.load_adapter`."""
        body = {"lora_name": name, "lora_path": str(folder)}
        self.connection.post("/v1/load_lora_adapter", body, key="sync", way_out=LORA)

    def unload_adapter(self, name: str) -> None:
        """Unload a LoRA adapter; see `Dialect.unload_adapter`."""
        self.connection.post("/v1/unload_lora_adapter", {"lora_name": name}, key="sync", way_out=LORA)

    def load_weights(self, folder: Path) -> None:
        """Replace the weights of the server; see `Dialect.load_weights`."""

        def post(route: str, body: dict[str, Any] | None = None) -> Any:
            return self.connection.post(route, body, key="sync", way_out=FULL)

        post("/pause?mode=wait")
        post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
        said = post("/reset_prefix_cache")
        if not (isinstance(said, dict) and said.get("success") is True):
            raise self.connection.failure(
                "/reset_prefix_cache",
                f"it says {excerpt(str(said))}, not success: prompts cached under older weights would be used",
                FULL,
                code="sync_failed",
                key="sync",
            )
        post("/resume")

    def _choices(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Send a request for completions and return its choices.

        Raises:
            BadChoice: The reply is no JSON object.
            RunError: The server refuses it, or fails again and again.
        """
        reply = self.connection.post("/v1/completions", body)
        if not isinstance(reply, dict):
            raise BadChoice("damaged_reply")
        return reply.get("choices") or []


def _choice(given: dict[str, Any]) -> Choice:
    logps = (given.get("logprobs") or {}).get("token_logprobs") or ()
    return Choice(given.get("token_ids"), logps, str(given.get("finish_reason")))
