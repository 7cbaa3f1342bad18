"""One of several processes that share a model; started as `python -m support.sharded_steps` by test_sharded_steps.py.

Every case takes a few optimiser steps. The first process takes them alone too, compares gradients and weights, and
writes the worst differences of each case.
"""

import json
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from support.toy_training import rows
from tiltlm.distributed.parallelism import Parallelism
from tiltlm.distributed.ranks import Ranks
from tiltlm.distributed.sharding import Sharding
from tiltlm.distributed.wrapping import full_tensor, is_sharded, local_part, reshard, wrap
from tiltlm.logprobs import PolicyModule
from tiltlm.models import LoraSettings, ModelSettings, Policy, load_policy
from tiltlm.objectives import aot, dpo, grpo, kto, ppo, simpo
from tiltlm.reference import Reference, ReferenceSettings
from tiltlm.reference.build import build_reference
from tiltlm.training.optim.optimizer import build_optimizer, trainable
from tiltlm.training.step import Stepper
from tiltlm.training.training_settings import TrainingSettings

OBJECTIVES = {"dpo": dpo(), "kto": kto(), "aot": aot(0.3), "simpo": simpo(), "grpo": grpo(beta=0.04), "ppo": ppo()}
MODELS = [(tied, lora, again) for tied in (False, True) for lora in (False, True) for again in (False, True)]
"""Tied embeddings, an adapter, gradient checkpointing."""
SETTINGS = TrainingSettings(learning_rate=1e-3)
STEPS = 3
NUM_ROWS, MAX_TOKENS = 7, 60


@dataclass
class Taken:
    """What a few steps gave."""

    losses: list[float]
    gradients: list[dict[str, Tensor]]
    """Of each step, whole."""
    weights: dict[str, Tensor]
    """At the end, whole."""
    before: dict[str, Tensor]
    """Those before the first step."""


def load(folder: Path, tied: bool, lora: bool, again: bool, critic: bool, sharding: Sharding | None = None) -> Policy:
    def add(module: PolicyModule) -> None:
        module.add_value_head(shares_body=tied)
        module.value_head.double()

    settings = ModelSettings(
        str(folder / ("tied" if tied else "untied")),
        dtype="float64",
        lora=LoraSettings(r=3) if lora else None,
        gradient_checkpointing=again,
    )
    policy = load_policy(settings, "cpu", sharding=sharding, add=add if critic else None)
    for name, parameter in trainable(policy.module).items():  # B = 0, or a value head of 0, would hide gradients
        local_part(parameter.data).add_(0.02 if "lora_B" in name or "value_head" in name else 0.0)
    return policy


def take_steps(policy: Policy, name: str, ranks: Ranks, parallelism: Parallelism, references: dict) -> Taken:
    """Take a few steps, and give the policy its weights back."""
    module, objective = policy.module, OBJECTIVES[name]
    reshard(module)
    before = {key: local_part(parameter.detach()).clone() for key, parameter in trainable(module).items()}
    reference: Reference | None = None
    if objective.needs_reference:
        if not references:
            live = ReferenceSettings("initial", cache=False)
            references["initial"] = build_reference(live, policy, is_needed=True, max_tokens=MAX_TOKENS)
        reference = references["initial"]
    wrapped = wrap(module.eval(), ranks, parallelism)
    stepper = Stepper(wrapped, objective, reference, MAX_TOKENS, ranks, noise=1e-6)
    optimizer = build_optimizer(module, SETTINGS, 1e-3)
    taken = Taken([], [], {}, whole(module))
    for step in range(STEPS):
        optimizer.zero_grad()
        taken.losses.append(stepper.train(rows(NUM_ROWS, seed=step)).loss)
        gradients = {key: parameter.grad for key, parameter in trainable(module).items()}
        taken.gradients.append({key: full_tensor(g).clone() for key, g in gradients.items() if g is not None})
        optimizer.step()
    taken.weights = whole(module)
    with torch.no_grad():
        for key, parameter in trainable(module).items():
            local_part(parameter).copy_(before[key])
    return taken


def whole(module: nn.Module) -> dict[str, Tensor]:
    """The trained weights, whole."""
    reshard(module)
    return {key: full_tensor(parameter.detach()).clone() for key, parameter in trainable(module).items()}


def compare(found: Taken, expected: Taken) -> dict[str, float]:
    """Return the largest difference of a gradient, as a share of the step's largest, and of a weight."""
    gradient = 0.0
    for own, others in zip(found.gradients, expected.gradients, strict=True):
        assert own.keys() == others.keys()
        largest = max(float(other.abs().max()) for other in others.values())
        gradient = max(gradient, *(float((own[key] - others[key]).abs().max()) / largest for key in others))
    weights = max(float((found.weights[key] - weight).abs().max()) for key, weight in expected.weights.items())
    moved = max(float((found.weights[key] - before).abs().max()) for key, before in expected.before.items())
    losses = max(abs(a - b) for a, b in zip(found.losses, expected.losses, strict=True))
    return {"gradient": gradient, "weights": weights, "loss": losses, "moved": moved}


def main(folder: Path) -> None:
    ranks = Ranks.join(cpu=True)
    ways = {"replicate": Parallelism(), "shard": Parallelism("shard")}
    if ranks.size == 4:
        ways = {"shard": Parallelism("shard"), "hybrid": Parallelism("hybrid", 2)}
    shardings = {way: Sharding.of(parallelism, ranks) for way, parallelism in ways.items()}
    results = {}
    for (tied, lora, again), critic in product(MODELS, (False, True)):
        expected = taken_alone(folder, tied, lora, again, critic) if ranks.is_first else {}
        for way, parallelism in ways.items():
            policy, references = load(folder, tied, lora, again, critic, shardings[way]), {}
            for name in named(critic):
                found = take_steps(policy, name, ranks, parallelism, references)
                reshard(policy.module)
                facts = {
                    "dtensors": all(isinstance(parameter, DTensor) for parameter in policy.module.parameters()),
                    "sharded": is_sharded(policy.module),
                }
                if ranks.is_first:
                    title = f"{way} {name} tied={tied} lora={lora} again={again}"
                    results[title] = compare(found, expected[name]) | facts
    if ranks.is_first:
        (folder / f"results-{ranks.size}.json").write_text(json.dumps(results))
    ranks.leave()


def named(critic: bool) -> list[str]:
    """Return the names of the objectives with a critic, or of those without one."""
    return [name for name, one in OBJECTIVES.items() if critic == (getattr(one, "critic", None) is not None)]


def taken_alone(folder: Path, tied: bool, lora: bool, again: bool, critic: bool) -> dict[str, Taken]:
    """What the steps of each of these objectives give in one process."""
    policy, references = load(folder, tied, lora, again, critic), {}
    return {name: take_steps(policy, name, Ranks(), Parallelism(), references) for name in named(critic)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
