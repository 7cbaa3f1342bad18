"""Pictures and tables of `catalogue.py`, from its results: what the docs show.

python benchmarks/catalogue_page.py          reads benchmarks/results, writes docs/in-a-known-world.md and its figures
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

from tiltlm.objectives import CATALOG

HERE = Path(__file__).resolve().parent
RESULTS, DOCS = HERE / "results", HERE.parent / "docs"
DOUBTFUL = 50
"""Below so many effective samples the frontier at that KL is not known well enough to say a share."""
PER_PANEL = 6

Record = dict[str, Any]


def read(study: str) -> list[Record]:
    """The runs of a study; none where it has not been run."""
    path = RESULTS / f"{study}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def draw_frontier(axes: Any) -> None:
    """What was possible: the tilt of the reference, and best-of-n."""
    frontier = json.loads((RESULTS / "frontier.json").read_text())
    tilt, best = frontier["tilt"], frontier["best_of_n"]
    axes.plot(tilt["kl"], tilt["reward"], color="black", linewidth=1.2, label="frontier")
    axes.plot(best["kl"], best["reward"], color="grey", linewidth=1, linestyle=":", marker=".", label="best of n")
    axes.set_xlabel("KL to the reference, nats per response")
    axes.set_ylabel("gold reward")
    axes.set_xlim(0, 3)
    axes.set_ylim(1.5, 4)


def catalogue_figure(records: Sequence[Record]) -> None:
    """Each method's line over its main knob, six to a panel, in the order of the catalogue."""
    names = [n for n in CATALOG if any(r["run"]["method"] == n for r in records)]
    groups = [names[i : i + PER_PANEL] for i in range(0, len(names), PER_PANEL)]
    columns = 2
    rows = -(-len(groups) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(10, 3.6 * rows), sharex=True, sharey=True, squeeze=False)
    for axes, group in zip(panels.flat, groups, strict=False):
        draw_frontier(axes)
        for name in group:
            own = sorted((r for r in records if r["run"]["method"] == name), key=lambda r: r["kl"]["estimate"])
            axes.plot(
                [r["kl"]["estimate"] for r in own], [r["reward"]["estimate"] for r in own], marker="o", markersize=3,
                linewidth=1, label=name,
            )  # fmt: skip
        axes.legend(fontsize=7, loc="lower right")
    for axes in list(panels.flat)[len(groups) :]:
        axes.set_visible(False)
    save(figure, "catalogue")


def knob_of(record: Record) -> str:
    """The knobs that were set, as text."""
    knobs = record["run"]["knobs"]
    return ", ".join(f"{k} {v}" if isinstance(v, str) else f"{k} {v:g}" for k, v in knobs.items()) or "–"


def share(record: Record) -> str:
    """The share of the attainable gain with its interval; a dash where the frontier is not known there."""
    own = record["share"]
    if record["effective_samples"] < DOUBTFUL:
        return "–"
    return f"{own['estimate']:.0%} ({own['low']:.0%} to {own['high']:.0%})"


def table(records: Sequence[Record]) -> list[str]:
    """One line a run, by method and KL."""
    lines = [
        "| method | knobs | KL, nats | gold reward | share of the attainable gain | win rate | mean length |",
        "|---|---|---|---|---|---|---|",
    ]
    order = {name: i for i, name in enumerate(CATALOG)}
    for r in sorted(records, key=lambda r: (order[r["run"]["method"]], r["kl"]["estimate"])):
        lines.append(
            f"| `{r['run']['method']}` | {knob_of(r)} | {r['kl']['estimate']:.2f} | {r['reward']['estimate']:.2f} | "
            f"{share(r)} | {r['win_rate']['estimate']:.0%} | {r['length']:.1f} |"
        )
    return lines


def beta_figure(records: Sequence[Record]) -> None:
    """The β dial: KL and reward over β, and the path along the frontier."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6))
    betas = [r["run"]["knobs"]["beta"] for r in records]
    kls, rewards = ([r[m]["estimate"] for r in records] for m in ("kl", "reward"))
    left.loglog(betas, kls, "o", markersize=4)
    left.set_ylabel("KL to the reference, nats per response")
    middle.semilogx(betas, rewards, "o", markersize=4)
    middle.set_ylabel("gold reward")
    for axes in (left, middle):
        axes.set_xlabel("β")
    draw_frontier(right)
    right.set_xlim(0, 2)
    right.plot(kls, rewards, "o", markersize=4, label="DPO, by β")
    for r in records:
        if r["run"]["seed"] == 0 and r["kl"]["estimate"] < right.get_xlim()[1]:
            place = r["kl"]["estimate"], r["reward"]["estimate"]
            text = f"{r['run']['knobs']['beta']:g}"
            right.annotate(text, place, fontsize=7, xytext=(2, -10), textcoords="offset points")
    right.legend(fontsize=8, loc="lower right")
    save(figure, "beta")


def comparisons_figure(records: Sequence[Record]) -> None:
    """Share of the attainable gain over the number of comparisons; hollow where the frontier is hardly known."""
    figure, axes = plt.subplots(figsize=(6, 3.8))
    for r in records:
        own = r["share"]
        error = [[max(0.0, own["estimate"] - own["low"])], [max(0.0, own["high"] - own["estimate"])]]
        face = "white" if r["effective_samples"] < DOUBTFUL else "tab:blue"
        axes.errorbar(
            r["run"]["num_prompts"], own["estimate"], yerr=error, fmt="o", markersize=4, color="tab:blue", mfc=face
        )
    axes.set_xscale("log", base=2)
    axes.set_xlabel("comparisons (one a prompt)")
    axes.set_ylabel("share of the attainable gain")
    axes.axhline(1, color="grey", linewidth=0.8)
    save(figure, "comparisons")


def save(figure: Any, name: str) -> None:
    """As SVG, without a date: the same results give the same file."""
    (DOCS / "figures").mkdir(exist_ok=True)
    figure.tight_layout()
    figure.savefig(DOCS / "figures" / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def by(records: Sequence[Record], key: str) -> list[str]:
    """A short table over one varied thing, mean over seeds."""
    lines = [f"| {key} | runs | KL, nats | gold reward | share of the attainable gain |", "|---|---|---|---|---|"]
    values = sorted({value(r, key) for r in records})
    for v in values:
        own = [r for r in records if value(r, key) == v]
        kl, reward, part = (statistics.mean(r[m]["estimate"] for r in own) for m in ("kl", "reward", "share"))
        known = all(r["effective_samples"] >= DOUBTFUL for r in own)
        lines.append(f"| {v:g} | {len(own)} | {kl:.2f} | {reward:.2f} | {part:.0%} |" if known else
                     f"| {v:g} | {len(own)} | {kl:.2f} | {reward:.2f} | – |")  # fmt: skip
    return lines


def value(record: Record, key: str) -> float:
    """What is varied."""
    return float(record["run"]["num_prompts"] if key == "comparisons" else record["run"]["knobs"][key])


HEAD = """# In a world whose reward is known

The quickstart's text world has a gold reward of five levels, so the best reward at a given KL is known: it is the
frontier, which the tilted reference reaches. Best-of-n is shown for comparison. Here every method is trained in this
world under the same conditions: 128 prompts, 8 responses of the reference to each, labels drawn from the gold reward
(Bradley–Terry comparisons, Plackett–Luce rankings, thumbs with probability σ(reward − mean), or the rewards themselves
as scores), 48 steps of 16 prompts, learning rate 5e-4, one seed. Reward and KL are measured on 64 samples for each of
48 held-out prompts. The share is the gain over the reference, divided by the gain of the frontier at the same KL. A
dash means that the reference has too few samples to estimate the frontier at that KL.

The table does not rank methods. It has one small model, one reward and one learning rate, and a method that needs fewer
or more steps is not at its best here. It shows the effect of each knob, and effects of the methods that other pages
describe.
"""

READING = """
## What it shows

- Most methods stay near the frontier, at about 95 % of the attainable gain for a KL of one nat, whatever their link.
  Their knobs move them along it: β of `dpo`, τ of `ipo`, η of `rebel` and the weight of `orpo` have the same effect.
- If β is too small, the policy overfits the labels of 128 prompts: KL grows to many nats and the reward falls (`dpo` at
  0.03, 29 nats). Where this begins depends on the samples that happened to be labelled. With other samples of the same
  world, five methods had a KL of 4 to 9 nats at 0.1 (`robust_dpo`, `wpo`, `aot`, `info_nca`, `exo`); with these, they
  have 1.5 to 2.1. One seed does not show where a method breaks.
- Without a reference, the optimum may be far from it: the targets of `cpo` with β 3 and `slic` with δ 0.3 are nearly
  equal likelihoods, and both end below the reference's reward.
- `apo_down` lowers the likelihood of both responses, for a model that is already better than its data. This model is
  not, and the method destroys it.
- In `tdpo1`, divergence at the chosen response increases the margin, so KL grows without the reward. `tdpo2` stops the
  gradient of that term and stays on the frontier.
- `discopop` at its published τ has a slope of the wrong sign at a margin of 0: at β 0.1 and 0.3 it ends below the
  reference, at 1 and 3 near the frontier.
- `dpop` with λ 5 hardly changes the policy at any β.
- Thumbs (`kto`, `bco`, `aot_unpaired`) reach 67 to 89 % from the same responses, comparisons 90 to 97 % at the same KL.
- `sft` on the winners of comparisons reaches 29 % (13 % to 48 %) of the attainable gain, at a KL of 0.03 nats.
"""

SECTIONS = {
    "catalogue": (
        "## Every method\n\n`python benchmarks/catalogue.py catalogue`",
        "Reward against KL, one line per method over its main knob",
    ),
    "beta": ("## The β of DPO\n\n`python benchmarks/catalogue.py beta`", "β against KL and reward"),
    "comparisons": (
        "## How many comparisons are needed\n\n`python benchmarks/catalogue.py comparisons`: DPO at β 0.3, one "
        "comparison per prompt, always 48 steps of 16, so at most 768 are used. Two seeds.",
        "Share of the attainable gain against the number of comparisons",
    ),
}


def main() -> None:
    """Figures and page of whatever has been run."""
    mpl.rcParams["svg.hashsalt"] = "tiltlm"  # the same results give the same file
    lines = [HEAD]
    figures = {"catalogue": catalogue_figure, "beta": beta_figure, "comparisons": comparisons_figure}
    for study, (head, caption) in SECTIONS.items():
        records = read(study)
        if not records:
            continue
        figures[study](records)
        shown = table(records) if study == "catalogue" else by(records, study)
        if study == "catalogue":
            lines.append(READING)
        lines += [head, "", f"![{caption}](figures/{study}.svg)", "", *shown, ""]
    (DOCS / "in-a-known-world.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
