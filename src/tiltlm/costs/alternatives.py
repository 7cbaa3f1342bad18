"""Settings with which a run fits that does not fit as it is: the nearest changes first, each with its cost."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tiltlm.core.errors import ModelError
from tiltlm.costs.counting import count_parameters
from tiltlm.costs.devices import PER_NODE
from tiltlm.costs.estimate import Costs, Workload, costs_of
from tiltlm.models.model_settings import LoraSettings

MOST_SHOWN = 4
SMALLEST_PACK = 512
"""Smaller packs leave a device idle; a run with them is not proposed."""
MOST_DEVICES = 64


@dataclass(frozen=True, eq=False)
class Alternative:
    """A change with which the run fits."""

    changes: tuple[str, ...]
    """As `key=value`, and `--gpus` where that changes."""
    costs: Costs
    note: str = ""
    """What else it changes."""


@dataclass(frozen=True, eq=False)
class _Change:
    """A candidate."""

    changes: tuple[str, ...]
    workload: Workload
    note: str = ""


def alternatives(workload: Workload, longest: int) -> list[Alternative]:
    """Return the first changes with which the run fits.

    Args:
        workload: The run, which does not fit.
        longest: Tokens of the longest tree: a smaller budget of a pack changes nothing.
    """
    found: list[Alternative] = []
    for family in _families(workload, longest):
        for change in family:
            if len(found) == MOST_SHOWN:
                return found
            if not _may_fit(change.workload):
                continue
            try:
                costs = costs_of(change.workload)
            except ModelError:
                break
            if costs.fits:
                found.append(Alternative(change.changes, costs, change.note))
                break
    return found


def _may_fit(workload: Workload) -> bool:
    """Return whether what does not depend on a pack fits."""
    parameters, shards = count_parameters(workload.blueprint), workload.sharing.shards
    fixed = (
        parameters.num_bytes * (1 + workload.reads.reference_copies)
        + parameters.trained_bytes
        + parameters.state_bytes(workload.training.optimizer)
    )
    return bool(workload.device.overhead + fixed / shards < workload.device.memory)


def _families(workload: Workload, longest: int) -> Iterator[list[_Change]]:
    """Yield lists of changes, nearest first; of each list at most one is proposed."""
    model, training, device = workload.blueprint.settings, workload.training, workload.device
    smaller: list[dict[str, Any]] = []
    budget = training.max_tokens // 2
    while budget >= max(SMALLEST_PACK, longest // 2):
        smaller.append({"max_tokens": budget})
        budget //= 2
    checkpointed = {"gradient_checkpointing": True} if not model.gradient_checkpointing else None
    sharded = {"parallel": "shard", "optimizer": "adamw"}
    lora = {"lora": LoraSettings()} if model.lora is None and model.adapter is None else None

    def change(
        model: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        processes: int | None = None,
        note: str = "",
    ) -> _Change:
        texts = [f"--gpus {processes}x{device.name}"] if processes else []
        texts += ["model.lora={r: 16}" if key == "lora" else f"model.{key}=true" for key in model or {}]
        texts += [f"training.{key}={value}" for key, value in (training or {}).items() if key != "optimizer"]
        return _Change(tuple(texts), workload.with_settings(model, training, processes), note)

    yield [change(training=one) for one in smaller]
    if checkpointed:
        yield [change(checkpointed), *(change(checkpointed, one) for one in smaller)]
    if workload.processes > 1 and training.parallel == "replicate":
        yield [change(None, sharded), change(checkpointed, sharded)]
    if lora:
        note = "trains an adapter: another, smaller set of policies"
        yield [change(lora, note=note), *([change(lora | checkpointed, note=note)] if checkpointed else [])]
    if not device.is_cpu:
        counts = [n for n in (2, 4, 8, 16, 32, MOST_DEVICES) if n > workload.processes]
        yield [change(checkpointed, sharded, n) for n in counts if n <= PER_NODE or n % PER_NODE == 0]
