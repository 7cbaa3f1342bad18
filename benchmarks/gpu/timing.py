"""Times on one device: whole steps, routes of attention, chunks of the head, sampling. Each gives a record."""

import functools
import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, Qwen3Config

from tiltlm.core import Comparison, Example, Response, ResponseLogps, Tree, build_trees, pack_trees
from tiltlm.core.example import token_ids
from tiltlm.logprobs import PolicyModule
from tiltlm.logprobs.attention import flex, segments, varlen
from tiltlm.logprobs.attention.layout import Layout
from tiltlm.logprobs.attention.segments import Scores
from tiltlm.logprobs.head.find import Head
from tiltlm.logprobs.head.token_values import token_values
from tiltlm.logprobs.inputs import LayoutName
from tiltlm.objectives import build
from tiltlm.reference import Reference
from tiltlm.sampling import SamplingSettings, sample
from tiltlm.training.step import Stepper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from flops import attended_pairs
from peers.plain_dpo import collate, sums

SHAPES: dict[str, dict[str, int]] = {
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "1.7B": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "8B": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4},
}
"""Of Qwen3, with 8 heads of keys and values of width 128 and a vocabulary of 152 thousand; tiny is for trying out."""
PROFILES = {"hh": (127, 59, 59), "tldr": (382, 34, 34), "ultrafeedback": (121, 288, 288), "tiny": (12, 5, 6)}
"""Mean tokens of prompt, chosen and rejected; lengths are spread around them as in real data."""
MAX_TOKENS = 16_384
"""Tokens of a pack."""


@dataclass(frozen=True)
class System:
    """Something to time, and what puts it in place beforehand, untimed."""

    run: Callable[[], Any]
    prepare: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Machine:
    """Where and how long is measured."""

    device: str
    repeats: int = 5

    def seconds(self, *systems: System) -> list[float]:
        """Median seconds of each, in alternation, after each ran twice."""
        taken: list[list[float]] = [[] for _ in systems]
        for repeat in range(-2, self.repeats):
            for system, times in zip(systems, taken, strict=True):
                system.prepare()
                self.wait()
                start = time.perf_counter()
                system.run()
                self.wait()
                if repeat >= 0:
                    times.append(time.perf_counter() - start)
        return [statistics.median(times) for times in taken]

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak_bytes(self, system: System) -> int:
        """Memory that one run takes at most, model and optimiser included; 0 where nobody counts it."""
        if self.device != "cuda":
            return 0
        system.prepare()
        torch.cuda.reset_peak_memory_stats()
        system.run()
        return torch.cuda.max_memory_allocated()

    def clear(self) -> None:
        """Give back what the last section held."""
        gc.collect()
        torch._dynamo.reset()
        if self.device == "cuda":
            torch.cuda.empty_cache()


def matrix_peak(machine: Machine, size: int) -> float:
    """Floating-point operations a second of a large bf16 product in this process."""
    a, b = (torch.randn(size, size, device=machine.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / machine.seconds(System(lambda: a @ b))[0]


def draw_pairs(profile: str, num_pairs: int, vocabulary: int) -> list[Example]:
    """Random pairs whose lengths are log-normal around the profile's means, σ = ½."""
    rng = np.random.default_rng(0)
    means = np.array(PROFILES[profile])
    lengths = np.maximum(2, (means * np.exp(rng.normal(-0.125, 0.5, (num_pairs, 3)))).astype(int))

    def draw(length: int) -> Any:
        return token_ids(rng.integers(3, vocabulary, length))

    return [
        Example(str(i), draw(p), (Response(draw(c)), Response(draw(r))), comparisons=(Comparison(0, 1),))
        for i, (p, c, r) in enumerate(lengths)
    ]


def make_model(shape: str, vocabulary: int, device: str, dtype: torch.dtype) -> Any:
    """A random Qwen3 of this shape, made where it will be."""
    is_tiny = shape == "tiny"
    config = Qwen3Config(
        **SHAPES[shape],
        num_key_value_heads=2 if is_tiny else 8,
        head_dim=16 if is_tiny else 128,
        vocab_size=vocabulary,
        max_position_embeddings=8192,
        tie_word_embeddings=shape != "8B",
    )
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def with_adapter(model: Any) -> Any:
    """LoRA on every linear module but the head."""
    import peft

    return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear"))


@dataclass
class Known(Reference):
    """A reference whose log-probabilities are known: the untrained policy's."""

    module: PolicyModule
    logps: dict[int, Tensor] = field(default_factory=dict)

    def prepare(self, examples: Sequence[Example]) -> None:
        for example in examples:
            tree = Tree(example.prompt_ids, example.responses)
            with torch.no_grad():
                found = self.module(pack_trees([tree])).token_logps
            parts = found.split([len(r.token_ids) for r in example.responses])
            self.logps |= {id(r): part for r, part in zip(example.responses, parts, strict=True)}

    def attach(self, responses: ResponseLogps, trees: Sequence[Tree]) -> ResponseLogps:
        return responses.with_reference(torch.cat([self.logps[id(r)] for tree in trees for r in tree.responses]))


def necessary_flops(model: Any, examples: Sequence[Example], full: bool) -> float:
    """Matrix products of a step that no system can leave out, each distinct token once; adapters spare dW."""
    config, trees = model.config, build_trees(examples)[0]
    body = sum(p.numel() for name, p in model.named_parameters() if ".layers." in name and p.dim() == 2)
    tokens = sum(tree.num_tokens for tree in trees)
    rows = sum(r.num_tokens for tree in trees for r in tree.responses)
    wide = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    products = 2 * body * tokens + 2 * config.hidden_size * config.vocab_size * rows
    return (3 if full else 2) * products + 12 * wide * sum(map(attended_pairs, trees))


def step_record(
    machine: Machine, shape: str, profile: str, num_pairs: int, vocabulary: int, peak: float, compiled: bool
) -> dict[str, Any]:
    """Whole DPO steps, cached reference, bf16 products: tiltlm's layouts and a plain padded loop, in alternation.

    8B trains an adapter on bf16 weights, since optimiser and gradients of all would not fit; the others all weights.
    """
    full = shape != "8B"
    model = make_model(shape, vocabulary, machine.device, torch.float32 if full else torch.bfloat16)
    examples = draw_pairs(profile, num_pairs, vocabulary)
    flops = necessary_flops(model, examples, full)
    tokens = sum(tree.num_tokens for tree in build_trees(examples)[0])
    stock = model.config._attn_implementation
    model = model if full else with_adapter(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=machine.device == "cuda")
    modules = {layout: PolicyModule(model, layout, "bf16") for layout in ("padded", "packed", "shared")}
    known = Known(modules["shared"])
    known.prepare(examples)

    def finish() -> None:
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def ours(layout: LayoutName) -> System:
        module = modules[layout]
        stepper = Stepper(module, build("dpo", beta=0.1), known, MAX_TOKENS)

        def prepare() -> None:
            module.bare_model.set_attn_implementation(stock)
            module._lay_out()  # three modules on one model: the one that is next has its way

        return System(lambda: (stepper.train(examples), finish()), prepare)

    def plain(num_parts: int) -> System:
        size = -(-num_pairs // num_parts)
        parts = [plain_batch(examples[i : i + size], known, machine.device) for i in range(0, num_pairs, size)]

        def run() -> None:
            for batch, reference_sums in parts:
                with torch.autocast(machine.device, torch.bfloat16):
                    chosen, rejected = (sums(model, *batch) - reference_sums).chunk(2)
                cast(Any, -logsigmoid(0.1 * (chosen - rejected)).sum() / num_pairs).backward()
            finish()

        return System(run, lambda: modules["padded"].bare_model.set_attn_implementation(stock))

    systems = {layout: ours(layout) for layout in ("shared", "packed", "padded")}
    systems |= {f"plain loop, {parts} part(s)": plain(parts) for parts in (1, 4)}
    record = {"shape": shape, "profile": profile, "pairs": num_pairs, "tokens": tokens, "full": full}
    record |= compare(machine, systems, tokens, flops, peak, optimizer)
    if compiled:
        systems["shared"].prepare()
        start = time.perf_counter()
        modules["shared"].compile_layers("inductor" if machine.device == "cuda" else "eager")
        systems["shared"].run()
        record["first compiled step seconds"] = time.perf_counter() - start
        record |= compare(machine, {"shared, compiled": systems["shared"]}, tokens, flops, peak, optimizer)
    return record


def plain_batch(examples: Sequence[Example], known: Known, device: str) -> tuple[tuple[Tensor, ...], Tensor]:
    """A padded batch of the plain loop, and its reference's sums."""
    ids = [[e.prompt_ids.tolist(), *(r.token_ids.tolist() for r in e.responses)] for e in examples]
    reference = [known.logps[id(e.responses[side])].sum() for side in (0, 1) for e in examples]
    return tuple(t.to(device) for t in collate(ids)), torch.stack(reference)


def compare(
    machine: Machine,
    systems: Mapping[str, System],
    tokens: int,
    flops: float,
    peak: float,
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    """Seconds, distinct tokens a second, share of the matrix peak and peak memory of each system that has room."""
    record: dict[str, Any] = {}
    memory = {}
    for name, system in systems.items():
        try:
            system.prepare()
            system.run()
            memory[name] = machine.peak_bytes(system)
        except torch.OutOfMemoryError:
            record[name] = "out of memory"
            optimizer.zero_grad()
            gc.collect()
            torch.cuda.empty_cache()
    seconds = machine.seconds(*(systems[name] for name in memory))
    for name, taken in zip(memory, seconds, strict=True):
        record[name] = {
            "seconds": taken,
            "tokens_a_second": tokens / taken,
            "share_of_peak": flops / taken / peak,
            "peak_gib": memory[name] / 2**30,
        }
    return record


def attention_record(
    machine: Machine, profile: str, num_pairs: int, heads: int, groups: int, width: int
) -> dict[str, Any]:
    """Seconds of one layer's attention, forward and backward, by each route, bf16; a route that fails says why."""
    trees = build_trees(draw_pairs(profile, num_pairs, 100))[0]
    layout = Layout(
        tuple(len(t.prompt_ids) for t in trees), tuple(tuple(len(r.token_ids) - 1 for r in t.responses) for t in trees)
    )
    leaves = [
        torch.randn(1, h, layout.num_tokens, width, device=machine.device, dtype=torch.bfloat16, requires_grad=True)
        for h in (heads, groups, groups)
    ]
    record: dict[str, Any] = {"profile": profile, "tokens": layout.num_tokens}
    routes = {"varlen": varlen.attend_varlen, "flex": flex.attend_flex, "segments": segments.attend_segments}
    for name, function in routes.items():

        def run(attend: Any = function) -> None:
            out = attend(*leaves, layout, None, Scores(width**-0.5))
            torch.autograd.grad(out.sum(), leaves)

        try:
            record[name] = machine.seconds(System(run))[0]
        except Exception as failure:  # a route that this device has not is a result
            record[name] = f"{type(failure).__name__}: {str(failure)[:150]}"
    return record


def head_record(machine: Machine, num_rows: int, width: int, vocabulary: int, chunks: Sequence[int]) -> dict[str, Any]:
    """Seconds of the head, forward and backward, by rows of a chunk."""
    module = torch.nn.Linear(width, vocabulary, bias=False, device=machine.device, dtype=torch.bfloat16)
    rows = torch.randn(num_rows, width, device=machine.device, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(0, vocabulary, (num_rows,), device=machine.device)

    def run(chunk: int | None) -> None:
        logps = token_values(Head(), rows, module, targets, chunk=chunk).logps
        torch.autograd.grad(logps.sum(), [rows, module.weight])

    names = ["default", *map(str, chunks)]
    seconds = machine.seconds(*(System(functools.partial(run, chunk)) for chunk in (None, *chunks)))
    return {"rows": num_rows, "vocabulary": vocabulary, "seconds": dict(zip(names, seconds, strict=True))}


def sampling_record(machine: Machine, shape: str, vocabulary: int, n: int, max_new_tokens: int) -> dict[str, Any]:
    """Tokens a second of n samples to each of a few prompts, beside `generate`."""
    policy = PolicyModule(make_model(shape, vocabulary, machine.device, torch.bfloat16))
    prompts = [token_ids(np.random.default_rng(i).integers(3, vocabulary, 64)) for i in range(8)]
    settings = SamplingSettings(max_new_tokens=max_new_tokens)
    ids = torch.tensor(np.stack(prompts), device=machine.device)
    model = policy.bare_model

    def generate() -> None:
        with policy.stock_attention():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, num_return_sequences=n,
                max_new_tokens=max_new_tokens, eos_token_id=None, pad_token_id=0,
            )  # fmt: skip

    own = System(lambda: sample(policy, prompts, n, settings, seed=0, end_token_ids=[vocabulary]))
    seconds = machine.seconds(own, System(generate))
    drawn = n * len(prompts) * max_new_tokens
    return {"shape": shape, "tiltlm": drawn / seconds[0], "generate": drawn / seconds[1]}
