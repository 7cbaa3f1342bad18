"""Tables and pictures of `steps.py`, from its records: what the docs show.

python benchmarks/steps_page.py          reads results/steps.jsonl, writes docs/speed.md and its figures
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
from flops import step_flops
from steps import ALL, RESULTS, Record, Summary, read, summaries, unequal
from workload import GROUP, SHAPES, TRIPLES, WORKLOADS, shape_of

from tiltlm.core import Response, Tree, token_ids

DOCS = Path(__file__).resolve().parent.parent / "docs"
COLOURS = dict(zip(ALL, ("#1b6ca8", "#7fb2d9", "#9a9a9a", "#c0392b", "#e59866"), strict=True))
WHERE = {"cached": "cached", "loop": "in the loop"}
Results = dict[tuple[str, str], dict[str, Summary]]

HEAD = """# Speed

What a whole optimiser step of DPO costs (forward, loss, backward, clipping, AdamW, metrics), beside what others do with
the same tokens. Made by `python benchmarks/steps_page.py` from the records of

```
python -m venv ../trl-env && ../trl-env/bin/pip install -r benchmarks/requirements-trl.txt
python benchmarks/steps.py --trl-python ../trl-env/bin/python --repeats {repeats}
```

{conditions}

- **tiltlm**: `train_loop` as `tiltlm train` runs it; each prompt once in a packed row, the head on response tokens
  only. **tiltlm packed**: the same with `model.layout=packed`, every response with its own copy of the prompt. **tiltlm
  checkpointed**: with `model.gradient_checkpointing`, which is TRL's default.
- **TRL default**: TRL 1.16's `DPOTrainer` as it comes, which checkpoints gradients. **TRL best**: without
  checkpointing, the pairs of a step sorted by length and cut into micro-batches of the size that a pilot finds fastest,
  so that little is padded. **TRL whole batch** (`benchmarks/README.md`): all pairs in one
  batch, without checkpointing.
- **plain loop**: one right-padded batch, float32 logits of every position, log-softmax, sum, as tutorials have it.
- *Reference cached*: filled before the first step (ours in its store, TRL by `precompute_ref_log_probs`). *In the
  loop*: a frozen copy runs at every step.

Every measurement is a process of its own, systems take turns, the first step of each is left out. Where some systems of
a table have more processes than others, these took turns among themselves. A process counts with its mean step, a
system with the median over its processes; ranges are over single steps. *Time* is how many times as long as ours a
process takes in the same repeat, the median over repeats: this machine's speed drifts by more than some systems differ.
Memory is the peak of the resident set, imports and preparation included. Before anything is shown, all systems must
have had the same tokens at every step, a first loss of log 2, the same first gradient norm and the same loss after the
first update (10⁻⁴).

*Of peak* is the necessary work (each distinct token once, the vocabulary for scored tokens only, nothing twice) per
second, over what a float32 product of 2048 × 2048 matrices reaches in the same process.
"""

ANSWERS = """## What refuses the missed targets here

- **TRL default at V16k, 8 ×.** Matrix products are 74 % of the time of our operators in such a step, at nearly the
  peak; attention is 11 %, everything else 15 % (`python benchmarks/operators.py`). With the products as they are, the
  rest would have to take a third less. On the first 8×8 pairs, whose steps are larger, TRL takes 7.8 times as long
  cached and 8.0 in the loop, and 8.3 to 8.4 without checkpointing (three processes each, `benchmarks/README.md`).
  Tried and left: `model.compile` (1 to 4 % by operators' time, nothing between processes); a float in place of a
  boolean mask (nothing); attention written out for trees of 100 to 280 tokens (0.76 to 0.92 of its time, 2 % of a
  step); no masks, but prompt and response apart and joined by their normalisers, in tiles of 128 (0.84 to 0.95 of its
  time from 280 tokens on, 1.06 where responses are longer than their prompt: 1 to 5 % of a step).
- **TRL best, 6 ×.** It pads nothing; it repeats each prompt and scores prompts too, 2.2 times our operations at V16k
  by count. Six times as long would be 27 % of the peak, and it runs at about half of it.
- **Memory, ¼.** A process that has imported torch, transformers and PEFT holds 0.43 GB, and weights, gradients and
  AdamW take 16 bytes a parameter, 0.42 GB at V16k and 0.83 GB at V49k: 0.85 and 1.26 GB before the first token, where
  a quarter of TRL's is {quarter16} and {quarter49} GB. TRL's default keeps nothing of a layer but its input; with
  `model.gradient_checkpointing` we do that too (*tiltlm checkpointed*).
- **Sharing against packing.** Two processes on this machine differ by more than what is missing. By operators' time in
  one process sharing is 1.94 times as fast as packing at *tldr*, all of the limit (1.592 and 3.088 s a step:
  `python benchmarks/operators.py --name micro-tldr --layouts shared packed`). Where responses are long, attention
  grows with them, is shared only as far as the prompt goes, and computes most of the masked half.
"""


def main() -> int:
    """Write the page; 1 where the records do not belong together."""
    records = [r for r in read(RESULTS) if r["precision"] == "float32"]
    if found := unequal(records):
        print(*found, sep="\n")
        return 1
    results = summaries(records)
    lines = [HEAD.format(repeats=max(s.processes for own in results.values() for s in own.values()),
                         conditions=conditions(records))]  # fmt: skip
    lines += [
        "## Targets",
        "",
        *targets(results),
        "",
        *answers(results),
        "![Times of TRL and of a plain loop](figures/speed.svg)",
        "",
    ]
    for (workload, reference), own in results.items():
        lines += section(workload, reference, own)
    if growth(results):
        lines += ["## Growth", "", "![Growth with vocabulary, pairs and length](figures/speed-growth.svg)", ""]
    (DOCS / "figures").mkdir(exist_ok=True)
    bars(results)
    (DOCS / "speed.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return 0


def conditions(records: Sequence[Record]) -> str:
    """Where and with what."""
    versions = {name: number for r in records for name, number in r["versions"].items()}
    loads = [r["load_average_before"] for r in records]
    peaks = [r["matrix_peak"] / 1e9 for r in records]
    return (
        f"{records[0]['processor']}, {records[0]['threads']} threads, float32; matrix products reach "
        f"{statistics.median(peaks):.0f} GFLOP/s ({min(peaks):.0f} to {max(peaks):.0f} over the processes). "
        f"{', '.join(f'{name} {number}' for name, number in sorted(versions.items()))}. Load average before a process: "
        f"median {statistics.median(loads):.1f}, at most {max(loads):.1f}."
    )


def section(workload: str, reference: str, own: dict[str, Summary]) -> list[str]:
    """The table of one workload."""
    base = own.get("tiltlm") or next(iter(own.values()))
    lines = [
        f"### {workload}, reference {WHERE[reference]}", "", described(workload), "",
        "| | s/step | range | peak memory | time | memory | of peak | processes |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for system, s in own.items():
        share = f"{s.peak_share:.0%}" if s.peak_share is not None else ""
        lines.append(
            f"| {system} | {s.seconds:.2f} | {s.fastest:.2f}–{s.slowest:.2f} | {s.megabytes / 1e3:.2f} GB | "
            f"{s.times(base):.2f} | {s.megabytes / base.megabytes:.2f} | {share} | {s.processes} |"
        )
    return [*lines, ""]


def described(name: str) -> str:
    """A workload in a line."""
    workload = WORKLOADS[name]
    shape = SHAPES[workload.shape]
    model = (
        f"{workload.shape}: width {shape['hidden_size']}, {shape['num_hidden_layers']} layers, vocabulary "
        f"{workload.vocabulary:,}"
    )
    if workload.profile == "hh":
        data = "real pairs of HH-RLHF (harmless)"
    elif workload.profile in TRIPLES:
        data = "prompts of {}, responses of {} and {} tokens, no side has to pad".format(*TRIPLES[workload.profile])
    else:
        data = f"prompts of {GROUP[0]} tokens, {GROUP[2]} responses of {GROUP[1]}, all 6 comparisons"
        data += ", each a row of its own" if workload.profile == "group4_apart" else " in one row"
    return f"{model}; {data}; {workload.batch_size} {'row' if workload.batch_size == 1 else 'rows'} a step."


def ratio(
    results: Results, workload: str, system: str, reference: str = "cached", base: str = "tiltlm"
) -> float | None:
    """How many times as long another system takes."""
    own = results.get((workload, reference), {})
    return own[system].times(own[base]) if {system, base} <= own.keys() else None


def targets(results: Results) -> list[str]:
    """What was asked for, and what is measured."""
    rows: list[tuple[str, float, float | None]] = [
        ("micro V16k, HH, cached: TRL default's time", 8, ratio(results, "micro-hh", "TRL default")),
        ("micro V16k, HH, in the loop: TRL default's time", 8, ratio(results, "micro-hh", "TRL default", "loop")),
        ("micro V49k, HH, cached: TRL default's time", 10, ratio(results, "micro49-hh", "TRL default")),
        ("micro V16k, HH, cached: TRL best's time", 6, ratio(results, "micro-hh", "TRL best")),
        ("nano, HH, cached: TRL default's time", 8, ratio(results, "nano-hh", "TRL default")),
        ("nano, HH, in the loop: TRL default's time", 12, ratio(results, "nano-hh", "TRL default", "loop")),
        ("4 responses, 6 comparisons: packing without sharing", 4, group_ratio(results)),
        ("micro V16k, HH, cached: TRL default's memory", 4, memory(results, "micro-hh", "TRL default")),
        ("micro V49k, HH, cached: TRL default's memory", 4, memory(results, "micro49-hh", "TRL default")),
        (
            "the same with checkpoints on both sides, V16k",
            4,
            memory(results, "micro-hh", "TRL default", "tiltlm checkpointed"),
        ),
        (
            "the same with checkpoints on both sides, V49k",
            4,
            memory(results, "micro49-hh", "TRL default", "tiltlm checkpointed"),
        ),
    ]
    lines = ["| | target | measured | |", "|---|---|---|---|"]
    for name, wanted, found in rows:
        if found is not None:
            lines.append(f"| {name} | ≥ {wanted:g} × | {found:.1f} × | {'met' if found >= wanted else 'missed'} |")
    for workload in ("micro-hh", "micro49-hh", "135M-hh"):
        own = results.get((workload, "cached"), {})
        if "tiltlm" in own and (share := own["tiltlm"].peak_share) is not None:
            name = f"{workload}: necessary work over the matrix-product peak"
            lines.append(f"| {name} | ≥ 65 % | {share:.0%} | {'met' if share >= 0.65 else 'missed'} |")
    for profile, triple in TRIPLES.items():
        name = next((n for n, w in WORKLOADS.items() if w.profile == profile), "")
        if (found := ratio(results, name, "tiltlm packed")) is not None:
            limit = sharing_limit(name, triple)
            met = "met" if found >= 0.95 * limit else "missed"
            measured = f"{found:.2f} × ({found / limit:.0%})"
            lines.append(f"| {name}: sharing against packing alone | ≥ 95 % of {limit:.2f} × | {measured} | {met} |")
    return lines


def answers(results: Results) -> list[str]:
    """Why what is missed is missed; once both vocabularies are measured."""
    peers = [results.get((name, "cached"), {}).get("TRL default") for name in ("micro-hh", "micro49-hh")]
    if None in peers:
        return []
    quarters = [f"{peer.megabytes / 4e3:.2f}" for peer in peers if peer is not None]
    return [ANSWERS.format(quarter16=quarters[0], quarter49=quarters[1])]


def memory(results: Results, workload: str, system: str, base: str = "tiltlm") -> float | None:
    """How many times as much memory another system takes."""
    own = results.get((workload, "cached"), {})
    return own[system].megabytes / own[base].megabytes if {system, base} <= own.keys() else None


def group_ratio(results: Results) -> float | None:
    """Six comparisons as rows that share nothing, packed, against one row of four responses."""
    apart, together = results.get(("micro-group4-apart", "cached")), results.get(("micro-group4", "cached"))
    if not apart or not together:
        return None
    return apart["tiltlm packed"].times(together["tiltlm"])


def sharing_limit(name: str, triple: tuple[int, int, int]) -> float:
    """The work of packing over that of sharing, in floating-point operations."""
    shape = shape_of(WORKLOADS[name])
    prompt, *responses = (token_ids([0] * n) for n in triple)
    apart = [Tree(prompt, (Response(r),)) for r in responses]
    together = [Tree(prompt, tuple(map(Response, responses)))]
    return step_flops(apart, shape, False, whole_last_layer=True) / step_flops(together, shape, False)


def bars(results: Results) -> None:
    """How many times as long the others take, workload by workload."""
    shown = [(key, own) for key, own in results.items() if "tiltlm" in own and len(own) > 1]
    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.55 * len(shown)))
    others = [system for system in ALL[1:] if any(system in own for _, own in shown)]
    for place, (_, own) in enumerate(shown):
        for offset, system in enumerate(others):
            if system in own:
                value = own[system].times(own["tiltlm"])
                height = 0.8 / len(others)
                at = place + (offset - (len(others) - 1) / 2) * height
                axes.barh(at, value, height, color=COLOURS[system], label=system if place == 0 else None)
                axes.text(value + 0.1, at, f"{value:.1f}", va="center", fontsize=6)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [f"{w}, {WHERE[r]}" for (w, r), _ in shown])
    axes.tick_params(labelsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("time of a step, in tiltlm's")
    axes.legend(fontsize=7, loc="lower right")
    save(figure, "speed")


def growth(results: Results) -> bool:
    """Time and memory by vocabulary, pairs and tokens a step, ours and TRL's; whether there is anything to draw."""
    by_vocabulary = {
        WORKLOADS[w].vocabulary: results.get((w, "cached")) for w in ("micro-hh", "micro33-hh", "micro49-hh")
    }
    by_pairs = {WORKLOADS[w].batch_size: results.get((w, "cached")) for w in ("micro-hh4", "micro-hh", "micro-hh16")}
    if not all([*by_vocabulary.values(), *by_pairs.values()]):
        return False
    by_length = {
        workload.batch_size * sum(TRIPLES[workload.profile]): results.get((name, "cached"))
        for name, workload in WORKLOADS.items()
        if workload.shape == "micro" and workload.profile in TRIPLES
    }
    figure, panels = plt.subplots(2, 3, figsize=(10, 5.5), sharex="col")
    groups = {"vocabulary": by_vocabulary, "pairs a step": by_pairs, "distinct tokens a step": by_length}
    for column, (title, group) in enumerate(groups.items()):
        for row, (unit, value) in enumerate((("s/step", lambda s: s.seconds), ("GB", lambda s: s.megabytes / 1e3))):
            axes = panels[row][column]
            for system in ("tiltlm", "TRL default"):
                points = [(x, value(own[system])) for x, own in sorted(group.items()) if own and system in own]
                axes.plot(*zip(*points, strict=True), marker="o", color=COLOURS[system], label=system)
            axes.set_ylim(bottom=0)
            axes.set_ylabel(unit)
            if row == 1:
                axes.set_xlabel(title)
    panels[0][0].legend(fontsize=8)
    save(figure, "speed-growth")
    return True


def save(figure: plt.Figure, name: str) -> None:
    """An SVG that is the same from the same records."""
    figure.tight_layout()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(DOCS / "figures" / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
