"""The methods by name: each a constructor of a dozen lines that chooses reward, link and data shape.

A constructor's signature is its knobs and their published defaults; its docstring is its formula and source. What it
is handed it consumes: anything else is refused.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from tiltlm.core import ConfigError
from tiltlm.links import Logistic, Sigmoid, Squared
from tiltlm.objectives.demonstration import Demonstration
from tiltlm.objectives.pairwise import Pairwise
from tiltlm.objectives.regularisers import ChosenNLL
from tiltlm.objectives.terms import Objective
from tiltlm.objectives.unpaired import Unpaired
from tiltlm.rewards import LogOdds, LogRatio, MeanLogp, SeqLogp

Constructor = Callable[..., Objective]
Registered = TypeVar("Registered", bound=Constructor)

CATALOG: dict[str, Constructor] = {}
"""Every method by its name, in the order in which they are told."""


def register(constructor: Registered) -> Registered:
    """Enter a constructor into the catalogue under its own name."""
    CATALOG[constructor.__name__] = constructor
    return constructor


def positive(**knobs: float) -> None:
    """Refuse knobs that are not above zero (nor finite)."""
    for name, value in knobs.items():
        if not 0 < value < float("inf"):
            raise ConfigError(f"objective.{name} is {value}; it must be a positive number")


def not_negative(**knobs: float) -> None:
    """Refuse knobs below zero (or not finite)."""
    for name, value in knobs.items():
        if not 0 <= value < float("inf"):
            raise ConfigError(f"objective.{name} is {value}; it must be zero or a positive number")


@register
def dpo(beta: float = 0.1) -> Pairwise:
    r"""DPO: the policy is its own reward model; fit it to comparisons by Bradley–Terry likelihood.

    ℓ = −log σ( β [ (log π/π_ref)(y_w|x) − (log π/π_ref)(y_l|x) ] )

    Source: Rafailov et al. 2023, arXiv 2305.18290, eq. 7.
    Units: β in reward per nat of the whole response. Optimum under Bradley–Terry labels: π ∝ π_ref·exp(r/β).
    """
    positive(beta=beta)
    return Pairwise(reward=LogRatio(beta), link=Logistic())


@register
def ipo(tau: float = 0.1) -> Pairwise:
    r"""IPO: regress the log-ratio margin onto a constant, so that certain labels cannot push it to infinity.

    ℓ = ( log π/π_ref(y_w|x) − log π/π_ref(y_l|x) − 1/(2τ) )²

    Source: Azar et al. 2023, arXiv 2310.12036, eq. 17.
    Units: log-ratios are summed over tokens (nats per response), as the paper prints it; TRL's `ipo` divides each by
    its response's length, which is another objective with another τ.
    """
    positive(tau=tau)
    return Pairwise(reward=LogRatio(beta=1.0), link=Squared(target=1 / (2 * tau)))


@register
def simpo(beta: float = 2.0, gamma_beta_ratio: float = 0.25) -> Pairwise:
    r"""SimPO: length-normalised log-probability as the reward, no reference, and a target margin.

    ℓ = −log σ( β [ A(y_w) − A(y_l) ] − γ ),  A(y) = log π(y|x) / T(y),  γ = β · gamma_beta_ratio

    Source: Meng et al. 2024, arXiv 2405.14734, eq. 6; the ratio γ/β and the defaults are the authors' code's.
    Units: β in reward per nat per token; TRL's `simpo_gamma` is γ itself, and its CPO adds an NLL term by default.
    """
    positive(beta=beta)
    not_negative(gamma_beta_ratio=gamma_beta_ratio)
    return Pairwise(reward=MeanLogp(beta), link=Logistic(margin=beta * gamma_beta_ratio))


@register
def orpo(odds_weight: float = 0.1) -> Pairwise:
    r"""ORPO: imitate the chosen response, and raise its odds over the rejected one, in one stage without a reference.

    ℓ = −A(y_w) − λ·log σ( lo(y_w) − lo(y_l) ),  lo = log p/(1 − p),  p = exp(A(y)),  A(y) = log π(y|x) / T(y)

    Source: Hong et al. 2024, arXiv 2403.07691, eqs. 6 and 7. λ is `odds_weight` (TRL calls it beta); 0.1 as in the
    paper's runs.
    Units: A in nats per token; the odds have none. The NLL is over the response; the authors' code and TRL include the
    prompt.
    """
    positive(odds_weight=odds_weight)
    return Pairwise(reward=LogOdds(), link=Logistic(), regularisers=(ChosenNLL(1.0),), strength=odds_weight)


@register
def kto(beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> Unpaired:
    r"""KTO: single thumbs up or down, valued against what the policy does to responses of other prompts.

    ℓ = λ_D·(1 − σ(β(ρ − z0))) if desirable, λ_U·(1 − σ(β(z0 − ρ))) if not,
    ρ = log π/π_ref(y|x),  z0 = max(0, mean of log π/π_ref over mismatched (x, y′)), without gradient

    Source: Ethayarajh et al. 2024, arXiv 2402.01306, eqs. 7 and 8.
    Units: β in reward per nat of the whole response. With n_D desirable and n_U undesirable rows the paper keeps
    λ_D·n_D / (λ_U·n_U) between 1 and 3/2. z0 is pooled over the whole step and every rank; TRL takes it per batch.
    """
    positive(beta=beta)
    not_negative(desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)
    if desirable_weight == undesirable_weight == 0:
        raise ConfigError("objective: desirable_weight and undesirable_weight are both 0; nothing would be learned")
    return Unpaired(LogRatio(beta), Sigmoid(), desirable_weight, undesirable_weight)


@register
def sft() -> Demonstration:
    r"""SFT: maximum likelihood of the demonstrated response; of a pair, the chosen one.

    ℓ = −Σ log π(y|x) / Σ T(y), both sums over the whole optimiser step

    Units: nats per token; every response token of a step counts the same.
    """
    return Demonstration(SeqLogp())


@dataclass(frozen=True)
class Knob:
    """One setting of a method, read off its constructor's signature."""

    name: str
    default: Any
    """`inspect.Parameter.empty` where the method has no default."""
    type: type


def knobs(name: str) -> tuple[Knob, ...]:
    """The settings the method called `name` takes."""
    parameters = inspect.signature(constructor(name)).parameters.values()
    return tuple(Knob(p.name, p.default, p.annotation) for p in parameters)


def constructor(name: str) -> Constructor:
    """The constructor called `name`.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    if name in CATALOG:
        return CATALOG[name]
    near = get_close_matches(name, CATALOG, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ConfigError(f"objective.name: no objective {name!r}{hint} Known: {', '.join(CATALOG)}")


def build(name: str, **settings: Any) -> Objective:
    """The objective called `name` with these knobs.

    Raises:
        ConfigError: unknown name, a knob the method does not consume, a missing one, or a value out of range.
    """
    make, known = constructor(name), {k.name: k for k in knobs(name)}
    for key, value in settings.items():
        if key not in known:
            takes = ", ".join(known) or "none"
            near = get_close_matches(key, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"objective.{key}: {name} does not use it; the knobs of {name}: {takes}.{hint}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"objective.{key} is {value!r}; {name} needs a number there")
    missing = [k.name for k in known.values() if k.default is inspect.Parameter.empty and k.name not in settings]
    if missing:
        raise ConfigError(f"objective: {name} needs {', '.join(missing)}; there is no default")
    return make(**{key: known[key].type(value) for key, value in settings.items()})
