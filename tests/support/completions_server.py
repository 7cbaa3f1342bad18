"""Servers on loopback: one whose completions a test scripts, and one that really has a model and loads weights."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.fake_server import FakeServer, Say, fake_server
from tiltlm.core.example import Response, token_ids
from tiltlm.models import ModelSettings, Policy, load_policy
from tiltlm.recipes.answers.sample import STOCK
from tiltlm.sampling import SamplingSettings
from tiltlm.sampling.drawing import prompt_seeds
from tiltlm.sampling.engines.rescoring import token_logps
from tiltlm.sampling.sampler import sample

Reply = Callable[[dict[str, Any], int], tuple[int, Any]]
"""Takes a request's body and how many came before it; returns a status and a body."""


@contextmanager
def serving(reply: Reply, models: Sequence[str | dict[str, Any]] = ("tiny",)) -> Iterator[FakeServer]:
    """Run a server that answers every completion request as `reply` says."""
    with fake_server(lambda request, number: Say(*reply(request, number)), models) as server:
        yield server


def choice(ids: list[int] | None, logps: list[float | None] | None, finish: str = "stop") -> dict[str, Any]:
    """Return a choice as vLLM writes it; `ids=None` leaves the token ids out."""
    found: dict[str, Any] = {"index": 0, "text": "", "finish_reason": finish, "logprobs": {"token_logprobs": logps}}
    return found if ids is None else {**found, "token_ids": ids}


def completion(*choices: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return a reply with these choices."""
    return 200, {"id": "c", "object": "text_completion", "created": 0, "model": "tiny", "choices": list(choices)}


def load(path: str | Path) -> Policy:
    """Load a model folder, or the folder of an adapter, as the server does."""
    return load_policy(ModelSettings(str(path)), choice=STOCK)


@dataclass
class ModelServer:
    """A server that has a real model, as vLLM and SGLang have, with the faults that a test gives it.

    It draws with our own sampler. So where it is told the seeds of the sampler in process, it draws the same tokens.
    """

    path: str
    seeds: Sequence[int] = ()
    """Seeds of calls in process. A request with the seed of one of them draws what that call draws."""
    fault: Callable[[dict[str, Any], int], Say | None] = lambda request, number: None
    """Takes a request and how many came before it; returns a reply instead of the right one."""
    change: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] = lambda choice, request: choice
    """Takes a choice of `/v1/completions` and its request; returns what is sent."""
    noise: float = 0.0
    """Added to each log-probability of a prompt, with alternating signs, as other kernels would."""
    drops_weights: bool = False
    """True: it says that it has loaded weights, and keeps those that it has."""
    models: list[str | dict[str, Any]] = field(default_factory=lambda: ["tiny"])
    loaded: list[Path] = field(default_factory=list)
    """Folders that it was told to load."""
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    is_paused: bool = False
    adapters: dict[str, Policy] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.policy = load(self.path)

    @property
    def routes(self) -> list[str]:
        """Paths of the requests that are no draws."""
        return [r["path"] for r in self.requests if r["path"] not in ("/v1/completions", "/generate")]

    @property
    def draws(self) -> list[dict[str, Any]]:
        """Requests for samples."""
        asked = [r for r in self.requests if r["path"] in ("/v1/completions", "/generate")]
        return [r for r in asked if "prompt_logprobs" not in r and "logprob_start_len" not in r]

    def reply(self, request: dict[str, Any], number: int) -> Say:
        with self.lock:  # a model computes one thing at a time
            said = self.fault(request, number)
            return self.right(request) if said is None else said

    def right(self, request: dict[str, Any]) -> Say:
        """Do what a request says."""
        path = request["path"]
        if path == "/v1/completions":
            if self.is_paused:
                return Say(503, {"error": "paused"})
            known = self.adapters if request["model"] in self.adapters else {"tiny": self.policy}
            if request["model"] not in known:
                return Say(404, {"error": {"message": f"The model {request['model']} does not exist."}})
            policy = known[request["model"]]
            return self.scored(policy, request) if "prompt_logprobs" in request else self.drawn(policy, request)
        if path == "/generate":
            return self.generated(request)
        if path in ("/v1/load_lora_adapter", "/load_lora_adapter"):
            return self.add_adapter(request["lora_name"], Path(request["lora_path"]))
        if path in ("/v1/unload_lora_adapter", "/unload_lora_adapter"):
            del self.adapters[request["lora_name"]]
            self.models[:] = ["tiny", *({"id": name, "parent": "tiny"} for name in self.adapters)]
        elif path == "/collective_rpc":
            assert self.is_paused, "weights are replaced while nothing is drawn"
            assert request["method"] == "reload_weights"
            self.take(Path(request["kwargs"]["weights_path"]))
            return Say(body={"results": [None]})
        elif path == "/update_weights_from_disk":
            assert request["flush_cache"]
            self.take(Path(request["model_path"]))
        elif path in ("/pause?mode=wait", "/resume"):
            self.is_paused = path != "/resume"
        else:
            assert path == "/reset_prefix_cache", path
        return Say(body={"success": True})

    def take(self, folder: Path) -> None:
        """Load the weights of a model folder, which is whole: its marker is written last."""
        assert (folder / "ready.json").exists()
        self.loaded.append(folder)
        if not self.drops_weights:
            self.policy = load(folder)

    def add_adapter(self, name: str, folder: Path) -> Say:
        if name in self.adapters or folder in self.loaded:
            return Say(400, {"message": "already loaded, or cached under this path"})
        assert (folder / "ready.json").exists()
        self.loaded.append(folder)
        known = list(self.adapters.values()) or [self.policy]
        self.adapters[name] = known[-1] if self.drops_weights else load(folder)
        self.models[:] = ["tiny", *({"id": each, "parent": "tiny"} for each in self.adapters)]
        return Say(body={"success": True})

    def answers(self, policy: Policy, ids: Sequence[int], n: int, seed: int, knobs: dict[str, Any]) -> list[Any]:
        """Draw n answers; a seed that is that of a call in process draws what it draws."""
        prompt = token_ids(ids)
        known = [given for given in self.seeds if prompt_seeds(given, [prompt])[0] % 2**31 == seed]
        settings = SamplingSettings(
            knobs["max_tokens"],
            temperature=knobs["temperature"],
            top_k=None if knobs["top_k"] == -1 else knobs["top_k"],
            top_p=None if knobs["top_p"] == 1 else knobs["top_p"],
            min_p=knobs["min_p"] or None,
        )
        ends = knobs["stop_token_ids"]
        return sample(policy.module, [prompt], n, settings, seed=known[0] if known else seed, end_token_ids=ends)[0]

    def drawn(self, policy: Policy, request: dict[str, Any]) -> Say:
        found = self.answers(policy, request["prompt"], request["n"], request["seed"], request)
        choices = [
            choice(one.token_ids.tolist(), one.behaviour_logps.tolist(), "stop" if one.ended else "length")
            for one in found
        ]
        return Say(*completion(*(self.change(one, request) for one in choices)))

    def scored(self, policy: Policy, request: dict[str, Any]) -> Say:
        """Return the log-probabilities of the prompt, as vLLM has them: by token, with the most probable one beside."""
        ids = request["prompt"]
        logps = [logp + self.noise * (-1) ** k for k, logp in enumerate(scores(policy, ids))]
        entries = [None, *({str(token): {"logprob": logp}} for token, logp in zip(ids[1:], logps, strict=True))]
        return Say(*completion({**choice([0], [0.0], "length"), "prompt_logprobs": entries}))

    def generated(self, request: dict[str, Any]) -> Say:
        """Return what SGLang's `/generate` returns."""
        policy = self.adapters[request["lora_path"]] if "lora_path" in request else self.policy
        ids, knobs = request["input_ids"], request["sampling_params"]
        if "logprob_start_len" in request:
            pairs = zip([None, *scores(policy, ids)], ids, strict=True)
            return Say(body={"text": "", "meta_info": {"input_token_logprobs": [[logp, k, None] for logp, k in pairs]}})
        own = self.seeds[len(self.loaded) - 1 :][:1]  # requests have no seed: the call of this round
        seed = prompt_seeds(own[0], [token_ids(ids)])[0] % 2**31 if own else len(self.requests)
        found = self.answers(policy, ids, knobs["n"], seed, {**knobs, "max_tokens": knobs["max_new_tokens"]})
        replies = [
            {
                "text": "",
                "meta_info": {
                    "finish_reason": {"type": "stop" if one.ended else "length"},
                    "output_token_logprobs": [
                        [logp, token, None]
                        for token, logp in zip(one.token_ids.tolist(), one.behaviour_logps.tolist(), strict=True)
                    ],
                },
            }
            for one in found
        ]
        return Say(body=replies if len(replies) > 1 else replies[0])


def scores(policy: Policy, ids: Sequence[int]) -> list[float]:
    """Return the log-probability of each token but the first."""
    ((logps,),) = token_logps(policy.module, [token_ids(ids[:1])], [[Response(token_ids(ids[1:]))]])
    return logps.tolist()


@contextmanager
def serving_model(path: str | Path, **faults: Any) -> Iterator[ModelServer]:
    """Run a server that has the model of a folder."""
    server = ModelServer(str(path), **faults)
    with fake_server(server.reply, server.models) as http:
        server.url, server.requests = http.url, http.requests
        yield server
