"""Objectives from plain values, as in a configuration: a name, parts, or a weighted sum of either.

`compose` builds the objective, `spell_out` adds every default to the description, `describe_spec` makes a short text.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tiltlm.core import ConfigError
from tiltlm.core.checks import prefix_errors, suggestion
from tiltlm.core.needs import Spec
from tiltlm.core.notes import Note
from tiltlm.objectives.catalog.names import refuse_foreign, resolve_name
from tiltlm.objectives.catalog.registry import build_at, knobs
from tiltlm.objectives.plain_parts import construct, plain_fields, read_number, to_plain_value
from tiltlm.objectives.shapes.listwise import Listwise
from tiltlm.objectives.shapes.pairwise import Pairwise
from tiltlm.objectives.shapes.rollouts import PolicyGradient
from tiltlm.objectives.shapes.unpaired import Unpaired
from tiltlm.objectives.shapes.weighted_sum import WeightedSum
from tiltlm.objectives.terms import Objective

Composed = Pairwise | Unpaired | Listwise | PolicyGradient

SHAPES: dict[str, type[Composed]] = {kind.shape: kind for kind in (Pairwise, Unpaired, Listwise, PolicyGradient)}
"""Shapes of data whose objectives can be composed of parts."""


def compose(spec: Spec, place: str = "objective") -> Objective:
    """Build the objective that plain values describe.

    Args:
        spec: `{name: dpo, beta: 0.1}`; or parts, `{data: pairs, reward: {name: log_ratio, beta: 0.1}, link: logistic}`
            or `{data: rollouts, surrogate: {name: clipped, high: 0.28}}`; or `{sum: [{name: dpo, weight: 0.8}, {name:
            sft, weight: 0.2}]}`, whose terms are of either kind.
        place: The name of the objective in messages.

    Raises:
        ConfigError: A value is unknown, missing, unused, of the wrong kind, out of range, or without effect.
    """
    form = form_of(spec, place)
    if form == "sum":
        return _sum(spec, place)
    if form == "parts":
        return _from_parts(spec, place)
    with prefix_errors(place):
        known = resolve_name(spec["name"])
        refuse_foreign(known.name, _without(spec, "name"))
    return build_at(place, known.name, {**known.knobs, **_without(spec, "name")})


def form_of(spec: Spec, place: str = "objective") -> str:
    """Return the form of a description: `name`, `parts` or `sum`.

    Raises:
        ConfigError: It is none of these, or several.
    """
    if not isinstance(spec, Mapping):
        raise ConfigError(
            f"{place} is {spec!r}; it must be a mapping, such as {{name: dpo, beta: 0.1}}", code="wrong_type", key=place
        )
    found = [key for key in ("name", "reward", "surrogate", "sum") if key in spec]
    if not found:
        raise ConfigError(
            f"{place}.name is missing; give a name (see `tiltlm objectives`), parts (data and reward and link, or data "
            "and surrogate) or a sum",
            code="missing_setting",
            key=f"{place}.name",
        )
    if len(found) > 1:
        raise ConfigError(
            f"{place} has {' and '.join(found)}; give only one of name, reward or surrogate (with other parts) and sum",
            code="conflict",
            key=place,
        )
    return {"reward": "parts", "surrogate": "parts"}.get(found[0], found[0])


def spell_out(spec: Spec, place: str = "objective") -> dict[str, Any]:
    """Return the description with every default, as it is saved in a run directory. It composes to an equal objective.

    Raises:
        ConfigError: As for `compose`.
    """
    objective = compose(spec, place)
    if isinstance(objective, WeightedSum):
        terms = zip(spec["sum"], objective.weights, strict=True)
        return {"sum": [{**spell_out(_without(term, "weight")), "weight": weight} for term, weight in terms]}
    if "name" in spec:
        known = resolve_name(spec["name"])
        defaults = {k.name: k.default for k in knobs(known.name) if not k.is_required}
        return {"name": spec["name"], **defaults, **known.knobs, **_without(spec, "name")}
    assert isinstance(objective, Composed)
    return parts_of(objective)


def parts_of(objective: Composed) -> dict[str, Any]:
    """Return the description of an objective by its parts; `compose` builds an equal one from it."""
    if isinstance(objective, PolicyGradient):
        return {"data": objective.shape, **plain_fields(objective)}
    reward = objective.reward
    return {"data": objective.shape, "reward": to_plain_value(reward), **plain_fields(objective, reward)}


def describe_spec(spec: Spec, *, with_numbers: bool = False) -> str:
    """Describe an objective: `dpo`, `log_ratio × logistic, chosen_nll on pairs`, `0.8 dpo + 0.2 sft`.

    Args:
        spec: A description as `spell_out` returns it.
        with_numbers: Add the settings of each part in brackets.
    """
    if "sum" in spec:
        terms = [
            (term["weight"], describe_spec(_without(term, "weight"), with_numbers=with_numbers)) for term in spec["sum"]
        ]
        return " + ".join(f"{weight:g} {f'[{text}]' if ' on ' in text else text}" for weight, text in terms)
    if "name" in spec:
        return _describe_part({**spec, "name": resolve_name(spec["name"]).name}, with_numbers)
    main, *others = [
        _describe_part(part, with_numbers)
        for key in (
            "surrogate",
            "kl",
            "critic",
            "link",
            "loss",
            "adjustments",
            "weighting",
            "statistic",
            "regularisers",
        )
        for part in _as_list(spec.get(key))
    ]
    if "surrogate" in spec:
        return ", ".join((f"{main}, {spec['aggregate']}", *others)) + f" on {spec['data']}"
    times = " × " if spec.get("link") or spec.get("loss") else ", "
    first = _describe_part(spec["reward"], with_numbers) + times + main
    return ", ".join(dict.fromkeys([first, *others])) + f" on {spec['data']}"


def notes_on(spec: Spec) -> tuple[Note, ...]:
    """Return notes on names that other libraries use differently, each once."""
    named = [term["name"] for term in spec.get("sum", [spec]) if "name" in term]
    notes = dict.fromkeys(note for name in named for note in resolve_name(name).notes)
    return tuple(Note(note, "other_name") for note in notes)


def _sum(spec: Spec, place: str) -> WeightedSum:
    terms = spec["sum"]
    for key in _without(spec, "sum"):
        raise ConfigError(
            f"{place}.{key}: a sum has no such setting; it is a list of terms, each with its weight",
            code="unknown_setting",
            key=f"{place}.{key}",
        )
    if not isinstance(terms, Sequence) or isinstance(terms, str):
        raise ConfigError(
            f"{place}.sum is {terms!r}; it must be a list: [{{name: dpo, weight: 0.8}}, …]",
            code="wrong_type",
            key=f"{place}.sum",
        )
    objectives, weights = [], []
    for i, term in enumerate(terms):
        where = f"{place}.sum.{i}"
        if not isinstance(term, Mapping) or "weight" not in term:
            raise ConfigError(
                f"{where}.weight is missing; each term of a sum must have one: {{name: dpo, weight: 0.8}}",
                code="missing_setting",
                key=f"{where}.weight",
            )
        if "sum" in term:
            raise ConfigError(
                f"{where} is a sum inside a sum; add its terms to the outer sum, with the weights multiplied",
                code="nested_sum",
                key=where,
            )
        weights.append(read_number(term["weight"], f"{where}.weight"))
        objectives.append(compose(_without(term, "weight"), where))
    with prefix_errors(place):
        return WeightedSum(tuple(objectives), tuple(weights))


def _from_parts(spec: Spec, place: str) -> Composed:
    if "data" not in spec:
        raise ConfigError(
            f"{place}.data is missing; it must be one of {', '.join(SHAPES)}",
            code="missing_setting",
            key=f"{place}.data",
        )
    shape = spec["data"]
    if not isinstance(shape, str) or shape not in SHAPES:
        hint = suggestion(str(shape), SHAPES)
        if shape == "demonstrations":
            hint = ", which have only one method, {name: sft}."
        raise ConfigError(
            f"{place}.data is {shape!r}{hint} Known: {', '.join(SHAPES)}", code="unknown_name", key=f"{place}.data"
        )
    return construct(SHAPES[shape], _without(spec, "data"), place, f"an objective of {shape}")


def _without(spec: Spec, *keys: str) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key not in keys}


def _as_list(value: Any) -> list[Any]:
    """Return a value as a list: it is None, one part, or a list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _describe_part(part: Spec, with_numbers: bool) -> str:
    """Describe a part by its name and, on request, its settings."""
    settings = {key: value for key, value in part.items() if key != "name" and value is not None}
    if not settings or not with_numbers:
        return str(part["name"])
    return f"{part['name']} ({', '.join(f'{key} {_describe_value(value)}' for key, value in settings.items())})"


def _describe_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return _describe_part(value, with_numbers=True)
    return f"{value:g}" if isinstance(value, float) else str(value)
