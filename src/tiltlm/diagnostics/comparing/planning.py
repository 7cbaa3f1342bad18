"""Plan a comparison: how many prompts it needs, how wide its interval will be, and what the judge will cost."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from tiltlm.core.errors import ConfigError


def half_width(num_prompts: int, *, rate: float = 0.5, ties: float = 0.0, level: float = 0.95) -> float:
    """Return half the width of the interval of a win rate, with one verdict per prompt.

    A verdict is 1, ½ or 0, so its variance is p(1 − p) − ties/4.

    Args:
        num_prompts: Number of prompts.
        rate: The win rate p.
        ties: Share of ties.
        level: Share of repetitions in which the interval holds the truth.

    Raises:
        ConfigError: an argument is out of range.
    """
    _check(rate, ties)
    if num_prompts < 1:
        raise ConfigError(f"{num_prompts} prompts; give at least 1", code="not_positive", key="num_prompts")
    variance = max(0.0, rate * (1 - rate) - ties / 4)
    return NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance / num_prompts)


def prompts_needed(detect: float, *, ties: float = 0.0, power: float = 0.8, level: float = 0.95) -> int:
    """Return how many prompts show a win rate of ½ + detect to differ from ½, with one verdict per prompt.

    n = ((z_α √v₀ + z_β √v₁) / detect)², v the variances of a verdict at ½ and at ½ + detect.

    Args:
        detect: The distance of the true win rate from ½, such as 0.05 for 55 %.
        ties: Share of ties.
        power: Chance of finding it.
        level: 1 − the chance of a finding where there is nothing.

    Raises:
        ConfigError: an argument is out of range.
    """
    _check_detect(detect, power, level)
    _check(0.5 + detect, ties)
    alpha, beta = NormalDist().inv_cdf((1 + level) / 2), NormalDist().inv_cdf(power)
    null, true = (max(0.0, p * (1 - p) - ties / 4) for p in (0.5, 0.5 + detect))
    return math.ceil(((alpha * math.sqrt(null) + beta * math.sqrt(true)) / detect) ** 2)


def prompts_needed_for_difference(
    detect: float,
    *,
    rate: float = 0.5,
    ties: float = 0.0,
    correlation: float = 0.3,
    power: float = 0.8,
    level: float = 0.95,
) -> int:
    """Return how many prompts show two win rates against one baseline to differ by `detect`.

    n = (z_α + z_β)² · 2v(1 − ρ) / detect², v the variance of a verdict and ρ the correlation of the two systems'
    verdicts at a prompt.

    Args:
        detect: The difference of the two win rates.
        rate: About how large both are.
        ties: Share of ties.
        correlation: ρ.
        power: Chance of finding it.
        level: 1 − the chance of a finding where there is nothing.

    Raises:
        ConfigError: an argument is out of range.
    """
    _check_detect(detect, power, level)
    _check(rate, ties)
    if not -1 <= correlation < 1:
        raise ConfigError(f"correlation {correlation}; it must lie in [-1, 1)", code="out_of_range", key="correlation")
    z = NormalDist().inv_cdf((1 + level) / 2) + NormalDist().inv_cdf(power)
    variance = max(0.0, rate * (1 - rate) - ties / 4)
    return math.ceil(z * z * 2 * variance * (1 - correlation) / detect**2)


@dataclass(frozen=True)
class Plan:
    """What a comparison needs to find a difference."""

    detect: float
    """Distance of the true win rate from ½."""
    ties: float
    power: float
    num_systems: int
    samples_per_prompt: int
    price: float | None
    """Of one call of the judge; None if it is not known."""

    @property
    def num_prompts(self) -> int:
        """Prompts needed with one verdict per prompt. Several answers per prompt need fewer, but rarely far fewer."""
        return prompts_needed(self.detect, ties=self.ties, power=self.power)

    @property
    def half_width(self) -> float:
        """Half the width of the interval that such a comparison will have."""
        return half_width(self.num_prompts, rate=0.5 + self.detect, ties=self.ties)

    @property
    def num_calls(self) -> int:
        """Calls of a judge that compares: each pair of answers in both orders."""
        pairs = self.num_systems * (self.num_systems - 1) // 2
        return 2 * pairs * self.samples_per_prompt * self.num_prompts

    @property
    def cost(self) -> float | None:
        """Price of all calls; None if the price of one is not known."""
        return None if self.price is None else self.num_calls * self.price

    def summary(self) -> str:
        """Return the plan as text."""
        cost = "unknown; give the price of one call (--price)" if self.cost is None else f"{self.cost:,.2f}"
        return "\n".join(
            [
                f"to find a win rate of {50 + 100 * self.detect:g} % with a chance of {100 * self.power:g} %"
                + (f", if {100 * self.ties:g} % are ties:" if self.ties else ":"),
                f"prompts      {self.num_prompts:,} (interval then ± {100 * self.half_width:.1f} points)",
                f"judge calls  {self.num_calls:,} (both orders, {self.num_systems} systems, "
                f"{self.samples_per_prompt} answers per prompt)",
                f"cost         {cost}",
                "More prompts help more than more answers per prompt.",
            ]
        )


def _check_detect(detect: float, power: float, level: float) -> None:
    for name, value, limit in (("detect", detect, 0.5), ("power", power, 1.0), ("level", level, 1.0)):
        if not 0 < value < limit:
            raise ConfigError(f"{name} is {value}; it must lie between 0 and {limit:g}", code="out_of_range", key=name)


def _check(rate: float, ties: float) -> None:
    if not 0 <= rate <= 1:
        raise ConfigError(f"a win rate of {rate}; it must lie between 0 and 1", code="out_of_range", key="rate")
    if not 0 <= ties <= 2 * min(rate, 1 - rate):
        raise ConfigError(
            f"a share of ties of {ties} is impossible at a win rate of {rate}", code="out_of_range", key="ties"
        )
