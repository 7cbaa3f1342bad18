"""The routes of an SGLang server: `/generate` takes and returns token ids, with their log-probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiltlm.core.example import TokenIds
from tiltlm.data.accounting import excerpt
from tiltlm.sampling.engines.connection import Asked, BadChoice, Choice, Connection

LORA = (
    "Start SGLang with --enable-lora, --max-lora-rank of at least model.lora.r and --lora-target-modules all, where "
    "it sees the folder under the same path; then go on with --resume"
)
FULL = "Start SGLang where it sees the folder under the same path; then go on with --resume"


@dataclass(frozen=True, eq=False)
class Sglang:
    """An SGLang server. `model` of a request is the adapter; "": none."""

    connection: Connection

    def complete(self, asked: Asked) -> Sequence[Choice]:
        """Draw answers to one prompt; see `Dialect.complete`.

        No seed is sent: where the server obeys it, the n answers to a prompt would be equal.
        """
        settings = asked.settings
        knobs = {
            "n": asked.n,
            "max_new_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": 1.0 if settings.top_p is None else settings.top_p,
            "top_k": settings.top_k or -1,
            "min_p": settings.min_p or 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": sorted(asked.ends),
            "skip_special_tokens": False,
            "no_stop_trim": True,
        }
        return [_choice(one) for one in self._generate(asked.prompt, knobs, asked.model)]

    def score(self, ids: TokenIds, model: str, salt: str) -> list[float | None]:  # noqa: ARG002  # prompts are not salted
        """Return the log-probability of each token but the first; see `Dialect.score`."""
        try:
            (reply,) = self._generate(ids, {"max_new_tokens": 1, "temperature": 1.0}, model, logprob_start_len=0)
            given = reply["meta_info"]["input_token_logprobs"]
            if [int(entry[1]) for entry in given] != ids.tolist():
                raise BadChoice("they are of other tokens")
            return [None if entry[0] is None else float(entry[0]) for entry in given[1:]]
        except (BadChoice, LookupError, TypeError, ValueError) as error:
            raise self.connection.failure(
                "/generate",
                f"no log-probabilities of the prompt ({type(error).__name__}: {error})",
                "The probe needs `input_token_logprobs`; for vLLM set engine.server=vllm",
                code="no_prompt_logps",
                key="server",
            ) from error

    def load_adapter(self, folder: Path, name: str) -> None:
        """Load a LoRA adapter; see `Dialect.load_adapter`."""
        self._change("/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)}, LORA)

    def unload_adapter(self, name: str) -> None:
        """Unload a LoRA adapter; see `Dialect.unload_adapter`."""
        self._change("/unload_lora_adapter", {"lora_name": name}, LORA)

    def load_weights(self, folder: Path) -> None:
        """Replace the weights of the server; see `Dialect.load_weights`."""
        self._change("/update_weights_from_disk", {"model_path": str(folder), "flush_cache": True}, FULL)

    def _change(self, route: str, body: Mapping[str, Any], way_out: str) -> None:
        """Send a request that changes the weights; the reply must say success."""
        said = self.connection.post(route, body, key="sync", way_out=way_out)
        if not (isinstance(said, dict) and said.get("success") is True):
            said = f"it says {excerpt(str(said), 300)}, not success"
            raise self.connection.failure(route, said, way_out, code="sync_failed", key="sync")

    def _generate(
        self, ids: TokenIds, knobs: Mapping[str, Any], adapter: str, **more: Any
    ) -> Sequence[Mapping[str, Any]]:
        """Send a request and return its answers.

        Raises:
            BadChoice: The reply is no JSON.
            RunError: The server refuses it, or fails again and again.
        """
        body = {"input_ids": ids.tolist(), "sampling_params": dict(knobs), "return_logprob": True, **more}
        reply = self.connection.post("/generate", {**body, **({"lora_path": adapter} if adapter else {})})
        replies = reply if isinstance(reply, list) else [reply]
        if not all(isinstance(one, dict) for one in replies):
            raise BadChoice("damaged_reply")
        return replies


def _choice(given: Mapping[str, Any]) -> Choice:
    facts = given.get("meta_info") or {}
    tokens = facts.get("output_token_logprobs")
    finish = (facts.get("finish_reason") or {}).get("type")
    if tokens is None:
        return Choice(given.get("output_ids"), (), str(finish))
    return Choice([int(entry[1]) for entry in tokens], [entry[0] for entry in tokens], str(finish))
