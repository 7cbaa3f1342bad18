"""The plan of a run: the examples of each step and what is due after it, as pure functions of the step's number.

Resuming therefore needs a counter only. Steps are counted from 0; "after step k" means that k steps are done.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

from tiltlm.core import Example
from tiltlm.data.cache.fingerprints import prompt_numbers
from tiltlm.data.order import epoch_order, grouped_order
from tiltlm.training.training_settings import TrainingSettings


@dataclass(frozen=True, eq=False)
class Timetable:
    """The plan of a run, or of one round of it."""

    num_examples: int
    fingerprint: str
    """Digest of the training data; decides the order together with the seed and the epoch."""
    settings: TrainingSettings
    prompts: NDArray[np.int64] | None = None
    """For each example the number of its prompt; only with `training.group_by_prompt`."""
    first_step: int = 0
    """Steps of earlier rounds. All steps below count them in."""
    saves_at_end: bool = True
    """False for a round: whoever makes the rounds says after which of them a checkpoint is saved."""

    @classmethod
    def of(
        cls,
        examples: Sequence[Example],
        fingerprint: str,
        settings: TrainingSettings,
        first_step: int = 0,
        *,
        saves_at_end: bool = True,
    ) -> "Timetable":
        """Build the plan of a run on these examples, or of one of its rounds."""
        prompts = prompt_numbers(examples) if settings.group_by_prompt else None
        return cls(len(examples), fingerprint, settings, prompts, first_step, saves_at_end)

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch; its last step may have fewer examples."""
        return ceil(self.num_examples / self.settings.batch_size)

    @cached_property
    def num_steps(self) -> int:
        """Optimiser steps of this plan, without earlier rounds."""
        steps = self.settings.num_epochs * self.steps_per_epoch
        return steps if self.settings.max_steps is None else min(steps, self.settings.max_steps)

    @cached_property
    def last_step(self) -> int:
        """Steps done when this plan is done."""
        return self.first_step + self.num_steps

    def rows(self, step: int) -> list[int]:
        """Return the indices of the examples of a step."""
        epoch, place = divmod(step - self.first_step, self.steps_per_epoch)
        first = place * self.settings.batch_size
        rows: list[int] = _order(self, epoch)[first : first + self.settings.batch_size].tolist()
        return rows

    def epoch(self, done: int) -> float:
        """Return the epochs after `done` steps, with a fraction."""
        full, place = divmod(done - self.first_step, self.steps_per_epoch)
        return full + min(place * self.settings.batch_size, self.num_examples) / self.num_examples

    def evaluates(self, done: int) -> bool:
        """Return whether to evaluate after `done` steps; always before the first step and after the last."""
        own = done - self.first_step
        return own in (0, self.num_steps) or own % (self.settings.eval_every or self.steps_per_epoch) == 0

    def saves(self, done: int) -> bool:
        """Return whether to save a checkpoint after `done` steps."""
        own, every = done - self.first_step, self.settings.save_every or self.steps_per_epoch
        if own == self.num_steps:
            return own > 0 and self.saves_at_end
        return own > 0 and own % every == 0

    def logs(self, done: int) -> bool:
        """Return whether to record metrics after `done` steps."""
        own = done - self.first_step
        return own == self.num_steps or own % self.settings.log_every == 0


@lru_cache(maxsize=2)
def _order(table: Timetable, epoch: int) -> NDArray[np.int64]:
    """Return the order of the examples in an epoch."""
    fingerprint, seed = table.fingerprint, table.settings.seed
    if table.prompts is None:
        return epoch_order(table.num_examples, fingerprint, seed, epoch)
    return grouped_order(table.prompts, table.settings.batch_size, fingerprint, seed, epoch)
