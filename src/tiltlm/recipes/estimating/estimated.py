"""The result of an estimate: numbers as plain values, and the text that the command prints."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tiltlm.costs.alternatives import Alternative
from tiltlm.costs.estimate import Costs

SCHEMA = 1
MEANINGS: Mapping[str, str] = {
    "process": "libraries, and for a GPU its context",
    "weights": "of the policy",
    "gradients": "of trained weights",
    "optimiser": "its two moments",
    "reference": "weights that run beside the policy",
    "activations": "kept for the backward pass, gathered layers, one chunk of logits",
    "gaps": "freed memory between blocks that the process keeps; more without GLIBC_TUNABLES (docs/memory.md)",
}


@dataclass(frozen=True, eq=False, repr=False)
class Estimate:
    """What a run needs on the named devices."""

    costs: Costs
    alternatives: tuple[Alternative, ...]
    """The first changes with which it fits; empty if it fits as it is."""
    model: str
    prints_json: bool = False
    """Print JSON in place of the text."""

    @property
    def fits(self) -> bool:
        """True if each process has enough memory."""
        return self.costs.fits

    @property
    def exit_code(self) -> int:
        """0 if it fits, else 1."""
        return 0 if self.fits else 1

    def __repr__(self) -> str:
        return f"Estimate: {self._verdict()}"

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as plain values; memory in bytes, times in seconds."""
        costs, device = self.costs, self.costs.workload.device
        duration = asdict(costs.duration) | {"step": costs.duration.step, "run": costs.duration.run}
        return {
            "schema": SCHEMA,
            "model": self.model,
            "device": device.name,
            "processes": costs.workload.processes,
            "fits": costs.fits,
            "precision": costs.workload.blueprint.precision,
            "parameters": {"total": costs.parameters.total, "trained": costs.parameters.trained},
            "memory": {
                "available": device.memory,
                "peak": costs.memory.peak,
                "peak_phase": costs.memory.peak_phase,
                "parts": costs.memory.parts,
                "phases": costs.memory.phases,
            },
            "steps": {
                "count": costs.plan.num_steps,
                "examples": costs.plan.num_examples,
                "batch_size": costs.plan.batch_size,
                "tokens_per_step": costs.plan.tokens_per_step,
                "packs_per_step": costs.plan.packs_per_step,
                "lengths": costs.plan.source,
            },
            "seconds": {
                **duration,
                "is_measured": device.is_measured,
                "efficiency": device.efficiency,
                "bandwidth_efficiency": device.bandwidth_efficiency,
            },
            "disk": {
                "checkpoint": costs.checkpoint_bytes,
                "model": costs.model_bytes,
                "run_directory": costs.disk_bytes,
            },
            "alternatives": [
                {
                    "changes": list(one.changes),
                    "peak": one.costs.memory.peak,
                    "step_seconds": one.costs.duration.step,
                    "note": one.note,
                }
                for one in self.alternatives
            ],
        }

    def summary(self) -> str:
        """Return what the command line prints: the verdict, memory by part and phase, time, disk, what fits."""
        blocks = [self._verdict(), self._what(), self._memory(), self._time(), self._disk()]
        if not self.fits:
            blocks.append(self._others())
        return "\n\n".join(blocks)

    def _verdict(self) -> str:
        costs, device = self.costs, self.costs.workload.device
        peak, each = costs.memory.peak, "each process" if costs.workload.processes > 1 else "the process"
        devices = f"{costs.workload.processes} × {device.name}"
        word = "fits on" if costs.fits else "does not fit on"
        return f"{word} {devices}: {each} needs {gigabytes(peak)} of {gigabytes(device.memory)}"

    def _what(self) -> str:
        costs = self.costs
        parameters, plan, settings = costs.parameters, costs.plan, costs.workload.blueprint.settings
        trained = "" if parameters.trained == parameters.total else f", {parameters.trained:,} of them trained"
        facts = [
            f"model      {self.model}: {parameters.total:,} parameters{trained}; weights {settings.dtype}, products "
            f"{costs.workload.blueprint.precision}",
            f"steps      {plan.num_steps:,} of {plan.batch_size} examples, {plan.tokens_per_step:,.0f} tokens each, in "
            f"{plan.packs_per_step} packs a process",
            f"lengths    {plan.source}",
        ]
        if costs.is_continued:
            facts.append("layers     counted for a few, continued for all")
        if settings.layout == "auto":
            facts.append("layout     shared is assumed; loading checks whether the model can share prompts")
        return "\n".join(facts)

    def _memory(self) -> str:
        memory = self.costs.memory
        rows = [(name, gigabytes(size), MEANINGS[name]) for name, size in memory.parts.items()]
        rows.append(("training step", gigabytes(sum(memory.parts.values())), ""))
        phases = [(name, gigabytes(size), "← most" if name == memory.peak_phase else "") for name, size in
                  memory.phases.items()]  # fmt: skip
        return f"Memory of a process in a training step:\n{table(rows)}\n\nMost in each phase:\n{table(phases)}"

    def _time(self) -> str:
        costs, device = self.costs, self.costs.workload.device
        duration = costs.duration
        rows = [
            ("forward and backward", seconds(duration.compute), f"{duration.flops:.3g} operations of products"),
            ("communication", seconds(duration.communication), "beside them; the longer one counts"),
            ("optimiser", seconds(duration.update), "bound by memory bandwidth"),
            ("step", seconds(duration.step), ""),
            ("reference pass", seconds(duration.reference), "once, unless it is stored already"),
            ("evaluations", seconds(duration.evaluation), ""),
            ("run", seconds(duration.run), f"{duration.num_steps:,} steps; without loading, sampling and saving"),
        ]
        if costs.workload.processes == 1:
            del rows[1]
        if device.is_measured:
            basis = (
                f"products {device.full_peak / 1e9:.0f} (float32) and {device.half_peak / 1e9:.0f} (bf16) GFLOPS and "
                f"{device.bandwidth / 1e9:.1f} GB/s for each process, measured here just now"
            )
        else:
            basis = (
                f"assumed: {device.efficiency:.0%} of the peak for products and {device.bandwidth_efficiency:.0%} of "
                "the memory bandwidth; not measured on this device"
            )
        return f"Time, an estimate ({basis}):\n{table(rows)}"

    def _disk(self) -> str:
        costs = self.costs
        kept = costs.workload.training.keep_checkpoints
        rows = [
            ("checkpoint", gigabytes(costs.checkpoint_bytes), "trained weights and the optimiser's state"),
            ("model", gigabytes(costs.model_bytes), "the folder at the end"),
            ("run directory", gigabytes(costs.disk_bytes), f"{kept} checkpoints, one being written, the model"),
        ]
        return f"Disk:\n{table(rows)}"

    def _others(self) -> str:
        if not self.alternatives:
            return "No change of packs, checkpointing, sharding, LoRA or up to 64 devices makes it fit."
        rows = [
            (
                "  ".join(one.changes),
                gigabytes(one.costs.memory.peak),
                f"a step {seconds(one.costs.duration.step)}" + (f"; {one.note}" if one.note else ""),
            )
            for one in self.alternatives
        ]
        return f"It fits with:\n{table(rows)}"


def gigabytes(num_bytes: float) -> str:
    """Return bytes as text with their unit."""
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:,.1f} GB"
    return f"{num_bytes / 1e6:,.0f} MB"


def seconds(value: float) -> str:
    """Return a time as text with two digits that count."""
    if value < 90:
        return f"{value:.2g} s"
    if value < 5400:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:,.1f} h"


def table(rows: Sequence[tuple[str, str, str]]) -> str:
    """Return rows of a name, a number and a remark, aligned."""
    first, second = (max(len(row[i]) for row in rows) for i in range(2))
    return "\n".join(f"  {name:{first}}  {number:>{second}}  {text}".rstrip() for name, number, text in rows)
