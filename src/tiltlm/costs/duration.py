"""The time of a step, from counted operations: each takes as long as its products, or its bytes, whichever is longer.

These are estimates. Peaks come from data sheets, and the share of them that is reached is an assumption
(`Device.efficiency`), unless the device is this machine's processor.
"""

from dataclasses import dataclass

from tiltlm.costs.counting import Counted
from tiltlm.costs.devices import NETWORK, PER_NODE, Device
from tiltlm.costs.lengths import PackSize, Plan
from tiltlm.costs.sharing import Sharing
from tiltlm.costs.skeleton import Parameters
from tiltlm.costs.trace import Operation, Part, Trace

PARTS: tuple[Part, ...] = ("body", "head", "attention")


@dataclass(frozen=True)
class Duration:
    """Seconds."""

    compute: float
    """Of the forwards and backwards of a step, in the process that takes longest; mean over steps."""
    communication: float
    """Of what processes send in a step."""
    update: float
    """Of the optimiser, bound by memory bandwidth."""
    reference: float
    """Of the reference pass, once."""
    evaluation: float
    """Of all evaluations on held-out data."""
    num_steps: int
    flops: float
    """Floating-point operations of the products of a step, all processes."""

    @property
    def step(self) -> float:
        """Of one step. Communication is assumed to run beside computation, so the longer one counts."""
        return max(self.compute, self.communication) + self.update

    @property
    def run(self) -> float:
        """Of all steps, evaluations and the reference pass; loading, sampling and saving are not counted."""
        return self.num_steps * self.step + self.reference + self.evaluation


def seconds_of(operation: Operation, device: Device) -> float:
    """Return the time of one operation: bound by its products or by its bytes."""
    peak = device.half_peak if operation.is_half else device.full_peak
    return max(
        operation.flops / (peak * device.efficiency),
        operation.num_bytes / (device.bandwidth * device.bandwidth_efficiency),
    )


def _by_part(counted: Counted, device: Device) -> dict[Part, float]:
    def measure(part: Part, trace: Trace) -> float:
        return sum(seconds_of(o, device) for o in trace.operations if o.part == part)

    return {part: counted.value(lambda trace, part=part: measure(part, trace)) for part in PARTS}  # type: ignore[misc]


def _scaled(whole: dict[Part, float], of: PackSize, to: PackSize) -> float:
    """Return the seconds of a pack from those of another: by tokens, scored tokens and pairs that attend."""
    return (
        whole["body"] * to.tokens / of.tokens
        + whole["head"] * to.targets / max(1, of.targets)
        + whole["attention"] * to.attended / max(1, of.attended)
    )


def duration_of(
    parameters: Parameters,
    plan: Plan,
    step: Counted,
    forward: Counted,
    *,
    device: Device,
    sharing: Sharing,
    half_gathers: bool,
    forwards: int,
    has_reference_pass: bool,
    num_held_out: int,
    num_evaluations: int,
) -> Duration:
    """Return the time of a run.

    Args:
        parameters: Of the model.
        plan: The packs of its steps.
        step: The largest pack, with backward.
        forward: The same pack without a backward.
        device: The device of each process.
        sharing: How processes share the model.
        half_gathers: Gathered weights have 16 bits.
        forwards: Forwards without gradient of each pack: of a reference that runs in each step, of coupled objectives.
        has_reference_pass: Reference log-probabilities are computed before the first step.
        num_held_out: Held-out examples.
        num_evaluations: Evaluations of the run.
    """
    largest = PackSize.of(plan.largest)
    training, inference = _by_part(step, device), _by_part(forward, device)

    def pack(size: PackSize) -> float:
        return _scaled(training, largest, size) + forwards * _scaled(inference, largest, size)

    compute = [max(sum(map(pack, packs)) for packs in own) for own in plan.steps]
    num_packs = sum(len(own[0]) for own in plan.steps) / len(plan.steps)
    forward_per_example = sum(
        _scaled(inference, largest, size) for own in plan.steps for packs in own for size in packs
    ) / (len(plan.steps) * plan.batch_size * sharing.processes)
    num_passed = plan.num_examples + num_held_out
    flops = step.flops() * plan.tokens_per_step / largest.tokens
    return Duration(
        compute=sum(compute) / len(compute),
        communication=_communication(parameters, sharing, device, num_packs, half_gathers),
        update=_update(parameters, sharing, device),
        reference=forward_per_example * num_passed * has_reference_pass,
        evaluation=forward_per_example * num_held_out * num_evaluations,
        num_steps=plan.num_steps,
        flops=flops,
    )


def _update(parameters: Parameters, sharing: Sharing, device: Device) -> float:
    """AdamW reads gradient, weight and moments and writes the last three; the norm and the finite check read once."""
    num_bytes = 9 * parameters.trained_bytes / sharing.shards
    return num_bytes / (device.bandwidth * device.bandwidth_efficiency)


def _communication(
    parameters: Parameters, sharing: Sharing, device: Device, num_packs: float, half_gathers: bool
) -> float:
    """Return the seconds of what one process sends in a step.

    Shards: weights are gathered in the forward and again in the backward of each pack, and gradients are summed and
    divided after each. Copies sum their gradients once a step. A ring sends (n − 1)/n of the bytes for each of these.
    """
    if sharing.processes == 1:
        return 0.0
    seconds = 0.0
    if sharing.shards > 1:
        link = device.link if sharing.shards <= PER_NODE else min(device.link, NETWORK)
        share = (sharing.shards - 1) / sharing.shards
        gathered = 2 * parameters.num_bytes * (0.5 if half_gathers else 1.0)
        seconds += num_packs * share * (gathered + parameters.trained_bytes) / link
    if sharing.copies > 1:
        link = device.link if sharing.processes <= PER_NODE else min(device.link, NETWORK)
        share = (sharing.copies - 1) / sharing.copies
        seconds += 2 * share * parameters.trained_bytes / sharing.shards / link
    return seconds
