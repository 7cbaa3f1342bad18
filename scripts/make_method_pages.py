"""Write the documentation of methods from signatures, docstrings and the objectives themselves.

    python scripts/make_method_pages.py

It writes docs/methods/NAME.md, one page per method, and the marked blocks of the pages in `BLOCKS`. Text outside the
marks is written by hand and stays. Run it after a change of a constructor's signature or docstring: a test compares the
pages.
"""

import inspect
import re
import runpy
import textwrap
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path

import tiltlm.links
import tiltlm.objectives
import tiltlm.rewards
from tiltlm.config.foreign_names import TRL
from tiltlm.objectives import CATALOG, knobs
from tiltlm.objectives.catalog.names import PEERS
from tiltlm.objectives.parts.adjustments import Adjustment
from tiltlm.objectives.parts.regularisers import Regulariser
from tiltlm.objectives.parts.statistics import Statistic
from tiltlm.objectives.parts.weightings import Weighting
from tiltlm.objectives.shapes.listwise import ListLoss
from tiltlm.objectives.sweep_ranges import sweep_range
from tiltlm.online.presets import PRESETS
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
    summary_of,
    to_source,
    variants,
)

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LENGTH = 120
"""Maximal length of a line, in characters."""
NOTE = "*Made by `scripts/make_method_pages.py` from the code; change it there.*"
COMMON = {
    "grad_norm": "norm of the gradient before clipping",
    "learning_rate": "learning rate of the step",
    "epoch": "passes over the data so far, with a fraction",
    "num_tokens": "input tokens so far, each prompt counted once a step",
    "seconds": "duration of the steps since the last record",
}
"""Metrics of every step that do not depend on the objective."""
EXTENSIBLE = {
    "Link's margin, adjusted": Adjustment,
    "Beside the link": Regulariser,
    "Times the link": Weighting,
    "Of a list": ListLoss,
    "Of a step": Statistic,
}


def table(*rows: tuple[str, ...]) -> str:
    """Return a Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def prose(text: str) -> str:
    """Return a text wrapped to lines; its first letter becomes a capital."""
    text = re.sub("^[a-z]", lambda letter: letter.group().upper(), text)
    return textwrap.fill(text, LENGTH, break_long_words=False, break_on_hyphens=False)


def page(name: str) -> str:
    """Return the page docs/methods/NAME.md."""
    facts, made = parse_docstring(name), variants(name)
    text_of = {heading: prose(text) for heading, text in facts.sections.items()}
    rows = [(f"`{k.name}`", knob_text(k)) for k in knobs(name)]
    required = "".join(f" objective.{k.name}=..." for k in knobs(name) if k.is_required)
    of_data = [(f"With `{knob}`: " if knob else "") + data_text(objective) for knob, objective in made.items()]
    is_online = made[""].shape == "rollouts"
    command = f"tiltlm train --model MODEL --data DATA --objective {name} --output runs/{name}{required}"
    if is_online:
        preset = name if name in PRESETS else "grpo"
        chosen = "" if name in PRESETS else f" objective={name}"
        judge = " --judge JUDGE" if PRESETS[preset].settings["examples"]["rule"] != "unscored" else ""
        command = f"tiltlm loop --preset {preset} --model MODEL --data PROMPTS{judge} --output runs/{name}{chosen}"
    built = [to_source(objective) + (f"  # with {knob}" if knob else "") for knob, objective in made.items()]
    pieces = [
        f"# `{name}`",
        f"**{facts.title}**: {facts.meaning}",
        "## Formula",
        "```\n" + "\n".join(facts.formula) + "\n```",
        f"Source: {facts.sections['Source']}",
        "## When to use",
        text_of["When"],
        "## Data",
        *(prose(text) for text in of_data),
        prose(f"Reference: {reference_text(made[''])}"),
        "## Knobs",
        table(("knob", "value"), *rows) if rows else "None.",
        prose(f"Units: {facts.sections['Units']}"),
        *([] if is_online else [prose(f"Range that `tiltlm compare-methods` tries: {sweep_range(name).text}.")]),
        f"```\n{command}\n```",
        "## What is logged",
        prose(f"The loss is {step_text(made[''])}"),
        table(("metric", "what it is"), *((f"`{metric}`", METRICS[metric]) for metric in metric_names(made[""]))),
        "## Differences from the paper and other libraries",
        text_of["Differs"],
        *([prose(f"Accepted as {', '.join(f'`{other}`' for other in peer_names(name))}.")] if peer_names(name) else []),
        "## What to watch",
        text_of["Fails"],
        "## Parts",
        "```python\n" + "\n".join(built) + "\n```",
        f"[All objectives](../objectives.md). {NOTE}",
    ]
    return "\n\n".join(pieces) + "\n"


def methods_table() -> str:
    """Return the table of reward, link and data shape, with a line for every method and variant."""
    rows = [("objective", "reward", "link", "beside them", "data", "reference", "knobs")]
    for name in CATALOG:
        given = ", ".join(f"`{k.name}` {k.shown}" for k in knobs(name)) or "–"
        for knob, objective in variants(name).items():
            made = parts_of_objective(objective)
            links = [_name(part) for role, part in made if role in ("link", "loss")]
            others = [_name(part) for role, part in made if role not in ("reward", "link", "loss")]
            rows.append(
                (
                    f"[`{name}`](methods/{name}.md)" + (f" with `{knob}`" if knob else ""),
                    _name(objective.reward),
                    ", ".join(links) or "–",
                    ", ".join(f"{others.count(o)} × {o}" if others.count(o) > 1 else o for o in dict.fromkeys(others))
                    or "–",
                    objective.shape,
                    "yes" if objective.needs_reference else "no",
                    given if not knob else "the same",
                )
            )
    return table(*rows)


def families_list() -> str:
    """Return the list of methods with their meaning, by family."""
    pieces = []
    for family, names in families().items():
        lines = [f"- [`{name}`](methods/{name}.md): {parse_docstring(name).meaning}" for name in names]
        pieces.append("\n".join([f"**{family}**", "", *lines]))
    return "\n\n".join(pieces)


def parts_tables() -> str:
    """Return tables of all rewards, links and other parts with the first sentence of their docstrings."""
    groups = {
        "Rewards": [part for part in vars(tiltlm.rewards).values() if is_dataclass(part)],
        "Links": [part for part in vars(tiltlm.links).values() if is_dataclass(part)],
    }
    for heading, kind in EXTENSIBLE.items():
        groups[heading] = [
            part
            for part in vars(inspect.getmodule(kind)).values()
            if is_dataclass(part) and issubclass(part, kind) and not part.__name__.startswith("_")
        ]
    pieces = []
    for heading, kinds in groups.items():
        rows = [(f"`{kind.__name__}`", summary_of(kind)) for kind in kinds]
        pieces.append(f"**{heading}**\n\n" + table(("part", "what it is"), *rows))
    return "\n\n".join(pieces)


def metrics_table() -> str:
    """Return the table of all metrics, with the methods that log them."""
    logged = {name: set(metric_names(variants(name)[""])) for name in CATALOG}
    online = {name for name in CATALOG if variants(name)[""].shape == "rollouts"}

    def listed(names: list[str]) -> str:
        """Return the names in code; all policy gradients together are one entry."""
        all_online = online <= set(names)
        own = [f"`{name}`" for name in names if not (all_online and name in online)]
        return ", ".join([*own, *(["policy gradients"] if all_online else [])])

    rows = [("metric", "what it is", "logged by")]
    for metric, text in METRICS.items():
        those = [name for name in CATALOG if metric in logged[name]]
        others = [name for name in CATALOG if metric not in logged[name]]
        few = those if len(those) < len(others) else others
        of = "all" if not others else listed(few) if few is those else f"all but {listed(few)}"
        rows.append((f"`{metric}`", text, of))
    rows += [(f"`{metric}`", text, "all") for metric, text in COMMON.items()]
    return table(*rows)


def names_table(library: str) -> str:
    """Return the table of a library's names and the methods they stand for."""
    rows = [("name", "in tiltlm", "note")]
    for peer_name, peer in PEERS[library].items():
        implied = ", ".join(f"`{key}` {value:g}" for key, value in peer.knobs.items())
        own_name = f"[`{peer.name}`](methods/{peer.name}.md)" + (f", {implied}" if implied else "")
        rows.append((f"`{library}:{peer_name}`", own_name, peer.note))
    return table(*rows)


def settings_table() -> str:
    """Return the table of TRL's settings and their counterparts."""
    return table(("TRL", "here", "note"), *((row.there, row.here, row.note) for row in TRL))


def beta_table() -> str:
    """Return the table that scripts/compare_beta.py prints."""
    return str(runpy.run_path(str(ROOT / "scripts" / "compare_beta.py"))["table"]())


BLOCKS: dict[str, dict[str, Callable[[], str]]] = {
    "objectives.md": {
        "families": families_list,
        "table": methods_table,
        "parts": parts_tables,
        "metrics": metrics_table,
    },
    "comparing-beta.md": {"margins": beta_table},
    "coming-from-trl.md": {"settings": settings_table} | {library: partial(names_table, library) for library in PEERS},
}
"""The functions that make the marked blocks of each page."""


def filled(name: str) -> str:
    """Return the text of docs/`name` with new marked blocks."""
    text = (DOCS / name).read_text()
    for block, make in BLOCKS[name].items():
        begin, end = f"<!-- made by scripts/make_method_pages.py: {block} -->\n", "<!-- end -->"
        before, found, rest = text.partition(begin)
        assert found, f"docs/{name} has no block {block}"
        _, found, after = rest.partition(end)
        assert found, f"docs/{name}: the block {block} has no end"
        text = before + begin + make() + "\n" + end + after
    return text


def pages() -> dict[Path, str]:
    """Return the text of every generated page, by path."""
    methods = {DOCS / "methods" / f"{name}.md": page(name) for name in CATALOG}
    return methods | {DOCS / name: filled(name) for name in BLOCKS}


def _name(part: object) -> str:
    """Return the class of a part and of the link in it, as `Anchor(Logistic)`."""
    link = getattr(part, "link", None)
    return f"`{type(part).__name__}" + (f"({type(link).__name__})" if link is not None else "") + "`"


def main() -> None:
    """Write all pages, and remove the pages of methods that no longer exist."""
    written = pages()
    for path in (DOCS / "methods").glob("*.md"):
        if path not in written:
            path.unlink()
    for path, text in written.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    print(f"{len(written)} pages")


if __name__ == "__main__":
    main()
