"""The catalogue as text, generated from the constructors: their signatures, docstrings, and what the parts declare."""

import inspect

from tiltlm.core import Demonstrations, Labelled, Pairs
from tiltlm.objectives import CATALOG, Objective, build, knobs

DATA_SHAPES = {
    Pairs: "pairs: prompt, chosen, rejected (or ranks, scores, comparisons of several completions)",
    Labelled: "labels: prompt, completion, label (pairs are split into one desirable and one undesirable response)",
    Demonstrations: "demonstrations: prompt, completion, or messages, or text (of a pair, the chosen response)",
}
DIVISORS = {Pairs: "examples", Labelled: "responses", Demonstrations: "response tokens"}


def example_of(name: str) -> Objective:
    """The method with its defaults, and 1 where it has none: enough to ask what it needs."""
    missing = {k.name: 1.0 for k in knobs(name) if k.default is inspect.Parameter.empty}
    return build(name, **missing)


def overview() -> str:
    """One line a method: name, data, reference, what it means."""
    rows = [("objective", "data", "reference", "knobs (defaults)", "")]
    for name, constructor in CATALOG.items():
        objective = example_of(name)
        shape = DATA_SHAPES[objective.view].split(":")[0]
        settings = ", ".join(
            k.name if k.default is inspect.Parameter.empty else f"{k.name}={k.default:g}" for k in knobs(name)
        )
        meaning = (inspect.getdoc(constructor) or "").splitlines()[0].partition(": ")[2]
        rows.append((name, shape, "yes" if objective.needs_reference else "no", settings or "none", meaning))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=False)).rstrip() for row in rows]
    described = [f"{line}\n    {row[4]}" if row[4] else line for line, row in zip(lines, rows, strict=True)]
    return "\n".join([*described, "", "`tiltlm objectives NAME` tells one in full."])


def describe(name: str) -> str:
    """One method in full: formula, source and units, data and reference it needs, knobs, what its loss divides by."""
    objective = example_of(name)
    text = inspect.getdoc(CATALOG[name]) or ""
    takes = [
        f"  {k.name}  " + ("no default" if k.default is inspect.Parameter.empty else f"default {k.default:g}")
        for k in knobs(name)
    ]
    return "\n".join(
        [
            text,
            "",
            f"Data       {DATA_SHAPES[objective.view]}",
            f"Reference  {'needed: reference.name (initial by default)' if objective.needs_reference else 'none'}",
            f"Divisor    {DIVISORS[objective.view]} of the optimiser step; weights do not enter it",
            f"Parts      {objective!r}",
            "Knobs",
            *(takes or ["  none"]),
        ]
    )
