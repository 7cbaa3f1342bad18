"""Sampling beside transformers' `generate`: eight responses to each of sixteen prompts, tokens drawn a second.

    python benchmarks/sampling.py [--shape nano --shape micro] [--threads 1] [--repeats 5] [--device cpu] [--json FILE]

Both systems sample the same random Llama in one process, in turns, at temperature 1 over the whole vocabulary. Prompts
have 40 to 250 tokens, as those of HH-RLHF. In the case `full` nothing ends before 64 tokens; in `ending` the head has a
bias that gives the end token a probability of about 1/24 everywhere. `generate` gets its best: scaled dot-product
attention, its dynamic cache, left padding, and the faster of two ways to batch (all prompts at once, or four of
neighbouring length). Nothing is timed before both are found to draw from the same distribution.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from workload import SHAPES

from tiltlm.core.example import Response, TokenIds, token_ids
from tiltlm.logprobs import PolicyModule
from tiltlm.logprobs.plain import separate_logps
from tiltlm.sampling import SamplingSettings, sample

VOCABULARIES = {"nano": 8192, "micro": 16_000, "135M": 49_152}
END = 0
NUM_PROMPTS, NUM_SAMPLES, MAX_NEW_TOKENS, MEAN_LENGTH = 16, 8, 64, 24

System = Callable[[int], list[TokenIds]]
"""From a seed to all responses, one prompt's after another's."""


@dataclass(frozen=True)
class Result:
    """Medians over the repeats; rates are tokens drawn a second."""

    shape: str
    case: str
    tokens: int
    """That tiltlm drew in a repeat."""
    rates: dict[str, float]
    ratio: float
    """tiltlm's rate over the faster `generate`'s."""


def build(shape: dict[str, int], vocabulary: int, ending: bool, device: str, scale: float = 1.0) -> LlamaForCausalLM:
    """A random Llama; `ending` gives its head a bias that ends a response with probability 1 / MEAN_LENGTH."""
    torch.manual_seed(0)
    config = LlamaConfig(
        **{"num_key_value_heads": shape["num_attention_heads"], **shape}, vocab_size=vocabulary,
        max_position_embeddings=1024, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    if ending:
        head = nn.Linear(config.hidden_size, vocabulary)
        with torch.no_grad():
            head.weight.copy_(model.lm_head.weight).mul_(scale)
            head.bias.zero_()[END] = math.log((vocabulary - 1) / (MEAN_LENGTH - 1))
        model.lm_head = head
    return model.eval().to(device)


def make_prompts(count: int, vocabulary: int) -> list[TokenIds]:
    """Lengths spread evenly over 40 … 250 on a logarithmic scale, in random order."""
    rng = np.random.default_rng(0)
    lengths = rng.permutation(np.geomspace(40, 250, count).round().astype(int))
    return [token_ids(rng.integers(1, vocabulary, n)) for n in lengths]


def tiltlm_system(model: LlamaForCausalLM, prompts: list[TokenIds], ends: list[int], num_samples: int) -> System:
    policy, settings = PolicyModule(model, layout="padded"), SamplingSettings(MAX_NEW_TOKENS)

    def run(seed: int) -> list[TokenIds]:
        drawn = sample(policy, prompts, num_samples, settings, seed=seed, end_token_ids=ends)
        return [s.token_ids for group in drawn for s in group]

    return run


def generate_system(
    model: LlamaForCausalLM, prompts: list[TokenIds], ends: list[int], num_samples: int, per_call: int
) -> System:
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    calls = [order[i : i + per_call] for i in range(0, len(order), per_call)]
    keywords: dict[str, Any] = {
        "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "num_return_sequences": num_samples,
        "max_new_tokens": MAX_NEW_TOKENS, "eos_token_id": ends or None, "pad_token_id": END,
    }  # fmt: skip

    def run(seed: int) -> list[TokenIds]:
        torch.manual_seed(seed)
        drawn: dict[int, list[TokenIds]] = {}
        for members in calls:
            width = max(len(prompts[i]) for i in members)
            ids, mask = torch.full((len(members), width), END), torch.zeros(len(members), width, dtype=torch.int64)
            for row, i in enumerate(members):
                ids[row, width - len(prompts[i]) :] = torch.from_numpy(prompts[i].astype(np.int64))
                mask[row, width - len(prompts[i]) :] = 1
            output = model.generate(ids.to(model.device), attention_mask=mask.to(model.device), **keywords)
            rows = [cut(row, ends) for row in output[:, width:].cpu().numpy()]
            for row, i in enumerate(members):
                drawn[i] = rows[row * num_samples : (row + 1) * num_samples]
        return [response for i in range(len(prompts)) for response in drawn[i]]

    return run


def cut(row: Any, ends: list[int]) -> TokenIds:
    """Up to the first end token; what follows is padding."""
    found = np.flatnonzero(np.isin(row, ends))
    return token_ids(row[: found[0] + 1] if len(found) else row)


def check_same_distribution() -> None:
    """Mean length and mean log-probability of 1,024 short responses of each system, within 4 standard errors."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model, prompts = build(shape, 50, ending=True, device="cpu", scale=20.0), make_prompts(4, 50)
    policy, found = PolicyModule(model, layout="padded"), []
    for make in (tiltlm_system, lambda *given: generate_system(*given, per_call=4)):
        responses = make(model, prompts, [END], 256)(1)
        with torch.no_grad(), policy.stock_attention():
            logps = [
                float(separate_logps(model, prompts[i // 256], Response(tokens, ended=bool(tokens[-1] == END))).sum())
                for i, tokens in enumerate(responses)
            ]
        found.append(np.array([[len(r) for r in responses], logps]))
    for name, ours, theirs in zip(("length", "log-probability"), *found, strict=True):
        error = math.hypot(ours.std(), theirs.std()) / math.sqrt(len(ours))
        print(f"mean {name}: {ours.mean():.2f} and {theirs.mean():.2f}, standard error {error:.2f}")
        if abs(ours.mean() - theirs.mean()) > 4 * error:
            raise SystemExit("the two systems do not draw from the same distribution; nothing is timed")


def measure(shape: str, case: str, repeats: int, device: str) -> Result:
    """Time all systems in turns, after a round to warm up."""
    ends = [END] if case == "ending" else []
    model = build(SHAPES[shape], VOCABULARIES[shape], case == "ending", device)
    prompts = make_prompts(NUM_PROMPTS, VOCABULARIES[shape])
    systems = {
        "tiltlm": tiltlm_system(model, prompts, ends, NUM_SAMPLES),
        "generate, all at once": generate_system(model, prompts, ends, NUM_SAMPLES, NUM_PROMPTS),
        "generate, four by four": generate_system(model, prompts, ends, NUM_SAMPLES, 4),
    }
    rates: dict[str, list[float]] = {name: [] for name in systems}
    tokens = 0
    for repeat in range(repeats + 1):
        for name, run in systems.items():
            start = time.perf_counter()
            count = sum(len(response) for response in run(repeat))  # on the host, so nothing is still under way
            seconds = time.perf_counter() - start
            if repeat:
                rates[name].append(count / seconds)
            if name == "tiltlm":
                tokens = count
    medians = {name: round(statistics.median(found), 1) for name, found in rates.items()}
    ours, *theirs = medians.values()
    return Result(shape, case, tokens, medians, round(ours / max(theirs), 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(VOCABULARIES), action="append")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    check_same_distribution()
    results = []
    for shape in given.shape or ("nano", "micro"):
        for case in ("full", "ending"):
            results.append(measure(shape, case, given.repeats, given.device))
            print(f"{shape}, {case}: {results[-1].rates}, ratio {results[-1].ratio}", flush=True)
    if given.json is not None:
        conditions = {"threads": given.threads, "device": given.device, "torch": torch.__version__}
        given.json.write_text(json.dumps({**conditions, "results": [asdict(r) for r in results]}, indent=2))


if __name__ == "__main__":
    main()
