"""The training loop: one for all methods, short enough to read.

A step is the pure function of `step.py`; what is due when is `timetable.py`'s; this module puts them in order with the
optimiser, the evaluations, the checkpoints and the guards. A run that is killed and resumed is the run that was not.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from tiltlm.core import Example, RunError
from tiltlm.distributed.ranks import Ranks
from tiltlm.distributed.wrapping import wrap
from tiltlm.objectives.terms import Objective
from tiltlm.runs.directory import RunDirectory
from tiltlm.training.allocator import keep_freed_memory
from tiltlm.training.checkpoints.manager import CheckpointManager
from tiltlm.training.guards import Interrupted, StopSignals, bad_step, explained_out_of_memory, is_good
from tiltlm.training.optim.optimizer import (
    build_optimizer,
    clip_gradients,
    learning_rate_factor,
    set_learning_rate,
    trainable,
    whole_weights,
)
from tiltlm.training.recorder import Listener, MetricsRecord, Recorder
from tiltlm.training.start import check_start, measured_noise, starts_at_reference
from tiltlm.training.state import TrainingState, Window, identity, pooled
from tiltlm.training.step import ReferenceLogps, Stepper, StepResult
from tiltlm.training.timetable import Timetable
from tiltlm.training.training_settings import TrainingSettings, default_learning_rate


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to. The policy holds the weights: the last, or the best where `best_metric` is set."""

    history: list[MetricsRecord]
    """The records of metrics.jsonl."""
    num_steps: int
    num_bad_steps: int
    """Skipped for a non-finite loss or gradient."""
    learning_rate: float
    """At its peak."""
    stopped_early: bool
    best_step: int | None
    best_value: float | None


def train_loop(
    policy: nn.Module,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    objective: Objective,
    reference: ReferenceLogps | None,
    settings: TrainingSettings,
    run: RunDirectory,
    fingerprint: str,
    *,
    resume: bool = False,
    ranks: Ranks | None = None,
    listener: Listener | None = None,
) -> TrainingResult:
    """Train `policy` in place.

    Args:
        policy: Forest → ResponseLogps, as loaded; on resuming too.
        examples: Training data; their order here is part of what `fingerprint` stands for.
        held_out: Evaluated before, at a cadence, and after; may be empty.
        objective: The method.
        reference: None where the objective needs none.
        settings: How far and how fast.
        run: The open run directory: metrics.jsonl, bad_steps.jsonl and checkpoints/ are written there.
        fingerprint: Digest of `examples`; with seed and epoch it decides the order.
        resume: Go on from the newest checkpoint that verifies.
        ranks: The processes that train together; None: this one, on a CPU.
        listener: Told what happens.

    Raises:
        ConfigError: settings that would have no effect, or another run's checkpoint.
        RunError: damaged checkpoints, a full disk, several bad steps in a row, policy and reference differ at step 0.
        Interrupted: a signal; the checkpoint is committed.
    """
    ranks = ranks or Ranks()
    if ranks.device.type == "cpu":
        keep_freed_memory()
    trainer = Trainer(
        policy, examples, held_out, objective, reference, settings, run, fingerprint, ranks,
        listener or Listener(),
    )  # fmt: skip
    with trainer.signals:
        try:
            trainer.begin(resume)
            return trainer.run_to_end()
        except Interrupted as stop:
            trainer.keeper.commit(trainer.progress, trainer.window)
            raise stop.after(trainer.progress.step) from None
        finally:
            trainer.recorder.close()
            policy.eval()  # what comes next measures and samples


@dataclass
class Trainer:
    """A run in progress: what `train_loop` was given, and the parts that follow from it."""

    policy: nn.Module
    examples: Sequence[Example]
    held_out: Sequence[Example]
    objective: Objective
    reference: ReferenceLogps | None
    settings: TrainingSettings
    run: RunDirectory
    fingerprint: str
    ranks: Ranks
    listener: Listener

    def __post_init__(self) -> None:
        settings, policy = self.settings, self.policy
        settings.check_held_out(len(self.held_out))
        self.signals = StopSignals(self.ranks)
        self.timetable = Timetable.of(self.examples, self.fingerprint, settings)
        self.at_reference = starts_at_reference(policy, self.reference)
        num_all, num_trained = (sum(p.numel() for p in ps) for ps in (policy.parameters(), trainable(policy).values()))
        self.learning_rate = settings.learning_rate or default_learning_rate(num_all, lora=num_trained < num_all)
        who = identity(policy, self.objective, self.reference, settings, self.learning_rate, self.fingerprint)
        module = wrap(policy.train(), self.ranks, settings.parallel)
        self.stepper = Stepper(
            module, self.objective, self.reference, settings.max_tokens, self.ranks,
            router_aux_loss_coef=settings.router_aux_loss_coef, poll=self.signals.poll,
        )  # fmt: skip
        self.optimizer = build_optimizer(policy, settings, self.learning_rate)
        self.factor = learning_rate_factor(settings, self.timetable.num_steps)
        self.recorder = Recorder(self.run, settings.trackers, who, self.ranks, self.listener)
        self.keeper = CheckpointManager(
            self.run, policy, self.optimizer, self.reference, who, settings, self.ranks, self.recorder.note
        )
        self.progress, self.window = TrainingState(), Window()
        self.announce(num_all, num_trained)

    def announce(self, num_all: int, num_trained: int) -> None:
        """Say what is about to happen, and which setting will not."""
        settings, num_steps = self.settings, self.timetable.num_steps
        derived = "" if settings.learning_rate else ", derived from the model's size"
        self.recorder.note(
            f"training {num_trained:,} of {num_all:,} parameters on {len(self.examples):,} examples: {num_steps} steps "
            f"of {settings.batch_size}, peak learning rate {self.learning_rate:g}{derived}"
        )
        if settings.max_steps is not None and settings.max_steps > num_steps:
            self.recorder.note(
                f"training.max_steps={settings.max_steps} has no effect: {settings.num_epochs} epochs are {num_steps} "
                "steps; raise training.num_epochs for more"
            )

    def begin(self, resume: bool) -> None:
        """Restore a checkpoint, or check that the start is one."""
        restored = self.keeper.restore() if resume else None
        if self.at_reference or self.objective.coupled:
            self.stepper = replace(self.stepper, noise=measured_noise(self.stepper, self.examples))
        if restored is not None:
            self.progress, self.window = restored
            self.recorder.rewind(self.progress.step, self.progress.evaluated_at)
        else:
            self.recorder.rewind(-1, -1)
            if self.at_reference:
                check_start(self.stepper, self.examples)

    def run_to_end(self) -> TrainingResult:
        """Whatever is due now, then the next step, until there is none."""
        progress, timetable = self.progress, self.timetable
        while True:
            improved = False
            if self.held_out and timetable.evaluates(progress.step) and progress.evaluated_at != progress.step:
                improved = self.evaluate()
            if timetable.saves(progress.step) or improved:
                self.keeper.commit(progress, self.window)
            if progress.step >= timetable.num_steps or progress.stopped_early:
                return self.finish()
            self.signals.poll()
            self.train_step()

    def train_step(self) -> None:
        """One optimiser step, or the record of why it was skipped."""
        progress, started = self.progress, time.perf_counter()
        rows = [self.examples[i] for i in self.timetable.rows(progress.step)]
        self.optimizer.zero_grad()
        with explained_out_of_memory(self.settings.max_tokens):
            outcome = self.stepper.train(rows, progress.memory)
        grad_norm = clip_gradients(trainable(self.policy).values(), self.settings.max_grad_norm)
        rate = self.learning_rate * self.factor(progress.step)
        good = is_good(outcome.loss, grad_norm)
        if good:
            set_learning_rate(self.optimizer, rate)
            self.optimizer.step()
            progress.memory = outcome.memory
        progress.advance(outcome.num_tokens, good)
        if self.reference is not None and self.reference.after_step(progress.step, whole_weights(self.policy)):
            self.recorder.note(f"after step {progress.step} the reference moved toward the policy")
        if good:
            self.window.add(outcome, grad_norm, time.perf_counter() - started)
        else:
            self.skip(outcome, grad_norm, rows)
        if self.timetable.logs(progress.step) and self.window.num_steps:
            metrics = self.window.record(self.ranks)
            self.recorder.add({**self.here(), **metrics, "learning_rate": rate, "num_tokens": progress.num_tokens})
            self.window = Window()
        self.recorder.stepped(progress.step, self.timetable.num_steps)

    def skip(self, outcome: StepResult, grad_norm: float, rows: Sequence[Example]) -> None:
        """Write down a step that did not reach the weights.

        Raises:
            RunError: it was one too many in a row.
        """
        step, in_a_row = self.progress.step, self.progress.bad_in_a_row
        culprits = sorted({id_ for ids in self.ranks.gather(outcome.suspects) for id_ in ids})
        record, message = bad_step(step, outcome.loss, grad_norm, culprits, [row.id for row in rows])
        self.recorder.add({**self.here(), "loss": outcome.loss, "grad_norm": grad_norm, "skipped": True})
        self.recorder.add_bad_step(record)
        self.recorder.note(message)
        if in_a_row >= self.settings.max_bad_steps:
            raise RunError(
                f"{in_a_row} steps in a row could not be taken; {message}. No bad value reached the weights, "
                f"{self.keeper.newest()}, and {self.run.bad_steps.name} names the rows. Lower training.learning_rate, "
                "or look at those rows",
                code="too_many_bad_steps",
                key="training.max_bad_steps",
            )

    def evaluate(self) -> bool:
        """Held-out examples as one step without gradient; whether the policy was never better."""
        started = time.perf_counter()
        with explained_out_of_memory(self.settings.max_tokens):
            outcome = self.stepper.evaluate(self.held_out, memory=self.progress.memory)
        record = {"eval_loss": outcome.loss}
        record |= {f"eval_{name}": value for name, value in pooled(outcome.metric_sums, self.ranks).items()}
        improved = self.progress.judge(record, self.settings)
        self.recorder.add({**self.here(), **record, "eval_seconds": time.perf_counter() - started})
        return improved

    def here(self) -> MetricsRecord:
        """How every record begins."""
        return {"step": self.progress.step, "epoch": self.timetable.epoch(self.progress.step)}

    def finish(self) -> TrainingResult:
        """The best weights back where a metric decides, and the account of the run."""
        progress = self.progress
        if progress.best_step is not None and progress.best_step != progress.step:
            self.keeper.restore_weights(progress.best_step)
            self.recorder.note(f"the policy is that of step {progress.best_step}, best by {self.settings.best_metric}")
        return TrainingResult(
            history=self.recorder.history,
            num_steps=progress.step,
            num_bad_steps=progress.num_bad,
            learning_rate=self.learning_rate,
            stopped_early=progress.stopped_early,
            best_step=progress.best_step,
            best_value=progress.best_value,
        )
