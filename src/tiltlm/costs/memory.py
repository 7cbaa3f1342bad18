"""The memory of one process of a run, by part and by phase, from what was counted."""

from dataclasses import dataclass

from tiltlm.costs.counting import Counted
from tiltlm.costs.devices import Device
from tiltlm.costs.heap import Heap
from tiltlm.costs.sharing import Sharing
from tiltlm.costs.skeleton import Parameters
from tiltlm.costs.trace import Trace


@dataclass(frozen=True)
class Memory:
    """Bytes of one process on its device."""

    parts: dict[str, int]
    """Of a training step, where it needs most: they add up to that phase."""
    phases: dict[str, int]
    """The most bytes of each phase of the run."""

    @property
    def peak(self) -> int:
        """The most bytes at one time."""
        return max(self.phases.values())

    @property
    def peak_phase(self) -> str:
        """The phase that needs most."""
        return max(self.phases, key=self.phases.__getitem__)


def memory_of(
    parameters: Parameters,
    step: Counted,
    reference_peak: int,
    *,
    device: Device,
    sharing: Sharing,
    optimizer: str,
    packs: int,
    num_steps: int,
    reference_bytes: int,
    file_bytes: int,
    head_copy: int,
) -> Memory:
    """Return the memory of one process.

    Args:
        parameters: Of the model.
        step: The largest pack of a step.
        reference_peak: The most bytes of a pack of the reference pass.
        device: The device.
        sharing: How processes share the model.
        optimizer: `training.optimizer`.
        packs: Packs of one process in a step.
        num_steps: Steps of the run.
        reference_bytes: Weights of a reference that runs beside the policy.
        file_bytes: The model's files, which a process that loads on the CPU maps.
        head_copy: Bytes of the copy of the head in 16 bits that a GPU holds during a pack.
    """
    weights = parameters.num_bytes // sharing.shards
    gradients = parameters.trained_bytes // sharing.shards
    moments = parameters.state_bytes(optimizer) // sharing.shards if num_steps > 1 else 0
    reference = reference_bytes // sharing.shards
    update = parameters.state_bytes(optimizer) // sharing.shards
    if sharing.offloads:
        weights = gradients = moments = reference = update = 0
    has_gradients = packs > 1 or sharing.has_buckets
    own_gradients = parameters.trained_bytes // sharing.shards
    working = max(step.peak - own_gradients, step.later_peak if has_gradients else 0) + head_copy
    parts = {
        "process": device.overhead,
        "weights": weights,
        "gradients": gradients,
        "optimiser": moments,
        "reference": reference,
        "activations": working,
    }
    if device.is_cpu and step.whole is not None:
        counted = gradients + moments + working
        held = heap_of(step.whole, parameters, optimizer if moments else "", sharing, packs).top
        parts["gaps"] = max(0, held - counted)
    resident = device.overhead + weights + reference
    loading = parameters.check_bytes + (file_bytes if device.is_cpu else 0)
    if sharing.parallelism.is_sharded:  # a layer is whole until it is divided; the layout is checked on a miniature
        loading = parameters.layer_bytes
    phases = {
        "load": device.overhead + weights + loading,
        "reference pass": resident + reference_peak,
        "train": sum(parts.values()),
        "end of a step": resident + gradients + update,
    }
    if parameters.trained < parameters.total and sharing.shards == 1 and device.is_cpu:
        phases["save"] = phases["train"] + weights  # the adapter is added to a copy of the model
    return Memory({name: size for name, size in parts.items() if size}, phases)


def heap_of(step: Trace, parameters: Parameters, optimizer: str, sharing: Sharing, packs: int) -> Heap:
    """Return the heap of a CPU process after two steps.

    Args:
        step: The largest pack, which stands for every pack.
        parameters: Their moments are made after the first step.
        optimizer: `training.optimizer`; empty if the run has one step.
        sharing: Buckets exist before the first step.
        packs: Packs of a step.
    """
    heap, left = Heap(), step.left
    if sharing.has_buckets:
        for i, size in enumerate(parameters.sizes):
            heap.allocate(("bucket", i), size)
    for number in range(2 if optimizer else 1):
        for pack in range(min(packs, 2)):
            adds = pack > 0 or sharing.has_buckets
            heap.run(step.events, (number, pack), left if adds else frozenset())
        if number == 0 and optimizer:
            share = parameters.state_bytes(optimizer) / max(1, parameters.trained_bytes) / sharing.shards
            for i, size in enumerate(parameters.sizes):
                for moment in range(2):
                    heap.allocate((moment, i), round(size * share / 2))
        if not sharing.has_buckets:
            for block in left:
                heap.free(((number, 0), block))
    return heap
