"""Count the forward and the backward of one pack, and a forward without gradient, in one process of a run.

A sharded module is counted as one of its processes, in a group whose other processes are not there (torch's fake
process group): what it gathers and sends has the right size, and nothing is sent. Layers are alike, so a deep model is
counted at two depths and continued along the line through both.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from tiltlm.core.errors import ModelError
from tiltlm.core.forest import Tree, pack_trees, with_score_token
from tiltlm.costs.sharing import Sharing
from tiltlm.costs.skeleton import Blueprint, Parameters
from tiltlm.costs.trace import Part, Trace, traced, without_memory
from tiltlm.distributed.ranks import Ranks
from tiltlm.distributed.sharding import Sharding
from tiltlm.distributed.wrapping import local_part
from tiltlm.logprobs.scoring import ScoreModule

DEPTHS = (3, 4)
"""Layers of the two models that a deep one is continued from: from three on, one more layer adds always the same. The
last one computes less, and a sharded model gathers ahead."""
MOST_LAYERS_WHOLE = 8
"""Models of up to this many layers are counted whole."""


@dataclass(frozen=True, eq=False)
class Counted:
    """What was counted, at one depth or at two."""

    traces: tuple[tuple[int, Trace], ...]
    """Depth and trace."""
    depth: int
    """Layers of the model itself."""

    def value(self, measure: Callable[[Trace], float]) -> float:
        """Return a number that grows along a line with depth, at the model's own depth."""
        (low, first), (high, second) = self.traces[0], self.traces[-1]
        at_low = measure(first)
        if low == high:
            return at_low
        at_high = measure(second)
        return at_high + (self.depth - high) * (at_high - at_low) / (high - low)

    @property
    def peak(self) -> int:
        """The most bytes at one time, gradients among them."""
        return round(self.value(Trace.peak))

    @property
    def later_peak(self) -> int:
        """The most bytes beside gradients that were there before, as in the second pack of a step."""
        return round(self.value(lambda trace: trace.peak(drop_left=True)))

    @property
    def whole(self) -> Trace | None:
        """The trace of the model itself, if it was counted whole."""
        return self.traces[0][1] if self.traces[0][0] == self.depth else None

    def flops(self, part: Part | None = None) -> float:
        """Return the floating-point operations of matrix products, of one part or of all."""
        return self.value(lambda trace: sum(o.flops for o in trace.operations if part in (None, o.part)))


def count_parameters(blueprint: Blueprint) -> Parameters:
    """Count the parameters of a model."""
    with without_memory():
        return Parameters.of(blueprint.build())


def count(
    blueprint: Blueprint,
    trees: Sequence[Tree],
    sharing: Sharing,
    *,
    on_cpu: bool,
    backward: bool = True,
) -> Counted:
    """Count a pack.

    Args:
        blueprint: The model.
        trees: The pack.
        sharing: How the processes share the model.
        on_cpu: The run computes on a CPU. Its model is counted whole, whatever the depth: gaps in its heap follow from
            all allocations.
        backward: Count the backward too; False: a forward without gradient.

    Raises:
        ModelError: the model's own code asks for numbers, which do not exist here.
    """
    depths = (blueprint.depth,) if on_cpu or blueprint.depth <= MOST_LAYERS_WHOLE else DEPTHS
    try:
        with _group(sharing.processes if sharing.shards > 1 else 1):
            traces = tuple(
                (depth, _trace(blueprint.with_depth(depth), trees, sharing, on_cpu, backward)) for depth in depths
            )
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        raise ModelError(
            f"{type(blueprint.config).__name__}: this model's forward depends on the numbers it computes, so it "
            f"cannot be counted before it is loaded ({type(error).__name__}: {str(error).splitlines()[0]}). Train a "
            "few steps with training.max_steps=2 and read the memory from the system",
            code="not_countable",
            key="model.path",
        ) from error
    return Counted(traces, blueprint.depth)


def _trace(blueprint: Blueprint, trees: Sequence[Tree], sharing: Sharing, on_cpu: bool, backward: bool) -> Trace:
    """Return the trace of one pack."""
    sharding = Sharding.of(sharing.parallelism, Ranks(0, sharing.processes))
    is_half = blueprint.precision == "bf16"
    with without_memory():
        policy = blueprint.build()
        if sharding is not None:
            heads = (policy.score_head(),) if isinstance(policy, ScoreModule) and is_half else ()
            sharding.divide(policy, half=is_half, own_dtype=heads)
            policy.computes_on, policy.has_half_weights = torch.device("cpu"), is_half

        def run() -> None:
            forest = pack_trees(with_score_token(trees) if blueprint.is_scorer else trees)
            responses: Any = policy(forest)
            if backward:
                (responses.scores if blueprint.is_scorer else responses.token_logps).sum().backward()

        with torch.set_grad_enabled(backward):
            known = [local_part(p) for p in policy.parameters()]
            return traced(run, blueprint.vocabulary, [*known, *policy.buffers()], widens_head=on_cpu)


@contextmanager
def _group(size: int) -> Iterator[None]:
    """Let this process be one of a group of which no other process is there."""
    if size == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()
