"""The texts of `tiltlm objectives`: a list of all methods, or all facts about one."""

import textwrap

from tiltlm.objectives import knobs
from tiltlm.objectives.catalog.names import resolve_name
from tiltlm.objectives.sweep_ranges import sweep_range
from tiltlm.recipes.methods import (
    METRICS,
    data_text,
    families,
    knob_text,
    metric_names,
    parse_docstring,
    parts_of_objective,
    peer_names,
    reference_text,
    step_text,
    to_source,
    variants,
)

WIDTH = 100
LABEL = 11
"""Width of the column of labels, in characters."""


def overview() -> str:
    """Return the list of methods by family, each with its name, data, reference and meaning."""
    names = [name for family in families().values() for name in family]
    shapes = {name: " or ".join(dict.fromkeys(form.shape for form in variants(name).values())) for name in names}
    wide, broad = max(map(len, names)), max(map(len, shapes.values()))
    lines = []
    for family, members in families().items():
        lines += ["", *textwrap.wrap(family, WIDTH)]
        for name in members:
            needs = "reference" if variants(name)[""].needs_reference else ""
            before = f"  {name:{wide}}  {shapes[name]:{broad}}  {needs:9}  "
            lines += _wrapped(before, parse_docstring(name).meaning)
    return "\n".join([*lines[1:], "", "`tiltlm objectives NAME` shows all about one method."])


def describe_method(name: str) -> str:
    """Return all facts about one method.

    Args:
        name: Its name in tiltlm, or in another library (`trl:hinge`).
    """
    resolved = resolve_name(name)
    name = resolved.name
    page, made = parse_docstring(name), variants(name)
    sections = page.sections
    lines = [*_wrapped("", f"{name} – {page.title}: {page.meaning}"), ""]
    lines += [line for note in resolved.notes for line in (*_wrapped("", note), "")]
    lines += [*(f"  {line}" for line in page.formula), ""]
    lines += [*_entry("Source", sections["Source"]), *_entry("When", sections["When"])]
    for knob, objective in made.items():
        lines += _entry("Data" if not knob else "", (f"with {knob}: " if knob else "") + data_text(objective))
    lines += _entry("Reference", reference_text(made[""]))
    lines += _listed("Knobs", {k.name: knob_text(k) for k in knobs(name)} or {"none": ""})
    lines += _entry("Sweep", sweep_range(name).text)
    lines += _entry("Units", sections["Units"])
    lines += _entry("Loss", step_text(made[""]))
    lines += _listed("Logged", {metric: METRICS[metric] for metric in metric_names(made[""])})
    lines += [*_entry("Differs", sections["Differs"]), *_entry("Fails", sections["Fails"])]
    lines += _entry("Elsewhere", ", ".join(peer_names(name))) if peer_names(name) else []
    label = "Parts"
    for knob, objective in made.items():
        for role, part in parts_of_objective(objective):
            lines += _entry(label, f"{f'with {knob}: ' if knob else ''}{role} {to_source(part)}")
            label = ""
    return "\n".join(lines)


def _entry(label: str, text: str) -> list[str]:
    """Return the lines of one labelled text."""
    return _wrapped(f"{label:{LABEL}}", text)


def _listed(label: str, rows: dict[str, str]) -> list[str]:
    """Return the lines of a table of two columns under one label."""
    wide = max(map(len, rows))
    lines = []
    for name, text in rows.items():
        lines += _wrapped(f"{label:{LABEL}}{name:{wide}}  ", text)
        label = ""
    return lines


def _wrapped(before: str, text: str) -> list[str]:
    """Return `text` wrapped after `before`; its further lines start in the same column as its first."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=before, subsequent_indent=" " * len(before), break_on_hyphens=False
    ) or [before.rstrip()]
