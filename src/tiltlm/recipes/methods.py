"""What the code says of its methods, as facts: read off signatures and docstrings, and off the objectives themselves.

The terminal (`catalogue`) and the pages in docs/ tell these facts; nothing here is written down a second time.
"""

import inspect
import re
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch

from tiltlm.core import (
    Comparison,
    ConfigError,
    Example,
    Response,
    ResponseLogps,
    ResponseScores,
    View,
    build_trees,
    token_ids,
)
from tiltlm.core.logps import OF_REFERENCE
from tiltlm.diagnostics.step_metrics import metric_sums
from tiltlm.objectives import CATALOG, Knob, Objective, build, knobs
from tiltlm.objectives.catalog.names import PEERS
from tiltlm.objectives.catalog.registry import constructor
from tiltlm.rewards import Learned

SECTIONS = ("Source", "Units", "When", "Differs", "Fails")
"""What every constructor's docstring says after its formula, in this order."""
PLACEHOLDER = 0.5
"""A value within the range of every knob that has no default."""

SHAPES: Mapping[str, str] = {
    "pairs": "pairs: `prompt`, `chosen`, `rejected`; or lists, of which every two responses that differ are compared",
    "unpaired": "unpaired: `prompt`, `completion`, `label`; or pairs, as one desirable and one undesirable response",
    "lists": "lists: `prompt`, `completions`, and `ranks` or `scores`; or pairs, as lists of two",
    "demonstrations": "demonstrations: `prompt` and `completion`, or `messages`, or `text`; of pairs the chosen one",
}
NEEDS: Mapping[str, str] = {
    "scores": "scores: `score_chosen`, `score_rejected`; of lists `scores`",
    "strict_scores": "scores, the chosen response's the higher: `score_chosen`, `score_rejected`; of lists `scores`",
    "ranks": "an order: `ranks`, or `scores`, from which ranks follow",
}
METRICS: Mapping[str, str] = {
    "loss": "the objective's own, divided by counts of the whole step",
    "rewards/chosen": "mean reward r of chosen (desirable) responses",
    "rewards/rejected": "mean reward r of rejected (undesirable) responses",
    "rewards/margins": "rewards/chosen − rewards/rejected",
    "rewards/accuracies": "share with r_w > r_l, a tie ½; p·[r_w > r_l] + (1 − p)·[r_w < r_l] at label p",
    "rewards/ties": "share with r_w = r_l exactly",
    "logps/chosen": "mean log π(y|x) of chosen (desirable) responses, nats",
    "logps/rejected": "mean log π(y|x) of rejected (undesirable) responses, nats",
    "logps_per_token/chosen": "mean log π(y|x) / T(y), nats per token",
    "logps_per_token/rejected": "mean log π(y|x) / T(y), nats per token",
    "kl": "z0 of the step, nats per response: a mean over mismatched pairs, not the KL of the policy",
    "delta": "δ of the run so far, in units of the reward",
    "nll": "−Σ log π(y|x) / Σ T(y), nats per token",
}
"""Every metric of an objective and what it is, in the order in which they are told."""


@dataclass(frozen=True)
class MethodDoc:
    """A constructor's docstring, taken apart."""

    title: str
    meaning: str
    formula: tuple[str, ...]
    sections: Mapping[str, str]
    """By the names in `SECTIONS`."""


def parse_docstring(name: str) -> MethodDoc:
    """What the docstring of the method called `name` says.

    Raises:
        ConfigError: there is no such method, or its docstring is not a line "Name: meaning.", a formula, and all the
            sections in their order.
    """
    paragraphs = (inspect.getdoc(constructor(name)) or "").split("\n\n")
    if len(paragraphs) != 3 or ": " not in paragraphs[0]:
        raise ConfigError(
            f"{name}: its docstring has {len(paragraphs)} paragraphs; a method's has three: 'Name: meaning.', the "
            f"formula, and the sections {', '.join(SECTIONS)}",
            code="docstring_paragraphs",
        )
    title, _, meaning = paragraphs[0].replace("\n", " ").partition(": ")
    pieces = re.split(r"^([A-Z][a-z]+): ", paragraphs[2], flags=re.MULTILINE)
    found = tuple(pieces[1::2])
    if pieces[0] or found != SECTIONS:
        raise ConfigError(
            f"{name}: its docstring has the sections {found}; a method's has {SECTIONS}, in this order",
            code="docstring_sections",
        )
    texts = (" ".join(text.split()) for text in pieces[2::2])
    return MethodDoc(title, meaning, tuple(paragraphs[1].split("\n")), dict(zip(found, texts, strict=True)))


def families() -> dict[str, list[str]]:
    """Names of methods by what their module says it holds."""
    found: dict[str, list[str]] = {}
    for name in CATALOG:
        module = inspect.getdoc(inspect.getmodule(constructor(name))) or ""
        found.setdefault(module.split("\n\n")[0].replace("\n", " "), []).append(name)
    return found


def variants(name: str) -> dict[str, Objective]:
    """The method with its defaults under "", and under a knob's name where giving it changes what data is read.

    Knobs without a default have any value: enough to ask the objective what it needs.
    """
    required = {k.name: PLACEHOLDER for k in knobs(name) if k.is_required}
    found = {"": build(name, **required)}
    for knob in knobs(name):
        if knob.default is None:
            with suppress(ConfigError):  # it makes sense beside another knob only
                other = build(name, **required, **{knob.name: PLACEHOLDER})
                if other.shape != found[""].shape:
                    found[knob.name] = other
    return found


def data_text(objective: Objective) -> str:
    """The data it reads: its shape, what it cannot do without, and the optional columns that change its loss."""
    needs = [NEEDS[need] for need in sorted(objective.needs)]
    optional = [f"`{column}`" for column in sorted(objective.uses)]
    return (
        ". ".join([SHAPES[objective.shape], *(f"It needs {n}" for n in needs), f"Optional: {', '.join(optional)}"])
        + "."
    )


def reference_text(objective: Objective) -> str:
    """What it asks of a reference."""
    if not objective.needs_reference:
        return "none; naming one is refused."
    if objective.extras & OF_REFERENCE:
        return "needed at every step, for its whole next-token distributions; they are not in the store."
    return "needed, `initial` by default; its log-probabilities are computed once and kept in the store."


def step_text(objective: Objective) -> str:
    """What a step divides by, and whether it must be seen whole."""
    responses, view = toy_batch(objective)
    counts = " and ".join(sorted({term.divisor.value for term in objective(responses, view)}))
    whole = ". Coupled: an example's loss depends on the others of its step" if objective.coupled else ""
    statistic = ". A statistic of the whole step comes first" if objective.statistic is not None else ""
    return f"divided by the {counts} of the optimiser step, over all ranks{whole}{statistic}."


def metric_names(objective: Objective) -> list[str]:
    """Names of what is logged of each step and, with `eval_` before them, of held-out data."""
    responses, view = toy_batch(objective)
    seen = {"loss", *metric_sums(objective, responses, view).means()}
    assert seen <= METRICS.keys(), f"{seen - METRICS.keys()}: logged, and METRICS does not say what it is"
    return [name for name in METRICS if name in seen]


def parts_of_objective(objective: Objective) -> list[tuple[str, Any]]:
    """(role, part) of everything it is made of, its reward first."""
    found: list[tuple[str, Any]] = [("reward", objective.reward)]
    for field in fields(objective):  # type: ignore[arg-type]  # objectives are dataclasses
        value = getattr(objective, field.name)
        if field.name != "reward":
            found += [
                (field.name, part) for part in (value if isinstance(value, tuple) else (value,)) if is_dataclass(part)
            ]
    return found


def to_source(part: Any, width: int = 100) -> str:
    """A part, or a whole objective, as Python builds it: fields at their defaults left out, an item a line if long."""
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
    """The first paragraph of the docstring of a kind of part."""
    return (inspect.getdoc(part) or "").split("\n\n")[0].replace("\n", " ").rstrip(":")


def peer_names(name: str) -> list[str]:
    """What other libraries call it, as they may be written here: `trl:hinge`."""
    return [f"{library}:{theirs}" for library, peers in PEERS.items() for theirs, p in peers.items() if p.name == name]


def knob_text(knob: Knob) -> str:
    """A knob's default, and the words it can be."""
    default = knob.shown if knob.is_required else f"default {knob.shown}"
    return f"{default}; one of {', '.join(knob.choices)}" if knob.choices else default


def toy_batch(objective: Objective) -> tuple[ResponseLogps, View]:
    """Two made-up responses of one token with everything an objective could read, and its view of them."""
    responses = tuple(Response(token_ids([token])) for token in (1, 2))
    example = Example(
        "made up", token_ids([0]), responses, (Comparison(0, 1),), labels=(True, False), ranks=(1, 2), scores=(1.0, 0.0)
    )
    _, slots = build_trees([example])
    view = objective.view.of([example], slots)
    if isinstance(objective.reward, Learned):
        return ResponseScores.of(torch.tensor([1.0, 0.0]), torch.tensor([1, 1])), view
    values = torch.tensor([-1.0, -2.0])
    numbers = ResponseLogps(
        values,
        response_index=torch.tensor([0, 1]),
        num_tokens=torch.tensor([1, 1]),
        ref_token_logps=values,
        log_collisions=values,
        entropies=-values,
        ref_kls=-values,
        ref_entropy_shares=-values,
    )
    return numbers, view
