"""The settings of `tiltlm loop`, and what is asked beside them. Nothing heavy is imported here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiltlm.core.needs import Spec
from tiltlm.data import DataSettings
from tiltlm.judging import JudgeSettings
from tiltlm.judging.judge_settings import SELF
from tiltlm.models import ModelSettings
from tiltlm.online.examples.corrections import CorrectionSettings
from tiltlm.online.examples.rules import ExampleSettings
from tiltlm.online.examples.shaping import ShapingSettings
from tiltlm.online.loop_settings import (
    CriticSettings,
    LearnedJudgeSettings,
    LoopSettings,
    RivalSettings,
    StopSettings,
)
from tiltlm.reference import ReferenceSettings
from tiltlm.sampling import SamplingSettings
from tiltlm.sampling.engines import EngineSettings
from tiltlm.training.training_settings import TrainingSettings


@dataclass(frozen=True)
class LoopRunSettings:
    """All settings of a loop but the judge."""

    model: ModelSettings
    data: DataSettings
    """Its distinct prompts are answered."""
    output: Path
    objective: Spec = field(default_factory=lambda: {"name": "dpo"})
    loop: LoopSettings = field(default_factory=LoopSettings)
    rivals: RivalSettings = field(default_factory=RivalSettings)
    examples: ExampleSettings = field(default_factory=ExampleSettings)
    shaping: ShapingSettings = field(default_factory=ShapingSettings)
    correction: CorrectionSettings = field(default_factory=CorrectionSettings)
    critic: CriticSettings = field(default_factory=CriticSettings)
    learned_judge: LearnedJudgeSettings = field(default_factory=LearnedJudgeSettings)
    stop: StopSettings = field(default_factory=StopSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    reference: ReferenceSettings = field(default_factory=ReferenceSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)

    @property
    def planned_steps(self) -> int:
        """Optimiser steps of a loop whose every prompt gives one example."""
        loop, training = self.loop, self.training
        sizes = [loop.prompts_per_round * (1 + min(number, loop.past_rounds)) for number in range(loop.rounds)]
        return training.num_epochs * sum(-(-size // training.batch_size) for size in sizes)


@dataclass(frozen=True)
class LoopRequest:
    """What is asked beside the settings."""

    judge: JudgeSettings | None = None
    """What judges; None for a rule that needs none (`RuleKind.needs_judge`)."""
    held_out_judge: JudgeSettings | None = None
    """A judge that measures the samples and does not train."""
    preset: str = ""
    unaudited: bool = False
    accept_errors: bool = False
    """Go on however many judgements of a round failed."""
    replay: Path | None = None
    """Folder of a loop whose samples and judgements are used."""
    resume: bool = False
    overwrite: bool = False
    waits: bool = False
    """Wait for an earlier writer of the output folder to end."""

    @property
    def is_own_judge(self) -> bool:
        """True if the model that is trained judges its own samples."""
        return self.judge is not None and self.judge.model == SELF

    @property
    def judges(self) -> dict[str, Any]:
        """The judges as plain values, without settings at their defaults."""
        given = {"judge": self.judge, "held_out_judge": self.held_out_judge}
        return {name: judge.given for name, judge in given.items() if judge is not None}
