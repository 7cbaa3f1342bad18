"""A pool of answers with the scores of judges: what best-of-n is measured on."""

from dataclasses import dataclass, field

from tiltlm.diagnostics.pools import BestOfN


@dataclass(frozen=True)
class ScoredPool:
    """Answers of one model with the scores of the judges. Prompts without all scores are left out."""

    model: str
    judge: str
    """Name of the judge that chooses."""
    gold: str | None
    """Name of a judge that does not choose; None: there is none."""
    curve: BestOfN
    mean_tokens: float | None
    """Tokens of an answer; None for answers given as text."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Cause → prompts that were left out."""
    is_audited: bool = True
    """False if the judge that chooses is an estimate without an audit."""
    has_own_distribution: bool = True
    """False if the answers were not drawn at temperature 1 from the whole distribution. A KL would be to the policy at
    that temperature and not to the model, so none is estimated."""
