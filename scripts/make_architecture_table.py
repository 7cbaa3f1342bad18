"""Examine every causal language model of the installed transformers, and write docs/architectures.md.

    python scripts/make_architecture_table.py            a minute or two: examine all, record, write the page
    python scripts/make_architecture_table.py --page     write the page from what is recorded

What was found is in tests/architectures/recorded.jsonl: the versions, then a line an architecture. A test examines
again and compares; run this where a new transformers, or a better layout, changes what is found.
"""

import collections
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architectures.md"
WALK = ROOT / "tests" / "architectures"
RECORDED = WALK / "recorded.jsonl"

ROUTES = {
    "shared": "each prompt is computed once, however many responses it has",
    "packed": "no padding, but every response computes its prompt anew",
    "padded": "a right-padded batch, every response with its prompt, and the model's own attention",
    "refused": "no layout gives what separate forwards give; `tiltlm` stops with the reason",
    "unbuildable": "transformers does not build it from a configuration of its own defaults here",
    "skipped": "too large to be examined",
    "wrong": "accepted, and not what separate forwards give: a defect",
}
"""In the order of the page."""

TEXT = """\
# Architectures

Which of the {count} causal language models of transformers {transformers} has which layout, examined one by one
(torch {torch}, on a CPU). A layout is taken only where log-probabilities and gradients equal those of separate,
unpadded forwards; every model is checked again when it is loaded, with its own weights, and the layout and the reason
are printed. `model.layout` forces one; a wrong one is refused.

{counts}

**What it costs.** `shared` pays for distinct tokens: for pairs, a prompt once instead of twice; for eight responses,
once instead of eight times. `packed` pays for every prompt again, `padded` for the padding too, so that rows of like
length matter. The numbers are the same in all three.

**Heads.** `fused` computes log-probabilities in chunks of the head's own matrix, so that memory does not grow with
vocabulary × tokens. `model` takes the model's own logits at the rows that are scored: its head does more than a matrix,
a scale and a soft cap.

**How they are examined.** A tiny model of each class with large random weights, in float64 where it can run in it, in
a process of its own. The layout is chosen where windows and chunks are as long as the class says, and must hold where
they are a handful of tokens: on other examples than those it was chosen by, in values and in the gradient of every
parameter. Masked language models are built as decoders (`is_decoder`), as their causal classes mean them. Largest
deviation found of what is taken: {value:.0e} nats, and {gradient:.0e} of a parameter's largest gradient.

**Reading the reasons.** *n of m layers use the attention hook*: the others have attention of their own, or none:
recurrences and convolutions run from one response into the next. An error of the model's own code means that it builds
something, a mask or a selection of keys, that a packed row has not. A selection of keys or of experts by score jumps
where two score alike; rounding decides there, in this as in any other program.

{table}

Made by `python scripts/make_architecture_table.py`.
"""


def recorded() -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Versions, and a record for every architecture."""
    versions, *records = map(json.loads, RECORDED.read_text().splitlines())
    return versions, records


def examine_all() -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The same, found out now; progress goes to stderr."""
    import torch
    import transformers
    from walk import all_model_types, walk

    model_types = all_model_types()
    found = {}
    for record in walk(model_types):
        found[record["model_type"]] = record
        print(f"{len(found)}/{len(model_types)} {record['model_type']}: {record['route']}", file=sys.stderr)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
    return versions, [found[model_type] for model_type in sorted(model_types)]


def page(versions: dict[str, str], records: list[dict[str, Any]]) -> str:
    """docs/architectures.md."""
    routes = collections.Counter(record["route"] for record in records)
    counts = [("route", "models", "what it means"), *((r, str(routes[r]), t) for r, t in ROUTES.items() if routes[r])]
    rows = [("model type", "class", "route", "head", "why not shared")]
    for record in records:
        rows.append(
            (
                f"`{record['model_type']}`",
                f"`{record['name']}`" if record.get("name") else "–",
                record["route"],
                record.get("head") or "–",
                why(record),
            )
        )
    return TEXT.format(
        count=len(records),
        counts=table(counts),
        table=table(rows),
        value=max(record.get("value_error") or 0 for record in records),
        gradient=max(record.get("gradient_error") or 0 for record in records),
        **versions,
    )


def why(record: dict[str, Any]) -> str:
    """One line: why the fastest layout was refused, or what stopped it all."""
    reason = record["reason"] or record.get("refused", {}).get("shared", "")
    reason = reason.removeprefix("ModelError: ").removesuffix("; use layout=padded")
    return reason.partition(" while packed attention")[0]


def table(rows: list[tuple[str, ...]]) -> str:
    """Markdown; the first row is the head."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def main() -> None:
    if sys.argv[1:] != ["--page"]:
        sys.path.insert(0, str(WALK))
        versions, records = examine_all()
        RECORDED.write_text("".join(json.dumps(line) + "\n" for line in (versions, *records)))
    PAGE.write_text(page(*recorded()))
    print(f"{PAGE.relative_to(ROOT)}, {RECORDED.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
