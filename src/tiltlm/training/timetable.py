"""Which examples a step trains on, and what is due after it: pure functions of the step's number.

A counter is therefore all that resuming needs. Steps are counted from 0; "after step k" means k steps are done.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

from tiltlm.core import Example
from tiltlm.data.cache.fingerprints import prompt_numbers
from tiltlm.data.order import epoch_order, grouped_order
from tiltlm.training.training_settings import TrainingSettings


@dataclass(frozen=True, eq=False)
class Timetable:
    """The plan of a run."""

    num_examples: int
    fingerprint: str
    """Of the training data; decides the order together with the seed and the epoch."""
    settings: TrainingSettings
    prompts: NDArray[np.int64] | None = None
    """For each example the number of its prompt; with `training.group_by_prompt` only."""

    @classmethod
    def of(cls, examples: Sequence[Example], fingerprint: str, settings: TrainingSettings) -> "Timetable":
        """The plan of a run on these examples."""
        return cls(len(examples), fingerprint, settings, prompt_numbers(examples) if settings.group_by_prompt else None)

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
        first = place * self.settings.batch_size
        rows: list[int] = _order(self, epoch)[first : first + self.settings.batch_size].tolist()
        return rows

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
def _order(table: Timetable, epoch: int) -> NDArray[np.int64]:
    fingerprint, seed = table.fingerprint, table.settings.seed
    if table.prompts is None:
        return epoch_order(table.num_examples, fingerprint, seed, epoch)
    return grouped_order(table.prompts, table.settings.batch_size, fingerprint, seed, epoch)
