"""Settings of a loop: its rounds, and when it stops."""

from dataclasses import dataclass
from typing import Literal

from tiltlm.core.checks import not_negative, positive, prefix_errors


@dataclass(frozen=True)
class LoopSettings:
    """The rounds of a loop."""

    rounds: int = 20
    """Most rounds. The learning-rate schedule covers the steps of all of them."""
    prompts_per_round: int = 64
    """Prompts of a round; if the data has fewer, all of them."""
    n: int = 2
    """Samples of each prompt."""
    reference: Literal["fixed", "reset"] = "fixed"
    """`fixed`: the reference that `reference.name` says, in all rounds. `reset`: the policy at the start of each round.
    Then the distance to the policy before the first round has no bound: set `stop.kl`."""
    seed: int = 0
    """Seed of the order of the prompts and of the samples."""
    save_every: int = 1
    """Rounds between two checkpoints. A resumed loop trains the rounds after the newest one again, on their samples."""

    def __post_init__(self) -> None:
        with prefix_errors("loop"):
            positive(
                **{name: float(getattr(self, name)) for name in ("rounds", "prompts_per_round", "n", "save_every")}
            )
            not_negative(seed=float(self.seed))


@dataclass(frozen=True)
class StopSettings:
    """When a loop stops before its last round."""

    kl: float | None = None
    """KL to the policy before the first round, nats per response: the loop stops when the mean of a round is above."""
    sampled_tokens: int | None = None
    """Tokens of all samples."""
    judgements: int | None = None
    """Judgements, also those that were stored already. A judge that compares does so for every two samples."""
    empty_rounds: int = 3
    """Rounds in a row that give no example."""

    def __post_init__(self) -> None:
        with prefix_errors("stop"):
            given = {name: value for name, value in vars(self).items() if value is not None}
            positive(**{name: float(value) for name, value in given.items()})
