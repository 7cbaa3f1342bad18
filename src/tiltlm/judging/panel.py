"""Several judges as one: the mean of their logits, or the least certain of them as a brake on reward hacking."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from tiltlm.core.checks import prefix_errors
from tiltlm.core.errors import ConfigError
from tiltlm.judging.adapters import as_comparer
from tiltlm.judging.digests import digest_of
from tiltlm.judging.judge import Comparer, Outcome, PairItem, Role, Scorer, Verdict
from tiltlm.judging.judge_settings import JudgeSettings, build_judge, settings_of
from tiltlm.judging.orders import VOTES, logit, sigmoid

Rule = Literal["mean", "worst"]


class Panel(Comparer):
    """Several comparers that decide together. If a member fails, the verdict is an error: a panel never shrinks."""

    def __init__(self, members: Sequence[Scorer | Comparer], combine: Rule = "mean", role: Role = "held_out") -> None:
        """Combine judges; scorers compare by their scores, each on its own scale.

        Args:
            members: At least two judges with different digests.
            combine: `mean` of the members' logits (of their votes, if one gives no probability); or `worst`: the least
                certain member, and a tie if two disagree.
            role: Role of the panel.

        Raises:
            ConfigError: There are fewer than two different members.
        """
        self.members = [as_comparer(member) for member in members]
        digests = [member.digest for member in self.members]
        if len(set(digests)) < max(2, len(digests)):
            raise ConfigError(
                f"a panel needs at least two different judges, and has {len(set(digests))} of {len(digests)}",
                code="too_few_judges",
                key="judge.judges",
            )
        self.combine = combine
        self.role = role
        self.name = f"panel of {len(digests)}"
        self.digest = digest_of("panel", members=sorted(digests), combine=combine)
        reads = [member.reads for member in self.members]
        self.reads = None if None in reads else tuple(sorted({c for columns in reads for c in columns or ()}))

    def price(self, tokens_in: int, tokens_out: int) -> float | None:
        """Return the sum of the members' prices."""
        prices = [member.price(tokens_in, tokens_out) for member in self.members]
        return None if None in prices else sum(price for price in prices if price is not None)

    def compare(self, pairs: Iterable[PairItem]) -> Iterator[Verdict]:
        """Yield one verdict for each pair, in order."""
        shown = list(pairs)
        for verdicts in zip(*(member.compare(shown) for member in self.members), strict=True):
            yield self._combine(verdicts)

    def _combine(self, verdicts: Sequence[Verdict]) -> Verdict:
        costs = [verdict.cost for verdict in verdicts]
        common: dict[str, Any] = {
            "cost": None if None in costs else sum(cost for cost in costs if cost is not None),
            "tokens_in": sum(verdict.tokens_in for verdict in verdicts),
            "tokens_out": sum(verdict.tokens_out for verdict in verdicts),
            "latency": sum(verdict.latency for verdict in verdicts),
            "mode": f"panel, {self.combine}",
        }
        failed = [
            f"{member.name}: {verdict.error}"
            for member, verdict in zip(self.members, verdicts, strict=True)
            if verdict.outcome == "error"
        ]
        if failed:
            return Verdict("ab", "error", error="; ".join(failed), **common)
        if any(verdict.outcome == "both_bad" for verdict in verdicts):
            is_agreed = all(verdict.outcome == "both_bad" for verdict in verdicts)
            outcome: Outcome = "both_bad" if is_agreed else "error"
            error = "" if is_agreed else "some members find both responses bad, others prefer one"
            return Verdict("ab", outcome, error=error, **common)
        p, gap = self._probability(verdicts)
        outcome = "tie" if p == 0.5 else "left" if p > 0.5 else "right"
        return Verdict("ab", outcome, p_left=p, disagreement=gap, **common)

    def _probability(self, verdicts: Sequence[Verdict]) -> tuple[float, float]:
        """Return P(left is better), and the largest difference between two members."""
        soft = [verdict.p_left for verdict in verdicts if verdict.p_left is not None]
        is_soft = len(soft) == len(verdicts)
        members = soft if is_soft else [VOTES[verdict.outcome] for verdict in verdicts]
        gap = max(members) - min(members)
        if self.combine == "worst":
            nearest = min(members, key=lambda p: abs(p - 0.5))
            return (0.5 if min(members) < 0.5 < max(members) else nearest), gap
        if is_soft:
            return sigmoid(sum(map(logit, members)) / len(members)), gap
        return sum(members) / len(members), gap


def panel(settings: JudgeSettings, role: Role) -> Panel:
    """Make the panel that settings describe."""
    with prefix_errors("judge.judges"):
        members = [build_judge(member, role=role) for member in settings_of(settings.judges)]
    return Panel(members, settings.combine, role)
