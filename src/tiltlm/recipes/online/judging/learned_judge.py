"""A judge that learns inside the loop: a reward model that labels all pairs, taught by the judge's labels of a few.

In each round it chooses pairs of the samples (`buying.py`), the judge labels them, it learns from these labels
and from those of some earlier rounds, and then scores all samples of the round. Its weights after a round are a
checkpoint of its own trainer in `judge/`; the newest two are kept, which is all that resuming needs. Every other step
leaves a file in the folder of the round.

Source: Singhal et al. 2024, arXiv 2405.01511 (D2PO), Algorithm 1.
"""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tiltlm.core import ConfigError, RunError
from tiltlm.core.example import Example
from tiltlm.data.accounting import Defect
from tiltlm.data.tokens.encoder import Encoder
from tiltlm.distributed import Ranks
from tiltlm.judging import check_roles
from tiltlm.judging.judge import Judge
from tiltlm.judging.scorers.encoding import encoder_of, problem_of, record_of
from tiltlm.judging.scorers.reward_model import RewardModel
from tiltlm.models import ModelSettings, Scorer, load_scorer
from tiltlm.models.folders import locate, short_name
from tiltlm.objectives.catalog import reward_model
from tiltlm.online.cards import Lesson
from tiltlm.online.examples.rules import ExampleSettings, form_examples
from tiltlm.online.groups import Group
from tiltlm.online.loop_settings import LearnedJudgeSettings
from tiltlm.online.rounds import RoundFolder
from tiltlm.recipes.online.judging.buying import agreement, choose_pairs
from tiltlm.recipes.online.judging.verdicts import groups_of, judge_round, with_rivals
from tiltlm.recipes.online.loop_run import LoopRunSettings
from tiltlm.recipes.prepare import note_all
from tiltlm.recipes.progress import ProgressCallback
from tiltlm.recipes.train import origin_of, save_model
from tiltlm.reference import model_digest
from tiltlm.runs import RunDirectory
from tiltlm.sampling.answers import AnswerRow, read_answers
from tiltlm.training import Trainer, build_trainer
from tiltlm.training.checkpoints.files import damage, folder_of, load
from tiltlm.training.checkpoints.tensors import policy_tensors, restore_policy
from tiltlm.training.recorder import Listener
from tiltlm.training.state import TrainingState, Window
from tiltlm.training.training_settings import TrainingSettings

log = logging.getLogger(__name__)

FOLDER = "judge"
"""Folder of the learned judge in that of the run: its checkpoints and metrics, and in the end `model/`."""
DIVERGED = ("too_many_bad_steps", "weights_not_finite")
"""Errors of a training whose loss, gradient or weights are not finite."""

Ask = Callable[[Sequence[AnswerRow]], list[dict[str, Any]]]
"""Returns what the judge says about the samples of each row."""


def load_learned_judge(settings: LoopRunSettings, measuring: Judge | None) -> Scorer | None:
    """Load the model with which the learned judge begins; None without one.

    Args:
        settings: The settings of the loop.
        measuring: The judge that does not train.

    Raises:
        ConfigError: the policy begins with an adapter, which has no score head, and no other model is named; or the
            model is the judge that measures.
        ModelError: the model cannot be used.
    """
    learned, policy = settings.learned_judge, settings.model
    if not learned.labels:
        return None
    own = replace(policy, lora=None, adapter=None)
    if learned.model is not None:
        own = ModelSettings(learned.model, dtype=policy.dtype, precision=policy.precision)
    elif locate(policy.path, policy.adapter).adapter is not None:
        raise ConfigError(
            "the policy begins with an adapter, so the learned judge cannot begin as the policy with a new score head; "
            "name its model: learned_judge.model=FOLDER",
            code="missing_setting",
            key="learned_judge.model",
        )
    loaded = load_scorer(own)
    note_all(loaded.notes)
    if measuring is not None:
        check_roles([RewardModel(loaded, role="train"), measuring])
    return loaded


@dataclass(eq=False)
class LearnedJudge:
    """A reward model with its trainer, and what it needs to know of the loop."""

    run: Path
    """The run directory of the loop."""
    settings: LearnedJudgeSettings
    loaded: Scorer
    trainer: Trainer
    gold: ExampleSettings
    """How a label of the judge becomes an example."""
    scale: float
    """Of the judge: difference of two scores that is one nat of preference."""
    seed: int
    digest: str
    """Of the prompts."""
    ask: Ask
    progress: ProgressCallback
    accepts_errors: bool

    @classmethod
    def of(
        cls,
        loaded: Scorer,
        run: RunDirectory,
        settings: LoopRunSettings,
        digest: str,
        *,
        scale: float,
        ask: Ask,
        progress: ProgressCallback,
        accepts_errors: bool,
    ) -> "LearnedJudge":
        """Build the trainer of a loaded reward model.

        Args:
            loaded: The reward model.
            run: The run directory of the loop.
            settings: The settings of the loop.
            digest: Of the prompts.
            scale: Difference of two scores of the judge that is one nat of preference.
            ask: Asks the judge.
            progress: Called with what is done.
            accepts_errors: Go on however many samples it cannot score.
        """
        own = settings.learned_judge
        training = TrainingSettings(
            learning_rate=own.rate,
            num_epochs=own.epochs,
            batch_size=own.batch,
            max_tokens=settings.training.max_tokens,
            schedule="constant",
            warmup_ratio=0.0,
            seed=settings.loop.seed,
            save_every=sys.maxsize,  # after a round only, by `learn`
            max_bad_steps=1,
        )
        folder = run.path / FOLDER
        folder.mkdir(exist_ok=True)
        listener = Listener(note=lambda text: log.info("learned judge: %s", text))
        inside = replace(run, path=folder)
        trainer = build_trainer(
            loaded.module,
            (),
            (),
            reward_model(),
            None,
            training,
            inside,
            digest,
            ranks=Ranks(device=loaded.module.device),
            listener=listener,
            schedule=lambda _: 1.0,
            origin=origin_of(loaded, model_digest(loaded.module)),
        )
        gold = ExampleSettings("pair", soft=settings.examples.soft)
        more = settings.loop.seed, digest, ask, progress, accepts_errors
        return cls(run.path, own, loaded, trainer, gold, scale, *more)

    @property
    def description(self) -> str:
        """What it began as, and what it learns from, in words."""
        own = self.settings
        which = "those it tells apart least" if own.choose == "closest" else "chosen at random"
        return f"{short_name(self.loaded.settings.path)}, {own.labels:,} labels a round, {which}"

    def scorer(self) -> RewardModel:
        """Return it as a judge, with its weights of now."""
        return RewardModel(self.loaded, max_tokens=self.trainer.settings.max_tokens, role="train")

    def judge(self, number: int, rows: Sequence[AnswerRow], folder: RoundFolder) -> list[dict[str, Any]]:
        """Return its scores of the samples of a round, after it has learned from the labels of the round.

        The digest that it then has is in every line, and lines with another one are not used.
        """
        lesson = folder.lesson or self.learn(number, rows, folder)
        known = folder.verdicts("train")
        if known is not None and all(one["judge"] == lesson.judge for one in known):
            return known
        self.set_back(number)
        scored = self.scores(rows, accepts_errors=self.accepts_errors)
        verdicts = [{**one, "judge": lesson.judge} for one in scored]
        folder.write_verdicts(verdicts, "train")
        return verdicts

    def learn(self, number: int, rows: Sequence[AnswerRow], folder: RoundFolder) -> Lesson:
        """Buy the labels of a round, learn from them, and return what came out.

        Raises:
            RunError: its weights after the round before are missing or damaged.
        """
        self.set_back(number - 1)
        before = self.scores(rows)
        if folder.bought is None:
            groups = own_groups(rows, before, number)
            pairs = choose_pairs(groups, self.settings.labels, self.settings.choose, self.seed)
            folder.write_bought([{"id": groups[k].id, "pair": [i, j], "gap": gap} for k, i, j, gap in pairs])
        if folder.gold is None:
            folder.write_gold(self.ask(bought_rows(rows, folder)))
        agrees = self.agreements(rows, before, number, folder)
        kept = {name: tensor.to("cpu", copy=True) for name, tensor in policy_tensors(self.loaded.module).items()}
        diverged = not self.train(number) or num_scores(self.scores(rows)) < num_scores(before)
        if diverged:
            restore_policy(self.loaded.module, kept)
            log.warning(
                "round %d: the learned judge diverged, and stays as it was before the round; lower learned_judge.rate",
                number,
                extra={"event": "learned_judge_diverged", "round": number},
            )
        trainer = self.trainer
        trainer.optimizer.state.clear()  # each round begins with a new one
        trainer.state = TrainingState(step=trainer.state.step)
        trainer.checkpoints.commit(trainer.state, Window())
        trainer.checkpoints.wait()  # learned.json names it
        lesson = Lesson(self.scorer().digest, trainer.state.step, agrees, diverged)
        folder.write_lesson(lesson)
        return lesson

    def agreements(
        self, rows: Sequence[AnswerRow], scored: Sequence[Mapping[str, Any]], number: int, folder: RoundFolder
    ) -> tuple[bool | None, ...]:
        """Return for each label of a round whether these scores of its samples predict it; None for a tie."""
        found = []
        own = {group.id: group for group in own_groups(rows, scored, number)}
        labelled = own_groups(bought_rows(rows, folder), folder.gold or (), number, self.scale)
        for one, group in zip(folder.bought or (), labelled, strict=True):
            first, second = own[one["id"]].scores[one["pair"]]
            found.append(agreement(first - second, group.preference[0, 1]))
        return tuple(found)

    def train(self, number: int) -> bool:
        """Learn from the labels of a round and of those before; return False if loss or weights are not finite."""
        examples, trainer = self.examples(number), self.trainer
        if not examples:
            return True
        first = trainer.state.step
        trainer.next_round(examples, f"{self.digest} labels of round {number}", first, restarts=True)
        trainer.recorder.rewind(first, -1)
        try:
            trainer.run_to_end()
        except RunError as error:
            if error.code not in DIVERGED:
                raise
            return False
        return True

    def examples(self, number: int) -> list[Example]:
        """Return the labels of a round and of `earlier_rounds` before it, as examples in this model's tokens."""
        found: list[Example] = []
        for earlier in range(max(0, number - self.settings.earlier_rounds), number + 1):
            folder = RoundFolder.of(self.run, earlier)
            rows = bought_rows(read_answers(folder.samples), folder)
            for place, (row, said) in enumerate(zip(rows, folder.gold or (), strict=True)):
                own = self.encoded(row)
                groups = [] if own is None else own_groups([own], [said], earlier, self.scale)
                name = f"{row.id} of round {earlier}, label {place}"  # a prompt may have several
                found += [replace(one, id=name) for one in form_examples(groups, self.gold).examples]
        return found

    def encoded(self, row: AnswerRow) -> AnswerRow | None:
        """Return a bought pair in this model's tokens, as it scores them; None if it cannot read them."""
        (found,) = self.encoder.encode_many([record_of(row.prompt, row.answers, self.encoder)])
        if isinstance(found, Defect) or problem_of(found, self.encoder):
            return None
        return replace(row, prompt_ids=found.prompt_ids, token_ids=tuple(one.token_ids for one in found.responses))

    @cached_property
    def encoder(self) -> Encoder:
        """What makes text into this model's tokens."""
        return encoder_of(self.loaded)

    def scores(self, rows: Sequence[AnswerRow], *, accepts_errors: bool = True) -> list[dict[str, Any]]:
        """Return its scores of samples, with its weights of now; they are not stored in the cache of judgements.

        Rounding depends on what is scored together, so a round that was stopped scores all of its samples again.
        """
        return judge_round(self.scorer(), rows, self.progress, accept_errors=accepts_errors)

    def set_back(self, number: int) -> None:
        """Give the model the weights that it had after a round; −1: those with which it began.

        Raises:
            RunError: they are missing or damaged.
        """
        step = 0
        if number >= 0:
            folder = RoundFolder.of(self.run, number)
            lesson = folder.lesson
            if lesson is None:
                raise missing_weights(folder.path, "learned.json is missing")
            step = lesson.last_step
        if self.trainer.state.step != step:
            path = folder_of(self.trainer.checkpoints.run.checkpoints, step)
            if reason := damage(path):
                raise missing_weights(path, reason)
            restore_policy(self.loaded.module, load(path).policy)
        self.trainer.state = TrainingState(step=step)

    def save(self, num_rounds: int) -> None:
        """Write what it is after so many rounds as a reward model, `judge/model/`."""
        self.set_back(num_rounds - 1)
        save_model(self.loaded, self.encoder, self.loaded.end_token_id, self.run / FOLDER)


def missing_weights(path: Path, reason: str) -> RunError:
    """Return the error of a learned judge whose state cannot be read."""
    return RunError(
        f"{path}: the weights of the learned judge cannot be read: {reason}. Restore the folder, or start again with "
        "--overwrite",
        code="missing_weights",
        key="learned_judge.labels",
    )


def own_groups(
    rows: Sequence[AnswerRow], verdicts: Sequence[Mapping[str, Any]], number: int, scale: float = 1.0
) -> list[Group]:
    """Return samples of the policy with what a judge of this scale said about them in a round."""
    return groups_of(with_rivals(rows, (), "policy", {}), verdicts, number, scale=scale)


def bought_rows(rows: Sequence[AnswerRow], folder: RoundFolder) -> list[AnswerRow]:
    """Return the bought pairs of a round, as rows of two answers."""
    by_id = {row.id: row for row in rows}
    return [_two(by_id[one["id"]], *one["pair"]) for one in folder.bought or ()]


def _two(row: AnswerRow, i: int, j: int) -> AnswerRow:
    assert row.token_ids is not None, "the sampler gives tokens"
    return replace(
        row,
        answers=(row.answers[i], row.answers[j]),
        ended=(row.ended[i], row.ended[j]),
        token_ids=(row.token_ids[i], row.token_ids[j]),
        logps=None,
        behaviour_logps=None,
    )


def num_scores(verdicts: Sequence[Mapping[str, Any]]) -> int:
    """Return how many samples have a score."""
    return sum(value is not None for one in verdicts for value in one["scores"])
