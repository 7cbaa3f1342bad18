"""Loops that are done, as curves on the plane of KL and reward. Nothing is drawn or judged for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from tiltlm.core import ConfigError
from tiltlm.evaluation.answers.loop_curve import LoopCurve, RoundPoint, join_seeds
from tiltlm.judging import JudgeSettings
from tiltlm.judging.roles import RULES
from tiltlm.models.folders import short_name
from tiltlm.online.cards import Card
from tiltlm.online.rounds import RoundFolder
from tiltlm.recipes.online.loop_run import LoopRunSettings

Score = Literal["reward", "held_out"]
ROLES: tuple[Score, ...] = ("held_out", "reward")
"""Numbers of a card that are scores, the better one for measuring first."""


@dataclass(frozen=True)
class FinishedLoop:
    """A loop with its cards."""

    name: str
    knobs: Mapping[str, Any]
    """The settings that differ between the loops, without seeds."""
    settings: LoopRunSettings
    path: Path
    judges: Mapping[Score, JudgeSettings]
    """What scored the samples: `reward` is the judge that trains, `held_out` one that does not."""

    @property
    def cards(self) -> list[Card]:
        """The cards of its rounds.

        Raises:
            ConfigError: a round has no score or no KL.
        """
        numbers = sorted(int(path.parent.name) for path in self.path.glob("rounds/*/card.json"))
        found = [card for number in numbers if (card := RoundFolder.of(self.path, number).card) is not None]
        if not found:
            raise ConfigError(f"{self.path}: this loop has no finished round", code="no_rounds", key="config")
        if any(card.kl is None for card in found):
            raise ConfigError(
                f"{self.path}: its rounds have no KL, because their samples are truncated, at another temperature than "
                "1, or replayed; draw samples of the trained model: tiltlm compare",
                code="no_kl",
                key="config",
            )
        return found


def plain_judge(settings: JudgeSettings) -> JudgeSettings:
    """Return a judge without the settings that change no score."""
    return replace(settings, scale=None, audit=None, both_orders=True, soft=True)


def judge_text(settings: JudgeSettings) -> str:
    """Return a judge in a word, with the name of its model."""
    return settings.kind if settings.model is None else f"{settings.kind} {short_name(settings.model)}"


def common_judge(loops: Sequence[FinishedLoop]) -> JudgeSettings:
    """Return a judge that all loops have; the held-out one of the first, if all have it.

    Raises:
        ConfigError: they have none in common.
    """
    known = [[plain_judge(loop.judges[role]) for role in ROLES if role in loop.judges] for loop in loops]
    for judge in known[0]:
        if all(judge in own for own in known):
            return judge
    listed = sorted({judge_text(judge) for loop in loops for judge in loop.judges.values()})
    raise ConfigError(
        f"the loops have no judge in common ({', '.join(listed) or 'none'}), so their scores cannot be compared; give "
        "all of them one --held-out-judge",
        code="other_judge",
        key="config",
    )


def curves_of(loops: Sequence[FinishedLoop], judge: Any) -> tuple[LoopCurve, ...]:
    """Return the curves of loops by the scores of one judge, repetitions as one.

    Args:
        loops: The loops.
        judge: Settings of the judge whose scores are the reward.

    Raises:
        ConfigError: a loop has no score of this judge, or no KL.
    """
    return join_seeds([curve_of(loop, judge) for loop in loops])


def curve_of(loop: FinishedLoop, judge: Any) -> LoopCurve:
    """Return the curve of a loop by the scores of a judge.

    Raises:
        ConfigError: the loop has no score of this judge, or no KL.
    """
    score = score_of(loop, judge)
    cards = loop.cards
    tokens = [0, *accumulate(card.sampled_tokens for card in cards)]
    judgements = [0, *accumulate(card.judgements for card in cards)]
    points = []
    for k, card in enumerate(cards):
        reward = getattr(card, score)
        if reward is None or card.kl is None:
            raise ConfigError(
                f"{loop.path}: round {card.round} has no score of {judge_text(loop.judges[score])}, which compares; "
                "give the loop a --held-out-judge that scores",
                code="no_score",
                key="config",
            )
        points.append(RoundPoint(card.round, card.kl, reward, card.num_tokens, card.cut, tokens[k], judgements[k]))
    return LoopCurve(loop.name, loop.knobs, score, tuple(points))


def score_of(loop: FinishedLoop, judge: Any) -> Score:
    """Return which number of the cards is the score of a judge.

    Raises:
        ConfigError: none is.
    """
    if isinstance(judge, JudgeSettings):
        for role in ROLES:
            if role in loop.judges and plain_judge(loop.judges[role]) == plain_judge(judge):
                return role
    known = " and ".join(judge_text(one) for one in loop.judges.values()) or "no judge"
    raise ConfigError(
        f"{loop.path}: its rounds have scores of {known}, and another judge is named; name that one, or leave out "
        "--judge to see the loops alone",
        code="other_judge",
        key="judge",
    )


def pleasing(loops: Sequence[FinishedLoop], judge: Any) -> tuple[str, ...]:
    """Return the names of the loops that were trained by the judge that measures, if it is an estimate."""
    if isinstance(judge, JudgeSettings) and judge.kind in RULES:
        return ()
    return tuple(loop.name for loop in loops if score_of(loop, judge) == "reward")
