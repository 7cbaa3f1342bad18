"""The judges of a loop: one that makes examples, one that only measures, and perhaps one that learns.

Every process opens them, and all call the methods together. Only the first one asks a judge, except one that is the
policy: all processes share its forwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tiltlm.distributed import Ranks
from tiltlm.judging import Comparer, JudgementCache, Role, Scorer, build_judge, cached, check_trains
from tiltlm.judging.cache import CachedComparer, CachedScorer, SharedCache
from tiltlm.judging.judge_settings import SELF, JudgeSettings
from tiltlm.judging.language.build import judge_by_policy
from tiltlm.models import Policy
from tiltlm.models import Scorer as ScorerModel
from tiltlm.online.rounds import RoundFolder
from tiltlm.recipes.answers.systems import refuse_own_family
from tiltlm.recipes.online.judging.learned_judge import LearnedJudge
from tiltlm.recipes.online.judging.verdicts import JudgedRow, judge_round
from tiltlm.recipes.online.loop_run import LoopRequest, LoopRunSettings
from tiltlm.recipes.progress import ProgressCallback
from tiltlm.runs import RunDirectory
from tiltlm.sampling.answers import AnswerRow


def open_training_judge(request: LoopRequest, policy: Policy | None, ranks: Ranks) -> Scorer | Comparer | None:
    """Return the judge that makes examples; None without one.

    Args:
        request: Its settings.
        policy: The model that is trained, if it is the judge itself.
        ranks: The processes of the run.

    Raises:
        ConfigError: it has no audit, and none is asked for.
    """
    if request.judge is None:
        return None
    judge: Scorer | Comparer
    if policy is None:
        judge = build_judge(request.judge, role="train")
    else:
        judge = judge_by_policy(request.judge, policy, ranks)
    check_trains(request.judge, judge, unaudited=request.unaudited)
    return judge


@dataclass(eq=False)
class Judges:
    """Who judges the samples of a round."""

    request: LoopRequest
    policy: Policy
    training: CachedScorer | CachedComparer | None
    """Makes examples, or labels for a judge that learns; None without one."""
    held_out: CachedScorer | None
    """Measures, and does not train."""
    cache: JudgementCache
    progress: ProgressCallback
    ranks: Ranks
    learned: LearnedJudge | None = None
    """Labels the samples after it has learned from the judge; None: the judge does, or another process has it."""

    @classmethod
    def of(
        cls,
        request: LoopRequest,
        policy: Policy,
        training: Scorer | Comparer | None,
        held_out: Scorer | None,
        cache: JudgementCache,
        progress: ProgressCallback,
        ranks: Ranks,
    ) -> "Judges":
        """Return judges whose judgements are stored."""
        return cls(
            request,
            policy,
            None if training is None else cached(training, cache),
            None if held_out is None else cached(held_out, cache),
            cache,
            progress,
            ranks,
        )

    def add_learned(self, loaded: ScorerModel, run: RunDirectory, settings: LoopRunSettings, digest: str) -> None:
        """Let this reward model learn from the judge and label the samples.

        Args:
            loaded: The model.
            run: The run directory of the loop.
            settings: The settings of the loop.
            digest: That of the prompts.
        """
        judge = self.training
        assert judge is not None, "a rule that needs no judge is refused"
        self.learned = LearnedJudge.of(
            loaded,
            run,
            settings,
            digest,
            scale=judge.scale,
            ask=partial(self._ask, judge, self.request.judge),
            progress=self.progress,
            accepts_errors=self.request.accept_errors,
        )

    @property
    def scale(self) -> float:
        """The difference of two scores that is one nat of preference; 1 without a judge."""
        return 1.0 if self.training is None else self.training.scale

    def label(
        self, number: int, own: Sequence[AnswerRow], more: Sequence[JudgedRow], folder: RoundFolder, refill: int
    ) -> list[dict[str, Any]]:
        """Return what makes examples: what the judge says about samples, or the judge that learned from it.

        Args:
            number: The round.
            own: The samples of the policy.
            more: The same with those of rivals.
            folder: The files of the round.
            refill: Which refill of the round.
        """
        if not self.ranks.any(self.learned is not None):  # the first process alone has it
            return self.judge("train", [one.row for one in more], folder, refill)

        def learned() -> list[dict[str, Any]]:
            assert self.learned is not None, "this is the first process"
            return self.learned.judge(number, own, folder)

        return self.ranks.first(learned)

    def judge(
        self, role: Role, rows: Sequence[AnswerRow], folder: RoundFolder, refill: int = 0
    ) -> list[dict[str, Any]]:
        """Return what a judge says about the samples of a round; nothing if there is none with this role.

        Args:
            role: Which judge.
            rows: The samples.
            folder: The files of the round.
            refill: Which refill of the round.
        """
        judge = self.training if role == "train" else self.held_out
        if judge is None:
            return []
        known = self.ranks.first(lambda: folder.verdicts(role, refill))
        if known is not None:
            return known
        asked = self.request.judge if role == "train" else self.request.held_out_judge
        if role == "train" and asked is not None and self.request.is_own_judge:
            own = judge_by_policy(asked, self.policy, self.ranks)  # with the weights of now
            verdicts = self._ask(cached(own, SharedCache(self.cache, self.ranks)), asked, rows)
        else:
            verdicts = self.ranks.first(partial(self._ask, judge, asked, rows))
        self.ranks.first(lambda: folder.write_verdicts(verdicts, role, refill))
        return verdicts

    def _ask(
        self, judge: CachedScorer | CachedComparer, settings: JudgeSettings | None, rows: Sequence[AnswerRow]
    ) -> list[dict[str, Any]]:
        """Return what a judge with these settings says about samples."""
        if not (settings is not None and settings.model == SELF):
            refuse_own_family(judge.judge, settings, rows)
        return judge_round(judge, rows, self.progress, accept_errors=self.request.accept_errors)
