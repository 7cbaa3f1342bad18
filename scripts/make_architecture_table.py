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
    "packed": "no padding, but the prompt is computed again for every response",
    "padded": "a right-padded batch; every response has its prompt; the model's own attention",
    "refused": "no layout equals separate forwards; `tiltlm` stops and gives the reason",
    "unbuildable": "transformers cannot build it from its default configuration here",
    "skipped": "too large to be examined",
    "wrong": "accepted, but not equal to separate forwards: a defect",
}
"""In the order of the page."""

TEXT = """\
# Architectures

This page lists the layout of each of the {count} causal language models of transformers {transformers}. Every model was
examined (torch {torch}, on a CPU). A layout is used only if log-probabilities and gradients equal those of separate,
unpadded forwards. Every model is checked again when it is loaded, with its own weights, and the layout and the reason
are logged. The tolerance is eight times the effect of rounding, which is measured on the model: it grows with depth and
with the scale of the weights. `model.layout` forces a layout. If its values or gradients then deviate by up to a tenth
of the largest, the run goes on with a warning that says by how much, and reference log-probabilities are kept apart. A
layout is refused if it deviates by more, if sequences see each other in it, or if the model's attention does not take
part in it. Models run in evaluation mode, in training too, so no dropout and no routing noise acts.

{counts}

**Costs.** `shared` computes distinct tokens: for pairs, a prompt once instead of twice; for eight responses, once
instead of eight times. `packed` computes the prompt again for every response. `padded` computes the padding too, so
rows of similar length are cheaper. The numbers are the same in all three.

**Heads.** `fused` computes log-probabilities from the head's matrix in chunks, so memory does not grow with vocabulary
× tokens. `model` uses the model's own logits at the scored positions, because its head is more than a matrix, a scale
and a soft cap.

**How the models are examined.** A tiny model of each class has large random weights and runs in its own process, in
float64 if it can. The layout is chosen with windows and chunks of the lengths that the class declares. It is then
verified with windows and chunks of a few tokens, on other examples, in values and in the gradient of every parameter.
Masked language models are built as decoders (`is_decoder`), as their causal classes require. A model type has a second
row where released models have other kinds of layers than the class's defaults. The largest deviation of a
layout that is used is {value:.0e} nats, and {gradient:.0e} of a parameter's largest gradient.

**The reasons.** *n of m layers use the attention hook*: the other layers have their own attention, or none; recurrences
and convolutions carry state from one response into the next. An error of the model's own code means that it builds
something, such as a mask or a selection of keys, that does not fit a packed row. A selection of keys or of experts by
score can change when two scores are equal; rounding decides there, as in any other program.

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
    counts = [("route", "models", "meaning"), *((r, str(routes[r]), t) for r, t in ROUTES.items() if routes[r])]
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
        count=sum("," not in record["model_type"] for record in records),
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
