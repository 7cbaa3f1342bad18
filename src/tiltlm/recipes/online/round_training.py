"""Training on the examples of a round, and on those of earlier rounds, with what a policy gradient needs for it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from tiltlm.core import ResponseLogps, build_trees
from tiltlm.core.example import Example
from tiltlm.distributed import Ranks
from tiltlm.objectives import compose
from tiltlm.objectives.shapes.rollouts import PolicyGradient
from tiltlm.online.cards import Card, steered
from tiltlm.online.examples.corrections import corrected, effective_share
from tiltlm.online.rounds import RoundFolder, old_logps, with_old_logps
from tiltlm.recipes.online.drawing.loop_engines import behaviours_of
from tiltlm.recipes.online.loop_run import LoopRunSettings
from tiltlm.reference.build import LARGER
from tiltlm.sampling.answers import AnswerRow, read_answers
from tiltlm.training import Trainer
from tiltlm.training.packs import Pack, cut_into_packs
from tiltlm.training.step import Stepper

RoundExamples = tuple[RoundFolder, Sequence[Example]]
"""The files of a round and its examples."""


@dataclass(eq=False)
class RoundTraining:
    """The trainer of a loop, which is given the examples of one round after the other."""

    settings: LoopRunSettings
    trainer: Trainer
    ranks: Ranks
    is_prepared: bool = False
    """True once the trainer has seen examples."""

    @property
    def step(self) -> int:
        """Optimiser steps so far."""
        return self.trainer.state.step

    @property
    def needs_reference(self) -> bool:
        """True if the objective reads log-probabilities of a reference."""
        return self.trainer.stepper.objective.needs_reference

    def commit(self) -> None:
        """Save a checkpoint."""
        self.trainer.checkpoints.commit(self.trainer.state, self.trainer.window)

    def start_of(self, folder: RoundFolder) -> tuple[int, int]:
        """Return optimiser steps and trained tokens before a round: those noted when it began, else those of now."""
        begun, state = self.ranks.first(lambda: folder.start), self.trainer.state
        return (state.step, state.num_tokens) if begun is None or begun[0] > state.step else begun

    def steer_kl(self, cards: Sequence[Card]) -> float | None:
        """Set the KL coefficient of the round after these cards, and return it; None if it is not steered."""
        loop, objective = self.settings.loop, compose(self.settings.objective)
        if loop.kl_target is None:
            return None
        assert isinstance(objective, PolicyGradient), "checked before"
        assert objective.kl is not None, "checked before"
        coef = steered(objective.kl.coef, cards, loop.kl_target, loop.kl_horizon)
        changed = replace(objective, kl=replace(objective.kl, coef=coef))
        self.trainer.stepper = replace(self.trainer.stepper, objective=changed)
        return coef

    def train(
        self,
        folder: RoundFolder,
        first: int,
        own: Sequence[Example],
        past: Sequence[RoundExamples],
        digest: str,
    ) -> float | None:
        """Train on the examples of a round that begins after `first` steps, and on those of earlier rounds.

        Returns:
            The effective number of samples as a share of all, if there are corrections.
        """
        examples = [*own, *chain.from_iterable(earlier for _, earlier in past)]
        if not examples:
            return None
        start = partial(
            self.trainer.next_round, fingerprint=digest, first_step=first, restarts=self.settings.loop.restarts
        )
        start(examples)
        if self.needs_reference and (reference := self.trainer.stepper.reference) is not None:
            reference.ensure_together(build_trees(examples)[0])
        effective = None
        objective, correction = self.trainer.stepper.objective, self.settings.correction
        is_corrected = correction.kind != "none"
        if isinstance(objective, PolicyGradient) and (self.trainer.timetable.num_steps > 1 or is_corrected):
            examples = with_old_logps(examples, self.old_numbers(folder, examples))
            if is_corrected:
                behaviours = self.behaviours(folder, own)
                for earlier, theirs in past:
                    behaviours += self.behaviours(earlier, theirs, is_past=True)
                examples = corrected(examples, behaviours, correction)
                effective = effective_share(examples)
            if not examples:
                return effective
            start(examples)
        with self.trainer.stopping():
            if not self.is_prepared:
                self.trainer.prepare(check=self.trainer.state.step == 0)
                self.is_prepared = True
            self.trainer.run_to_end()
        return effective

    def old_numbers(self, folder: RoundFolder, examples: Sequence[Example]) -> NDArray[np.float32]:
        """Return what the policy said of the tokens of these examples when the round began: read, or else computed."""
        known = self.ranks.first(lambda: folder.old_numbers)
        if known is not None:
            return known
        computed = self.token_numbers(examples)
        self.ranks.first(lambda: folder.write_old_numbers(computed))
        return computed

    def behaviours(
        self, folder: RoundFolder, examples: Sequence[Example], *, is_past: bool = False
    ) -> list[list[NDArray[np.float32] | None]]:
        """Return the log-probability of each token under what drew it; None for the policy that the round begins with.

        Args:
            folder: The round that drew the samples.
            examples: Its examples.
            is_past: It is an earlier round.
        """
        if not self.settings.engine.is_exact:
            return behaviours_of(examples, self.ranks.first(partial(all_samples, folder, self.settings.loop.refills)))
        if is_past:
            numbers = self.ranks.first(lambda: folder.old_numbers)
            assert numbers is not None, "a round that corrects writes them"
            return [[*logps] for logps in old_logps(examples, numbers)]
        return [[None] * len(example.responses) for example in examples]

    def token_numbers(self, examples: Sequence[Example]) -> NDArray[np.float32]:
        """Return what `token_numbers_of` says of the policy of now."""
        stepper = replace(self.trainer.stepper, module=self.trainer.policy)  # unwrapped: nothing is trained
        return token_numbers_of(stepper, examples)


def token_numbers_of(stepper: Stepper, examples: Sequence[Example]) -> NDArray[np.float32]:
    """Return the log-probability of every scored token of all samples, in their order, and with a critic the values.

    The processes of the stepper share the forwards; all call it together.

    Returns:
        [1, M], or [2, M] with the values in the second row.
    """

    def numbers_of(pack: Pack) -> list[NDArray[np.float32]]:
        """Return the numbers of each response of a pack."""
        with torch.no_grad():
            responses = stepper.policy_logps(pack.trees, stepper.objective.extras)
        assert isinstance(responses, ResponseLogps)
        numbers = torch.stack([responses.token_logps, *responses.extras.values()]).float().cpu()
        return [piece.numpy() for piece in torch.split(numbers, responses.num_tokens.tolist(), dim=1)]

    (packs,) = cut_into_packs(examples, LARGER * stepper.max_tokens, 1)
    found: dict[tuple[int, int], NDArray[np.float32]] = {}  # by the object: two rows of data may have one id
    for pack, pieces in zip(packs, stepper.ranks.map(numbers_of, packs), strict=True):
        for example, slots in zip(pack.examples, pack.slots, strict=True):
            found |= {(id(example), k): pieces[slot] for k, slot in enumerate(slots)}
    return np.concatenate([found[id(one), k] for one in examples for k in range(len(one.responses))], axis=1)


def all_samples(folder: RoundFolder, refills: int) -> list[AnswerRow]:
    """Return the samples of a round and of its refills."""
    paths = [folder.samples_of(refill) for refill in range(refills + 1)]
    return [row for path in paths if path.exists() for row in read_answers(path)]
