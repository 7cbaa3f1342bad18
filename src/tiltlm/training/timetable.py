"""Which examples a step trains on, and what is due after it: pure functions of the step's number.

A counter is therefore all that resuming needs. Steps are counted from 0; "after step k" means k steps are done.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from tiltlm.data.order import epoch_order
from tiltlm.training.settings import TrainingSettings


@dataclass(frozen=True)
class Timetable:
    """The plan of a run."""

    num_examples: int
    fingerprint: str
    """Of the training data; decides the order together with the seed and the epoch."""
    settings: TrainingSettings

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch; its last one may have fewer examples."""
        return ceil(self.num_examples / self.settings.batch_size)

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the run."""
        steps = self.settings.num_epochs * self.steps_per_epoch
        return steps if self.settings.max_steps is None else min(steps, self.settings.max_steps)

    def rows(self, step: int) -> list[int]:
        """Indices of the examples of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _order(self.num_examples, self.fingerprint, self.settings.seed, epoch)
        first = place * self.settings.batch_size
        return list(order[first : first + self.settings.batch_size])

    def epoch(self, done: int) -> float:
        """Epochs after `done` steps, with a fraction."""
        full, place = divmod(done, self.steps_per_epoch)
        return full + min(place * self.settings.batch_size, self.num_examples) / self.num_examples

    def evaluates(self, done: int) -> bool:
        """Whether held-out examples are due after `done` steps: before the first step and after the last always."""
        return done in (0, self.num_steps) or done % (self.settings.eval_every or self.steps_per_epoch) == 0

    def saves(self, done: int) -> bool:
        """Whether a checkpoint is due after `done` steps."""
        return done > 0 and (done == self.num_steps or done % (self.settings.save_every or self.steps_per_epoch) == 0)

    def logs(self, done: int) -> bool:
        """Whether a line of metrics is due after `done` steps."""
        return done == self.num_steps or done % self.settings.log_every == 0


@lru_cache(maxsize=2)
def _order(num_examples: int, fingerprint: str, seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(int(i) for i in epoch_order(num_examples, fingerprint, seed, epoch))
