"""Facts about the methods, read from signatures, docstrings and the objectives themselves.

The command `tiltlm objectives` (`catalogue.py`) and the pages in docs/ show them. No fact is written twice.
"""

import inspect
import re
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from tiltlm.core import ConfigError
from tiltlm.core.logps import OF_REFERENCE
from tiltlm.diagnostics import step_metrics
from tiltlm.objectives import CATALOG, Knob, Objective, build, knobs
from tiltlm.objectives.catalog.names import PEERS
from tiltlm.objectives.catalog.registry import constructor
from tiltlm.objectives.dry_run import toy_batch

SECTIONS = ("Source", "Units", "When", "Differs", "Fails")
"""Sections of every constructor's docstring after its formula, in this order."""
PLACEHOLDER = 0.5
"""A value that every knob without a default accepts."""

SHAPES: Mapping[str, str] = {
    "pairs": "pairs: `prompt`, `chosen`, `rejected`; or lists: all responses of different rank or score are compared "
    "two by two",
    "unpaired": "unpaired: `prompt`, `completion`, `label`; or pairs: one desirable and one undesirable response",
    "lists": "lists: `prompt`, `completions`, and `ranks` or `scores`; or pairs: each is a list of two",
    "demonstrations": "demonstrations: `prompt` and `completion`, or `messages`, or `text`; or pairs: only the chosen "
    "response is learned",
    "rollouts": "rollouts: samples of the policy with advantages, which only `tiltlm loop` makes; files have none",
}
NEEDS: Mapping[str, str] = {
    "scores": "scores: `score_chosen` and `score_rejected`; for lists `scores`",
    "strict_scores": "scores, higher for the chosen response: `score_chosen` and `score_rejected`; for lists `scores`",
    "ranks": "an order: `ranks`; or `scores`, from which the ranks are computed",
}
METRICS: Mapping[str, str] = {
    "loss": "loss of the objective, divided by counts of the whole step",
    "rewards/chosen": "mean reward r of chosen (desirable) responses",
    "rewards/rejected": "mean reward r of rejected (undesirable) responses",
    "rewards/margins": "rewards/chosen − rewards/rejected",
    "rewards/accuracies": "share of comparisons with r_w > r_l, a tie counts ½; with label p: p·[r_w > r_l] + "
    "(1 − p)·[r_w < r_l]",
    "rewards/ties": "share of comparisons with r_w = r_l exactly",
    "logps/chosen": "mean log π(y|x) of chosen (desirable) responses, nats",
    "logps/rejected": "mean log π(y|x) of rejected (undesirable) responses, nats",
    "logps_per_token/chosen": "mean log π(y|x) / T(y), nats per token",
    "logps_per_token/rejected": "mean log π(y|x) / T(y), nats per token",
    "kl": "z0 of the step, nats per response: the mean over mismatched prompts and responses, not the policy's KL",
    "delta": "δ, the running mean of the reward in this run",
    "nll": "−Σ log π(y|x) / Σ T(y), nats per token",
    "log_ratios": "mean log π/π_ref(y|x) of the samples, nats per response",
    "clipped": "share of tokens whose ratio π/π_old is beyond its limit",
    "ratios/deviation": "mean |π/π_old − 1| over tokens; 0 in the first step after the samples were drawn",
    "values/error": "mean (V − G)² over tokens, the critic's error; compare it with the variance of the scores",
    "values/returns": "mean G over tokens, the return that the critic learns",
}
"""Every metric of an objective with its meaning, in the order in which they are shown."""


@dataclass(frozen=True)
class MethodDoc:
    """The parts of a constructor's docstring."""

    title: str
    meaning: str
    formula: tuple[str, ...]
    sections: Mapping[str, str]
    """Text by section; the keys are `SECTIONS`."""


def parse_docstring(name: str) -> MethodDoc:
    """Return the parts of the docstring of the method called `name`.

    Raises:
        ConfigError: there is no such method, or its docstring is not a line "Name: meaning.", a formula, and all
            sections in their order.
    """
    paragraphs = (inspect.getdoc(constructor(name)) or "").split("\n\n")
    if len(paragraphs) != 3 or ": " not in paragraphs[0]:
        raise ConfigError(
            f"{name}: its docstring has {len(paragraphs)} paragraphs; it must have three: 'Name: meaning.', the "
            f"formula, and the sections {', '.join(SECTIONS)}",
            code="docstring_paragraphs",
        )
    title, _, meaning = paragraphs[0].replace("\n", " ").partition(": ")
    pieces = re.split(r"^([A-Z][a-z]+): ", paragraphs[2], flags=re.MULTILINE)
    found = tuple(pieces[1::2])
    if pieces[0] or found != SECTIONS:
        raise ConfigError(
            f"{name}: its docstring has the sections {found}; it must have {SECTIONS}, in this order",
            code="docstring_sections",
        )
    texts = (" ".join(text.split()) for text in pieces[2::2])
    return MethodDoc(title, meaning, tuple(paragraphs[1].split("\n")), dict(zip(found, texts, strict=True)))


def families() -> dict[str, list[str]]:
    """Return the names of methods by family: the first paragraph of their module's docstring."""
    found: dict[str, list[str]] = {}
    for name in CATALOG:
        module = inspect.getdoc(inspect.getmodule(constructor(name))) or ""
        found.setdefault(module.split("\n\n")[0].replace("\n", " "), []).append(name)
    return found


def variants(name: str) -> dict[str, Objective]:
    """Return the method with its defaults under "", and the variant that reads other data under its knob's name.

    Knobs without a default get `PLACEHOLDER`, so that the objective can be asked what it needs.
    """
    required = {k.name: PLACEHOLDER for k in knobs(name) if k.is_required}
    found = {"": build(name, **required)}
    for knob in knobs(name):
        if knob.default is None:
            with suppress(ConfigError):  # this knob has an effect only with another one
                other = build(name, **required, **{knob.name: PLACEHOLDER})
                if other.shape != found[""].shape:
                    found[knob.name] = other
    return found


def data_text(objective: Objective) -> str:
    """Return a text on the data that an objective reads: its shape, required columns, and optional columns."""
    needs = [NEEDS[need] for need in sorted(objective.needs)]
    optional = [f"`{column}`" for column in sorted(objective.uses)]
    return (
        ". ".join([SHAPES[objective.shape], *(f"It needs {n}" for n in needs), f"Optional: {', '.join(optional)}"])
        + "."
    )


def reference_text(objective: Objective) -> str:
    """Return a text on whether and how an objective uses a reference."""
    if not objective.needs_reference:
        return "none; naming one is an error."
    if objective.extras & OF_REFERENCE:
        return "needed at every step, for its whole next-token distributions, which the store does not hold."
    return "needed, `initial` by default; its log-probabilities are computed once and stored."


def step_text(objective: Objective) -> str:
    """Return a text on what the loss of a step is divided by, and whether examples depend on each other."""
    responses, view = toy_batch(objective)
    counts = " and ".join(sorted({term.divisor.value for term in objective(responses, view)}))
    whole = ". Coupled: the loss of an example depends on the other examples of its step" if objective.coupled else ""
    statistic = ". A statistic of the whole step comes first" if objective.statistic is not None else ""
    return f"divided by the {counts} of the optimiser step, over all ranks{whole}{statistic}."


def metric_names(objective: Objective) -> list[str]:
    """Return the names of the metrics of each step; those of held-out data have the prefix `eval_`."""
    seen = {"loss", *step_metrics.metric_names(objective)}
    assert seen <= METRICS.keys(), f"METRICS must explain {seen - METRICS.keys()}, which is logged"
    return [name for name in METRICS if name in seen]


def parts_of_objective(objective: Objective) -> list[tuple[str, Any]]:
    """Return (role, part) for each part of an objective, the reward first."""
    found: list[tuple[str, Any]] = [("reward", objective.reward)]
    for field in fields(objective):  # type: ignore[arg-type]  # objectives are dataclasses
        value = getattr(objective, field.name)
        if field.name != "reward":
            found += [
                (field.name, part) for part in (value if isinstance(value, tuple) else (value,)) if is_dataclass(part)
            ]
    return found


def to_source(part: Any, width: int = 100) -> str:
    """Return the Python expression that builds a part or an objective. Fields with default values are left out.

    Args:
        part: An objective, a part, or a value of one of its fields.
        width: A longer expression has one item a line.
    """
    if isinstance(part, tuple):
        opening, items, last = "(", [to_source(item, width - 4) for item in part], "," * (len(part) == 1)
    elif is_dataclass(part):
        given = [(f.name, getattr(part, f.name)) for f in fields(part) if getattr(part, f.name) != f.default]
        items = [f"{name}={to_source(value, width - 4)}" for name, value in given]
        opening, last = f"{type(part).__name__}(", ""
    else:
        return f'"{part}"' if isinstance(part, str) else repr(part)
    flat = f"{opening}{', '.join(items)}{last})"
    if len(flat) <= width and "\n" not in flat:
        return flat
    return opening + textwrap.indent("".join(f"\n{item}," for item in items), "    ") + "\n)"


def summary_of(part: type) -> str:
    """Return the first paragraph of the docstring of a part's class."""
    return (inspect.getdoc(part) or "").split("\n\n")[0].replace("\n", " ").rstrip(":")


def peer_names(name: str) -> list[str]:
    """Return the names of a method in other libraries, in the form that tiltlm accepts: `trl:hinge`."""
    return [f"{library}:{peer}" for library, peers in PEERS.items() for peer, p in peers.items() if p.name == name]


def knob_text(knob: Knob) -> str:
    """Return a text with a knob's default and its possible values, if they are words."""
    default = knob.shown if knob.is_required else f"default {knob.shown}"
    return f"{default}; one of {', '.join(knob.choices)}" if knob.choices else default
