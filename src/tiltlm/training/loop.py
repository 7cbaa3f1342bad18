"""The training loop: one for all methods, short enough to read.

`step.py` computes the gradient of a step and `timetable.py` says what is due when. This module runs them in order, with
the optimiser, evaluations, checkpoints and guards. A run that is killed and resumed gives the same result as one that
was not.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from torch import nn
from torch.optim import Optimizer

from tiltlm.core import Example, RunError
from tiltlm.distributed.position import HERE
from tiltlm.distributed.ranks import Ranks
from tiltlm.distributed.wrapping import wrap
from tiltlm.objectives.terms import Objective
from tiltlm.reference import Reference
from tiltlm.runs.directory import RunDirectory
from tiltlm.training.allocator import settle
from tiltlm.training.checkpoints.manager import CheckpointManager
from tiltlm.training.guards import (
    Interrupted,
    StopSignals,
    bad_step,
    explained_out_of_memory,
    is_good,
    ruined_step,
    too_many_bad_steps,
)
from tiltlm.training.optim.optimizer import (
    build_optimizer,
    clip_gradients,
    learning_rate_factor,
    ruined_weights,
    set_learning_rate,
    trainable,
    whole_weights,
)
from tiltlm.training.recorder import Listener, MetricsRecord, Recorder
from tiltlm.training.start import check_start, measured_noise, starts_at_reference, warn_of_rounding
from tiltlm.training.state import Origin, TrainingState, Window, identity, pooled
from tiltlm.training.step import Stepper, StepResult
from tiltlm.training.timetable import Timetable
from tiltlm.training.training_settings import TrainingSettings, default_learning_rate


@dataclass(frozen=True)
class TrainingResult:
    """The result of a run. The policy holds the weights: the last ones, or the best ones if `best_metric` is set."""

    history: list[MetricsRecord]
    """The records of metrics.jsonl."""
    num_steps: int
    num_bad_steps: int
    """Steps skipped because of a non-finite loss or gradient."""
    learning_rate: float
    """The peak learning rate."""
    stopped_early: bool
    best_step: int | None
    best_value: float | None


def train_loop(
    policy: nn.Module,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    objective: Objective,
    reference: Reference | None,
    settings: TrainingSettings,
    run: RunDirectory,
    fingerprint: str,
    *,
    resume: bool = False,
    ranks: Ranks | None = None,
    listener: Listener | None = None,
    sources: Sequence[str] = (),
    origin: Origin | None = None,
) -> TrainingResult:
    """Train `policy` in place.

    Args:
        policy: Maps a Forest to ResponseLogps. Its weights are those before training, also when a run is resumed.
        examples: Training data, in the order that `fingerprint` was computed for.
        held_out: Evaluated before training, at regular steps, and after it; may be empty.
        objective: The method.
        reference: None if the objective needs none.
        settings: The training settings.
        run: The open run directory: metrics.jsonl, bad_steps.jsonl and checkpoints/ are written there.
        fingerprint: Digest of `examples`; together with seed and epoch it decides the order.
        resume: Continue from the newest checkpoint that is not damaged.
        ranks: The processes that train together. None means this process only, on a CPU.
        listener: Receives notes, records and progress.
        sources: Sources of the examples by which metrics are divided too.
        origin: Identifies the model that the run starts from. None: a resumed run cannot check it.

    Raises:
        ConfigError: a setting would have no effect, or the checkpoint belongs to another run.
        RunError: all checkpoints are damaged, the disk is full, too many bad steps came in a row, a weight became
            infinite, or policy and reference differ before the first step.
        Interrupted: a signal stopped the run; a checkpoint is saved.
    """
    trainer = build_trainer(
        policy, examples, held_out, objective, reference, settings, run, fingerprint,
        ranks=ranks, listener=listener, sources=sources, origin=origin,
    )  # fmt: skip
    try:
        return trainer.run(resume)
    finally:
        trainer.close()


def build_trainer(
    policy: nn.Module,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    objective: Objective,
    reference: Reference | None,
    settings: TrainingSettings,
    run: RunDirectory,
    fingerprint: str,
    *,
    ranks: Ranks | None = None,
    listener: Listener | None = None,
    schedule: Callable[[int], float] | None = None,
    value_learning_rate: float | None = None,
    sources: Sequence[str] = (),
    origin: Origin | None = None,
) -> "Trainer":
    """Build the trainer of a run.

    A run that makes new examples between its rounds builds one trainer, without examples, and gives it those of each
    round (`Trainer.next_round`). Its `settings` describe one round.

    Arguments up to `listener`, `sources` and `origin` are those of `train_loop`. `schedule` is the learning rate in
    step i = 0, 1, … as a share of the peak; without it, the schedule that `settings` name covers the steps of the
    examples given here. `value_learning_rate` is the peak for the value head of a critic; without it, that of the
    policy.

    Raises:
        ConfigError: a setting would have no effect.
    """
    ranks = ranks or Ranks()
    if ranks.device.type == "cpu":
        settle(settings.parallelism.is_sharded)
    settings.check_held_out(len(held_out))
    timetable = Timetable.of(examples, fingerprint, settings)
    num_all, num_trained = (sum(p.numel() for p in ps) for ps in (policy.parameters(), trainable(policy).values()))
    learning_rate = settings.learning_rate or default_learning_rate(num_all, lora=num_trained < num_all)
    origin = origin or Origin()
    run_identity = identity(policy, objective, reference, settings, learning_rate, fingerprint, origin.identity)
    warn_of_rounding(policy, learning_rate)
    module = wrap(policy.eval(), ranks, settings.parallelism)
    signals = StopSignals(ranks)
    stepper = Stepper(
        module, objective, reference, settings.max_tokens, ranks,
        router_aux_loss_coef=settings.router_aux_loss_coef, poll=signals.poll,
        sources=tuple(sources),
    )  # fmt: skip
    optimizer = build_optimizer(policy, settings, learning_rate, value_learning_rate)
    recorder = Recorder(run, settings.trackers, run_identity, ranks, listener or Listener())
    checkpoints = CheckpointManager(
        run, policy, optimizer, reference, run_identity, settings, ranks, recorder.note, origin.rounding
    )
    trainer = Trainer(
        policy=policy, examples=examples, held_out=held_out, settings=settings, ranks=ranks,
        learning_rate=learning_rate, at_reference=starts_at_reference(policy, reference), timetable=timetable,
        stepper=stepper, optimizer=optimizer, schedule=schedule or learning_rate_factor(settings, timetable.last_step),
        recorder=recorder, checkpoints=checkpoints, signals=signals,
    )  # fmt: skip
    trainer.announce(num_all, num_trained)
    return trainer


@dataclass
class Trainer:
    """A run in progress, with all its parts. `build_trainer` makes one."""

    policy: nn.Module
    examples: Sequence[Example]
    held_out: Sequence[Example]
    settings: TrainingSettings
    ranks: Ranks
    learning_rate: float
    """The peak learning rate."""
    at_reference: bool
    """True if policy and reference have the same weights before the first step."""
    timetable: Timetable
    stepper: Stepper
    optimizer: Optimizer
    schedule: Callable[[int], float]
    """Learning rate in step i = 0, 1, … as a share of the peak."""
    recorder: Recorder
    checkpoints: CheckpointManager
    signals: StopSignals
    state: TrainingState = field(default_factory=TrainingState)
    window: Window = field(default_factory=Window)

    def announce(self, num_all: int, num_trained: int) -> None:
        """Log what is trained and for how many steps, and whether `max_steps` has no effect."""
        settings, num_steps = self.settings, self.timetable.num_steps
        derived = "" if settings.learning_rate else ", derived from the size of the model"
        what = (
            f"{len(self.examples):,} examples: {num_steps} steps"
            if self.examples
            else "the examples of each round: steps"
        )
        self.recorder.note(
            f"training {num_trained:,} of {num_all:,} parameters on {what} of {settings.batch_size}, peak learning "
            f"rate {self.learning_rate:g}{derived}"
        )
        if self.examples and settings.max_steps is not None and settings.max_steps > num_steps:
            self.recorder.note(
                f"training.max_steps={settings.max_steps} has no effect: {settings.num_epochs} epochs are {num_steps} "
                "steps; raise training.num_epochs to train longer"
            )

    def run(self, resume: bool = False) -> TrainingResult:
        """Train from the start, or from the newest checkpoint, to the last step.

        Raises:
            Interrupted: a signal stopped the run; a checkpoint is saved.
        """
        with self.stopping():
            is_resumed = resume and self.restore()
            self.prepare(check=not is_resumed)
            return self.run_to_end()

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Save a checkpoint if a signal stops the block between two packs, or came after the last one.

        Raises:
            Interrupted: a signal stopped the run.
        """
        with self.signals:
            try:
                yield
                self.signals.poll()
            except Interrupted as stop:
                self.checkpoints.commit(self.state, self.window)
                self.checkpoints.wait()
                raise stop.after(self.state.step) from None

    def restore(self) -> bool:
        """Restore the newest checkpoint; return False if there is none."""
        restored = self.checkpoints.restore()
        if restored is not None:
            self.state, self.window = restored
        return restored is not None

    def prepare(self, *, check: bool) -> None:
        """Make ready for the next step: measure rounding where a check needs it, and drop later records.

        Args:
            check: Require that policy and reference agree where they start as one.
        """
        if self.at_reference or self.stepper.objective.coupled:
            self.stepper = replace(self.stepper, noise=measured_noise(self.stepper, self.examples))
        self.recorder.rewind(self.state.step, self.state.evaluated_at)
        if self.at_reference and check:
            check_start(self.stepper, self.examples)

    def next_round(
        self, examples: Sequence[Example], fingerprint: str, first_step: int, *, restarts: bool = False
    ) -> None:
        """Go on with other examples. All steps so far stay counted.

        Args:
            examples: Those of the round.
            fingerprint: Digest that decides their order, together with seed and epoch.
            first_step: Steps before the round.
            restarts: Begin the round with a new optimiser, and with a schedule of its own. False: both go on.
        """
        self.examples = examples
        self.timetable = Timetable.of(examples, fingerprint, self.settings, first_step, saves_at_end=False)
        if restarts:
            of_round = learning_rate_factor(self.settings, self.timetable.num_steps)
            self.schedule = lambda step: of_round(step - first_step)
            if self.state.step == first_step:
                self.optimizer.state.clear()

    def run_to_end(self) -> TrainingResult:
        """Evaluate and save where that is due, then take the next step, until the last one is done."""
        state, timetable, is_due = self.state, self.timetable, False
        while True:
            improved = False
            if self.held_out and timetable.evaluates(state.step) and state.evaluated_at != state.step:
                improved = self.evaluate()
            is_due = is_due or timetable.saves(state.step) or state.stopped_early
            ends = state.step >= timetable.last_step or state.stopped_early
            if improved or (is_due and (ends or not state.bad_in_a_row)):  # while steps are skipped, a save waits
                self.checkpoints.commit(state, self.window)
                is_due = False
            self.signals.poll()
            if ends:
                return self.finish()
            self.checkpoints.poll()
            self.train_step()

    def train_step(self) -> None:
        """Take one optimiser step, or skip it if its loss or gradient is not finite."""
        state, started = self.state, time.perf_counter()
        HERE.enter("train", state.step + 1)
        examples = [self.examples[i] for i in self.timetable.rows(state.step)]
        self.optimizer.zero_grad()
        with explained_out_of_memory(self.settings.max_tokens, self.checkpoints.newest_intact):
            result = self.stepper.train(examples, state.memory)
        grad_norm = clip_gradients(trainable(self.policy).values(), self.settings.max_grad_norm)
        rate = self.learning_rate * self.schedule(state.step)
        good = is_good(result.loss, grad_norm)
        if good:
            self.checkpoints.prove()
            set_learning_rate(self.optimizer, rate)
            self.optimizer.step()
            self.check_weights(rate, grad_norm)
            state.memory = result.memory
        state.advance(result.num_tokens, good)
        reference = self.stepper.reference
        if reference is not None and reference.moves and reference.after_step(state.step, whole_weights(self.policy)):
            self.recorder.note(f"after step {state.step} the reference moved toward the policy")
        if good:
            self.window.add(result, grad_norm, time.perf_counter() - started)
        else:
            self.skip(result, grad_norm, examples)
        if self.timetable.logs(state.step) and self.window.num_steps:
            metrics = self.window.record(self.ranks)
            self.recorder.add({**self.position(), **metrics, "learning_rate": rate, "num_tokens": state.num_tokens})
            self.window = Window()
        self.recorder.stepped(state.step, self.timetable.last_step)

    def check_weights(self, rate: float, grad_norm: float) -> None:
        """Require finite weights after an update.

        Raises:
            RunError: a weight is NaN or infinite: the learning rate was too large for a finite gradient.
        """
        ruined = ruined_weights(self.policy)
        if self.ranks.any(bool(ruined)):
            names = sorted({name for own in self.ranks.gather(ruined) for name in own})
            raise ruined_step(self.state.step + 1, names, rate, grad_norm, self.checkpoints.newest_intact())

    def skip(self, result: StepResult, grad_norm: float, examples: Sequence[Example]) -> None:
        """Record a step that did not change the weights.

        Raises:
            RunError: `max_bad_steps` steps in a row were skipped.
        """
        culprits = sorted({id_ for ids in self.ranks.gather(result.suspects) for id_ in ids})
        rows = [example.id for example in examples]
        record, message = bad_step(self.state.step, result.loss, grad_norm, culprits, rows)
        self.recorder.add({**self.position(), "loss": result.loss, "grad_norm": grad_norm, "skipped": True})
        self.recorder.add_bad_step(record)
        self.recorder.note(message)
        if self.state.bad_in_a_row >= self.settings.max_bad_steps:
            raise self.stuck(message)

    def stuck(self, message: str) -> RunError:
        """Return the error of too many skipped steps, and keep the checkpoints that can be continued from.

        Args:
            message: The sentence about the last skipped step.
        """
        state, checkpoints, ruined_at = self.state, self.checkpoints, None
        last = state.updated_at - 1
        if last >= self.timetable.first_step:  # with other rows the cause is not known
            self.optimizer.zero_grad()
            again = self.stepper.train([self.examples[i] for i in self.timetable.rows(last)], state.memory)
            if is_good(again.loss, clip_gradients(trainable(self.policy).values(), None)):
                checkpoints.commit(state, self.window)
            else:
                ruined_at = state.updated_at
                checkpoints.set_aside(ruined_at)
        newest = checkpoints.newest_intact()
        return too_many_bad_steps(state.bad_in_a_row, message, ruined_at, self.learning_rate, newest, self.settings)

    def evaluate(self) -> bool:
        """Evaluate the held-out examples as one step without gradient; return whether this is the best so far."""
        started = time.perf_counter()
        HERE.enter("evaluate on held-out data", self.state.step)
        with explained_out_of_memory(self.settings.max_tokens, self.checkpoints.newest_intact):
            result = self.stepper.evaluate(self.held_out, memory=self.state.memory)
        record = {"eval_loss": result.loss}
        record |= {f"eval_{name}": value for name, value in pooled(result.metric_sums, self.ranks).items()}
        improved = self.state.judge(record, self.settings)
        self.recorder.add({**self.position(), **record, "eval_seconds": time.perf_counter() - started})
        return improved

    def position(self) -> MetricsRecord:
        """Return the first fields of every record: step and epoch."""
        return {"step": self.state.step, "epoch": self.timetable.epoch(self.state.step)}

    def finish(self) -> TrainingResult:
        """Restore the best weights if `best_metric` is set, and return the result of the run."""
        state = self.state
        self.checkpoints.wait()
        if state.best_step is not None and state.best_step != state.step:
            self.checkpoints.restore_weights(state.best_step)
            self.recorder.note(
                f"the policy has the weights of step {state.best_step}, best by {self.settings.best_metric}"
            )
        return TrainingResult(
            history=self.recorder.history,
            num_steps=state.step,
            num_bad_steps=state.num_bad,
            learning_rate=self.learning_rate,
            stopped_early=state.stopped_early,
            best_step=state.best_step,
            best_value=state.best_value,
        )

    def close(self) -> None:
        """End what runs beside training: the thread that writes a checkpoint, and the trackers."""
        self.checkpoints.close()
        self.recorder.close()
