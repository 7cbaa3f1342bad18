"""Settings of a loop: its rounds, and when it stops."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from tiltlm.core.checks import between, not_negative, positive, prefix_errors
from tiltlm.core.errors import ConfigError
from tiltlm.online.groups import Who


@dataclass(frozen=True)
class LoopSettings:
    """The rounds of a loop."""

    rounds: int = 20
    """Most rounds. The learning-rate schedule covers the steps of all of them, unless `restarts` is true."""
    prompts_per_round: int = 64
    """Prompts of a round; if the data has fewer, all of them."""
    n: int = 2
    """Samples of each prompt."""
    reference: Literal["fixed", "reset", "average"] = "fixed"
    """`fixed`: the reference that `reference.name` says, in all rounds. `reset`: the policy at the start of each round.
    `average`: a moving average of the policies of the rounds. With the last two the distance to the policy before the
    first round has no bound: set `stop.kl`."""
    rate: float = 0.02
    """Weight of the policy in the moving average, at the start of each round."""
    restarts: bool = False
    """Begin each round with a new optimiser and with the learning-rate schedule of that round alone."""
    past_rounds: int = 0
    """Examples of this many earlier rounds are trained on again."""
    refills: int = 0
    """Most further batches of prompts that a round of a policy gradient draws, while fewer than `prompts_per_round`
    prompts have samples that score apart; the others are left out."""
    kl_target: float | None = None
    """KL to the policy before the first round that the KL coefficient of a policy gradient is steered to, nats per
    response; null: it stays as the objective has it. After a round it is multiplied by
    1 + clip(KL/kl_target − 1, −0.2, 0.2) · samples/kl_horizon."""
    kl_horizon: int = 10_000
    """Samples after which a KL far from `kl_target` has changed the coefficient by a fifth."""
    seed: int = 0
    """Seed of the order of the prompts and of the samples."""
    save_every: int = 1
    """Rounds between two checkpoints. A resumed loop trains the rounds after the newest one again, on their samples."""

    def __post_init__(self) -> None:
        with prefix_errors("loop"):
            positive(
                **{name: float(getattr(self, name)) for name in ("rounds", "prompts_per_round", "n", "save_every")}
            )
            not_negative(seed=float(self.seed), past_rounds=float(self.past_rounds), refills=float(self.refills))
            positive(rate=self.rate, kl_horizon=float(self.kl_horizon))
            if self.kl_target is not None:
                positive(kl_target=self.kl_target)
            between(0.0, 1.0, rate=self.rate)
        if self.rate != LoopSettings.rate and self.reference != "average":
            raise ConfigError(
                f"loop.rate has no effect: loop.reference is {self.reference}; remove it",
                code="no_effect",
                key="loop.rate",
            )
        if self.kl_horizon != LoopSettings.kl_horizon and self.kl_target is None:
            raise ConfigError(
                "loop.kl_horizon has no effect without loop.kl_target; remove it, or give the target",
                code="no_effect",
                key="loop.kl_horizon",
            )


@dataclass(frozen=True)
class CriticSettings:
    """The value head of an objective with a critic (`ppo`). Its loss and advantages are the objective's settings."""

    value_learning_rate: float | None = None
    """Its learning rate at the peak; null: `training.learning_rate`. A head that begins at 0 needs a larger one than a
    policy of many parameters."""
    shares_body: bool = False
    """Let the gradient of the values reach the policy's own layers."""

    def __post_init__(self) -> None:
        if self.value_learning_rate is not None:
            with prefix_errors("critic"):
                positive(value_learning_rate=self.value_learning_rate)


@dataclass(frozen=True)
class RivalSettings:
    """Further samples of each prompt, which others than the policy give."""

    n: int = 0
    """Samples that the reference of the round draws."""
    mix: float = 1.0
    """Share of the reference in what draws them: 1 is the reference itself, less the mixture
    softmax((1 − mix)·log π + mix·log π_ref) of every next token."""
    data: bool = False
    """Add the response that the data has to the prompt."""
    revisions: int = 0
    """Add the policy's revision of its sample, after this many passes of critique and revision."""
    constitution: Path | None = None
    """YAML file with the principles of critique and revision; null: a few of our own."""

    def __post_init__(self) -> None:
        with prefix_errors("rivals"):
            not_negative(n=float(self.n), revisions=float(self.revisions))
            positive(mix=self.mix)
            between(0.0, 1.0, mix=self.mix)
        if self.mix != 1 and self.n == 0:
            raise ConfigError("rivals.mix has no effect: rivals.n is 0; remove it", code="no_effect", key="rivals.mix")
        if self.constitution is not None and self.revisions == 0:
            raise ConfigError(
                "rivals.constitution has no effect: rivals.revisions is 0; remove it, or set rivals.revisions=1",
                code="no_effect",
                key="rivals.constitution",
            )
        if self.revisions and self.n:
            raise ConfigError(
                "rivals.n and rivals.revisions both add samples; give one of them", code="conflict", key="rivals.n"
            )

    @property
    def who(self) -> Who:
        """What draws the rivals."""
        if self.revisions:
            return "revision"
        return "reference" if self.mix == 1 else "mixture"

    @property
    def origins(self) -> tuple[Who, ...]:
        """The origin of each rival of a prompt, if none is missing."""
        revised: tuple[Who, ...] = ("revision",) if self.revisions else ()
        return (self.who,) * self.n + revised + (("data",) if self.data else ())


@dataclass(frozen=True)
class LearnedJudgeSettings:
    """A reward model that learns during the loop. It labels all pairs, and the judge only some of them."""

    labels: int = 0
    """Pairs of each round that the judge labels; 0: there is no learned judge, and the judge labels all samples."""
    choose: Literal["closest", "random"] = "closest"
    """Which pairs the judge labels: those that the learned judge tells apart least, or pairs chosen by a hash."""
    model: str | None = None
    """Where the learned judge begins: a reward model or a language model, as a folder or a name on the Hugging Face
    hub; null: the policy before the first round, with a new score head."""
    earlier_rounds: int = 5
    """The labels of this many earlier rounds are learned again."""
    rate: float | None = None
    """Learning rate of the learned judge; null: derived from its size."""
    epochs: int = 4
    """Passes over the labels in each round, with a new optimiser."""
    batch: int = 16
    """Labels per optimiser step."""

    def __post_init__(self) -> None:
        with prefix_errors("learned_judge"):
            not_negative(labels=float(self.labels), earlier_rounds=float(self.earlier_rounds))
            positive(epochs=float(self.epochs), batch=float(self.batch))
            if self.rate is not None:
                positive(rate=self.rate)
        for field in () if self.labels else fields(self):
            if getattr(self, field.name) != field.default:
                raise ConfigError(
                    f"learned_judge.{field.name} has no effect: learned_judge.labels is 0; remove it, or set "
                    "learned_judge.labels=16",
                    code="no_effect",
                    key=f"learned_judge.{field.name}",
                )


@dataclass(frozen=True)
class StopSettings:
    """When a loop stops before its last round."""

    kl: float | None = None
    """KL to the policy before the first round, nats per response: the loop stops when the mean of a round is above."""
    sampled_tokens: int | None = None
    """Tokens of all samples, also those of rivals, critiques and revisions."""
    judgements: int | None = None
    """Judgements, also those that were stored already. A judge that compares does so for every two samples."""
    flops: float | None = None
    """Floating-point operations of sampling, reading and training; those of the judge are not known."""
    cost: float | None = None
    """Cost of the judges, also of one that does not train, in the currency of the price file."""
    hours: float | None = None
    """Time of all phases of all rounds, also of those that were done twice because the loop was stopped."""
    empty_rounds: int = 3
    """Rounds in a row that give no example."""
    length: float | None = None
    """Mean length of a sample, as a multiple of that of round 0: the loop stops when a round is above."""
    no_signal: float | None = None
    """Share of the prompts that give no example: the loop stops when a round is above."""
    cut: float | None = None
    """Share of samples without an end token: the loop stops when a round is above."""
    distinct_2: float | None = None
    """Distinct-2 of the samples, as a share of that of round 0: the loop stops when a round is below."""
    held_out_falls: bool = False
    """Stop when the held-out score of a round is below that of an earlier one, with intervals apart, and the training
    judge's score is not. The model is then the policy of the best round. Needs `loop.save_every=1`."""

    def __post_init__(self) -> None:
        with prefix_errors("stop"):
            given = {name: value for name, value in vars(self).items() if value is not None}
            positive(**{name: float(value) for name, value in given.items() if name != "held_out_falls"})
            between(0.0, 1.0, **{name: given[name] for name in ("cut", "no_signal", "distinct_2") if name in given})
