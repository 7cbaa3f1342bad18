"""The costs of a run: memory of a process, time of a step and of the run, bytes on disk."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tiltlm.core.example import Example
from tiltlm.costs.counting import Counted, count, count_parameters
from tiltlm.costs.devices import Device
from tiltlm.costs.duration import Duration, duration_of
from tiltlm.costs.lengths import Plan, plan_of
from tiltlm.costs.memory import Memory, memory_of
from tiltlm.costs.sharing import Sharing
from tiltlm.costs.skeleton import Blueprint, Parameters
from tiltlm.models.model_settings import ModelSettings
from tiltlm.reference.build import LARGER
from tiltlm.training.training_settings import TrainingSettings


@dataclass(frozen=True)
class Reads:
    """What an objective reads beside one forward and backward of each pack."""

    reference_pass: bool = True
    """Reference log-probabilities are computed once, before the first step."""
    live_reference: bool = False
    """A reference runs in each step."""
    reference_copies: int = 0
    """Copies of the weights that the reference holds beside the policy."""
    statistic: bool = False
    """A statistic of the step is computed first, by a forward without gradient."""
    coupled: bool = False
    """A step of several packs begins with a forward without gradient."""


@dataclass(frozen=True, eq=False)
class Workload:
    """Everything on which the costs of a run depend."""

    blueprint: Blueprint
    training: TrainingSettings
    examples: Sequence[Example]
    fingerprint: str
    source: str
    """Where the lengths of the examples come from."""
    num_held_out: int
    reads: Reads
    device: Device
    processes: int
    file_bytes: int
    """Size of the model's files."""

    @property
    def sharing(self) -> Sharing:
        """How the processes share the model."""
        return Sharing.of(self.training.parallelism, self.processes)

    def with_settings(
        self, model: dict[str, Any] | None = None, training: dict[str, Any] | None = None, processes: int | None = None
    ) -> "Workload":
        """Return the same run with other settings."""
        settings: ModelSettings = replace(self.blueprint.settings, **(model or {}))
        return replace(
            self,
            blueprint=replace(self.blueprint, settings=settings),
            training=replace(self.training, **(training or {})),
            processes=processes or self.processes,
        )


@dataclass(frozen=True, eq=False)
class Costs:
    """What a run needs."""

    workload: Workload
    parameters: Parameters
    plan: Plan
    memory: Memory
    duration: Duration
    checkpoint_bytes: int
    """Of one checkpoint: trained weights and the optimiser's state."""
    model_bytes: int
    """Of the model folder at the end."""
    is_continued: bool
    """True if a deep model was counted at two depths."""

    @property
    def fits(self) -> bool:
        """True if the memory of a process is enough."""
        return self.memory.peak <= self.workload.device.memory

    @property
    def disk_bytes(self) -> int:
        """Of the run directory: the checkpoints that are kept, one that is being written, and the model."""
        kept = self.workload.training.keep_checkpoints
        return (kept + 1) * self.checkpoint_bytes + self.model_bytes


def costs_of(workload: Workload) -> Costs:
    """Count what a run needs.

    Raises:
        ModelError: the model cannot be built or counted from its configuration.
    """
    training, sharing, device = workload.training, workload.sharing, workload.device
    blueprint, reads = workload.blueprint, workload.reads
    plan = plan_of(workload.examples, workload.fingerprint, training, workload.processes, LARGER, workload.source)
    parameters = count_parameters(blueprint)
    step = count(blueprint, plan.largest, sharing, on_cpu=device.is_cpu)
    forward, reference_peak = _forward(blueprint, plan, sharing, on_cpu=device.is_cpu)
    is_half = blueprint.precision == "bf16"
    head = blueprint.vocabulary * blueprint.text_config.hidden_size * 2
    # Off the CPU the products of the head are in 16 bits; weights that are gathered in 16 bits are used as they are.
    copies_head = is_half and not (device.is_cpu or blueprint.is_scorer or sharing.parallelism.is_sharded)
    memory = memory_of(
        parameters,
        step,
        reference_peak,
        device=device,
        sharing=sharing,
        optimizer=training.optimizer,
        packs=plan.packs_per_step,
        num_steps=plan.num_steps,
        reference_bytes=reads.reference_copies * parameters.num_bytes,
        file_bytes=workload.file_bytes,
        head_copy=head if copies_head else 0,
    )
    is_several = plan.packs_per_step > 1
    duration = duration_of(
        parameters,
        plan,
        step,
        forward,
        device=device,
        sharing=sharing,
        half_gathers=is_half,
        forwards=reads.live_reference + reads.statistic + (reads.coupled and is_several),
        has_reference_pass=reads.reference_pass,
        num_held_out=workload.num_held_out,
        num_evaluations=_num_evaluations(training, plan),
    )
    return Costs(
        workload,
        parameters,
        plan,
        memory,
        duration,
        parameters.trained_bytes + parameters.state_bytes(training.optimizer),
        parameters.num_bytes,
        step.whole is None,
    )


def _forward(blueprint: Blueprint, plan: Plan, sharing: Sharing, on_cpu: bool) -> tuple[Counted, int]:
    """Count a forward without gradient, and return the most bytes of one of a reference pack.

    It keeps nothing from layer to layer, so checkpointing changes nothing. A reference pack is larger than a training
    pack. Its memory is continued along the line through a training pack and a part of it.
    """
    plain = replace(blueprint, settings=replace(blueprint.settings, gradient_checkpointing=False))
    trees = plan.largest
    whole = count(plain, trees, sharing, on_cpu=on_cpu, backward=False)
    part = trees[: len(trees) // 2]
    tokens = sum(tree.num_tokens for tree in trees)
    if not part or plan.reference_tokens <= tokens:
        return whole, whole.peak
    smaller = count(plain, part, sharing, on_cpu=on_cpu, backward=False)
    slope = (whole.peak - smaller.peak) / (tokens - sum(tree.num_tokens for tree in part))
    return whole, round(whole.peak + slope * (plan.reference_tokens - tokens))


def _num_evaluations(training: TrainingSettings, plan: Plan) -> int:
    """Return how often held-out examples are evaluated: before the first step, at regular steps, after the last."""
    per_epoch = max(1, -(-plan.num_examples // training.batch_size))
    every = training.eval_every or per_epoch
    return 1 + -(-plan.num_steps // every)
