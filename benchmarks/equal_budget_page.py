"""Tables and pictures of `equal_budget.py`, from its records: what the docs show.

python benchmarks/equal_budget_page.py      reads benchmarks/results, writes docs/equal-budget.md and its figures
"""

import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import numpy as np

from tiltlm.diagnostics import Interval, mean_of_repetitions

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
NAMES = {
    "offline_dpo_once": "offline DPO, one epoch",
    "offline_dpo": "offline DPO, one epoch or four",
    "online_dpo": "online DPO",
    "gvpo": "GVPO",
    "rloo": "RLOO",
    "grpo": "GRPO",
    "raft": "RAFT",
}
SEEDS = 3
"""Fewer runs of a method are not shown: it has not finished."""
EQUAL_TOKENS = 50_000
WINDOW = 3
"""Rounds whose mean is one point where a peak is looked for: one round is too noisy."""
ACCEPTED = 0.9

Record = dict[str, Any]


class Study:
    """The records, by what they are part of."""

    def __init__(self, path: Path) -> None:
        """Read them."""
        self.records: list[Record] = [json.loads(line) for line in path.read_text().splitlines()]
        self.frontier = next(record for record in self.records if record["part"] == "frontier")
        self.names = [name for name in NAMES if len(self.of("compare", name)) >= SEEDS]

    def of(self, part: str, name: str | None = None) -> list[Record]:
        """Return the records of a part, of one method or of all, by seed."""
        own = [r for r in self.records if r["part"] == part and name in (None, r.get("method"))]
        return sorted(own, key=lambda record: record["seed"])

    def final(self, name: str, number: str, part: str = "compare") -> list[float]:
        """Return a measured number of each seed after the whole budget."""
        return [record["measured"][number]["estimate"] for record in self.of(part, name)]


def shown(values: Sequence[float], *, percent: bool = False) -> str:
    """Return a mean over seeds with Student's interval."""
    found = mean_of_repetitions(values)
    if percent:
        return f"{found.estimate:.0%} ({found.low:.0%} to {found.high:.0%})"
    return f"{found.estimate:.2f} ({found.low:.2f} to {found.high:.2f})"


def spread(values: Sequence[float], *, percent: bool = False) -> str:
    """Return the values of all seeds."""
    return ", ".join(f"{value:.0%}" if percent else f"{value:.2f}" for value in values)


def setting(record: Record) -> str:
    """Return what a trial set."""
    epochs = f", {record['num_epochs']} epochs" if record.get("num_epochs", 1) > 1 else ""
    return f"{record['learning_rate']:.0e}".replace("e-0", "e-") + epochs


def at_tokens(record: Record, limit: int) -> Record | None:
    """Return the first round before which so many tokens were spent: its policy has cost them."""
    spent = 0
    for card in record["cards"]:
        if spent >= limit:
            return dict(card)
        spent += card["sampled_tokens"]
    return None


def judgement_table(study: Study) -> Iterator[str]:
    """Yield the table at equal judgements."""
    yield "| method | learning rate | gold reward | KL, nats | share of the attainable gain | each seed: reward; KL |"
    yield "|---|---|---|---|---|---|"
    for name in study.names:
        reward, kl, share = (study.final(name, number) for number in ("policy", "kl", "share"))
        yield (
            f"| {NAMES[name]} | {setting(study.of('compare', name)[0])} | {shown(reward)} | {shown(kl)} | "
            f"{shown(share, percent=True)} | {spread(reward)}; {spread(kl)} |"
        )


def token_table(study: Study) -> Iterator[str]:
    """Yield the table at equal tokens, from the cards."""
    yield "| method | gold reward | KL, nats | judgements |"
    yield "|---|---|---|---|"
    for name in study.names:
        records = study.of("compare", name)
        found = [card for record in records if (card := at_tokens(record, EQUAL_TOKENS)) is not None]
        if len(found) == len(records):
            rewards, kls = ([card[n]["estimate"] for card in found] for n in ("reward", "kl"))
            asked = np.mean([card["round"] for card in found]) * records[0]["cards"][0]["judgements"]
            yield f"| {NAMES[name]} | {shown(rewards)} | {shown(kls)} | {asked:,.0f} |"


def trial_table(study: Study) -> Iterator[str]:
    """Yield the table of the trials."""
    yield "| method | learning rate | gold reward | KL, nats | share of the attainable gain |"
    yield "|---|---|---|---|---|"
    for record in sorted(study.of("trial"), key=lambda r: list(NAMES).index(r["method"])):
        reward, kl, share = (record["measured"][number] for number in ("policy", "kl", "share"))
        yield (
            f"| {NAMES[record['method']]} | {setting(record)} | {reward['estimate']:.2f} | {kl['estimate']:.2f} | "
            f"{share['estimate']:.0%} ({share['low']:.0%} to {share['high']:.0%}) |"
        )


def smaller_table(study: Study, name: str) -> Iterator[str]:
    """Yield the table of offline DPO by its number of judgements."""
    yield "| judgements | gold reward of each seed | KL of each seed, nats |"
    yield "|---|---|---|"
    records = [*study.of("smaller", name), *study.of("compare", name)]
    for size in sorted({record["cards"][0]["judgements"] for record in records}):
        own = [r["measured"] for r in records if r["cards"][0]["judgements"] == size]
        rewards, kls = ([m[number]["estimate"] for m in own] for number in ("policy", "kl"))
        yield f"| {size:,} | {spread(rewards)} | {spread(kls)} |"


def against_offline(study: Study, offline: str) -> Iterator[str]:
    """Yield one sentence for each method: its difference to an offline one, with the interval over seeds."""
    base = study.final(offline, "policy")
    for name in study.names:
        own = study.final(name, "policy")
        if name.startswith("offline") or len(own) != len(base):
            continue
        found = difference(own, base)
        word = "no difference" if found.low <= 0 <= found.high else "more" if found.low > 0 else "less"
        yield f"{NAMES[name]} {found.estimate:+.2f} ({found.low:+.2f} to {found.high:+.2f}): {word}"


def difference(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Return the mean difference of independent seeds with Welch's interval."""
    from scipy import stats

    a, b = np.asarray(values), np.asarray(others)
    errors = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    freedom = sum(errors) ** 2 / sum(e**2 / (len(x) - 1) for e, x in zip(errors, (a, b), strict=True))
    half = float(stats.t.ppf(0.975, freedom)) * float(np.sqrt(sum(errors)))
    middle = float(a.mean() - b.mean())
    return Interval(middle, middle - half, middle + half, 0.95, len(a))


def smoothed(values: Sequence[float]) -> np.ndarray:
    """Return means over `WINDOW` neighbouring rounds."""
    return np.convolve(values, np.ones(WINDOW) / WINDOW, mode="valid")


def peaks(study: Study) -> list[dict[str, float]]:
    """Return the peak of each run by the flawed judge: found on one half of the prompts, measured on the other."""
    found = []
    for record in study.of("proxy"):
        cards = record["cards"]
        first, second = (smoothed([card["halves"][k] for card in cards]) for k in (0, 1))
        kl = smoothed([card["kl"]["estimate"] for card in cards])
        proxy = smoothed([card["reward"]["estimate"] for card in cards])
        at = int(first.argmax())
        names = ("kl", "gold", "last_gold", "last_kl", "proxy", "last_proxy", "start")
        values = (kl[at], second[at], second[-1], kl[-1], proxy[at], proxy[-1], second[0])
        found.append(dict(zip(names, map(float, values), strict=True)))
    return found


def draw_frontier(axes: Any, study: Study, root: bool = False) -> None:
    """Draw what is possible: the tilt of the reference, and best-of-n by the gold judge."""
    tilt, best = study.frontier["tilt"], study.frontier["best_of_n"]
    scale = np.sqrt if root else np.asarray
    axes.fill_between(scale(tilt["kl"]), tilt["low"], tilt["high"], color="black", alpha=0.12, linewidth=0)
    axes.plot(scale(tilt["kl"]), tilt["reward"], color="black", linewidth=1.2, label="frontier")
    axes.plot(
        scale(best["kl"]), best["reward"], color="grey", linewidth=1, linestyle=":", marker=".", label="best of n"
    )


def budget_figure(study: Study) -> None:
    """Draw reward against KL, round by round, and reward against judgements."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True)
    draw_frontier(left, study)
    for number, name in enumerate(study.names):
        colour = f"C{number}"
        for k, record in enumerate(study.of("compare", name)):
            end = record["measured"]
            label = NAMES[name] if k == 0 else None
            if not name.startswith("offline"):
                cards = record["cards"]
                kl, reward = ([card[n]["estimate"] for card in cards] for n in ("kl", "reward"))
                left.plot(kl, reward, "-", color=colour, linewidth=0.7, alpha=0.6)
            left.plot(end["kl"]["estimate"], end["policy"]["estimate"], "o", color=colour, markersize=5, label=label)
        draw_spent(right, study, name, colour)
    left.set_xlim(-0.05, 5)
    left.set_ylim(2, 4.1)
    left.set_xlabel("KL to the model before training, nats per response")
    left.set_ylabel("gold reward")
    right.set_xlabel("judgements spent")
    left.legend(fontsize=7, loc="lower right")
    save(figure, "equal-budget")


def draw_spent(axes: Any, study: Study, name: str, colour: str) -> None:
    """Draw the reward over the judgements, the mean over seeds; runs of an offline method are points."""
    records = study.of("compare", name)
    if name.startswith("offline"):
        own = [*study.of("smaller", name), *records]
        x = [record["cards"][0]["judgements"] for record in own]
        axes.plot(x, [record["measured"]["policy"]["estimate"] for record in own], "o", color=colour, markersize=4)
        return
    length = min(len(record["cards"]) for record in records)
    rewards = np.array([[card["reward"]["estimate"] for card in record["cards"][:length]] for record in records])
    spent = np.arange(length) * records[0]["cards"][0]["judgements"]
    axes.fill_between(spent, rewards.min(0), rewards.max(0), color=colour, alpha=0.12, linewidth=0)
    axes.plot(spent, rewards.mean(0), color=colour, linewidth=1.2)


def proxy_figure(study: Study) -> None:
    """Draw proxy and gold scores over √KL: runs by a flawed judge, and the best of n by it."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), sharex=True)
    draw_frontier(right, study, root=True)
    for k, record in enumerate(study.of("proxy")):
        root = np.sqrt(np.maximum(smoothed([card["kl"]["estimate"] for card in record["cards"]]), 0))
        order = np.argsort(root)
        for axes, column in ((left, "reward"), (right, "gold")):
            low, mid, high = (
                smoothed([card[column][end] for card in record["cards"]])[order] for end in ("low", "estimate", "high")
            )
            axes.fill_between(root[order], low, high, color=f"C{k}", alpha=0.12, linewidth=0)
            axes.plot(root[order], mid, color=f"C{k}", linewidth=1.2, label=f"online DPO, judge {k}")
    for k, record in enumerate(study.of("chosen")):
        root = np.sqrt(np.maximum(record["kl"], 0))
        for axes, column in ((left, "proxy"), (right, "gold")):
            label = f"best of n, judge {k}"
            axes.plot(root, record[column], "s--", color=f"C{k}", markersize=3, linewidth=0.8, label=label)
    for axes, title in ((left, "score of the flawed judge"), (right, "gold reward, held out")):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("√KL to the model before training")
        axes.set_xlim(left=0)
    right.legend(fontsize=7, loc="upper left")
    save(figure, "over-optimisation")


def save(figure: Any, name: str) -> None:
    """Write a figure as SVG, without a date: the same records give the same file."""
    (DOCS / "figures").mkdir(exist_ok=True)
    figure.tight_layout()
    figure.savefig(DOCS / "figures" / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def accepted(study: Study) -> Iterator[str]:
    """Yield one sentence for each method that should reach the frontier, at each learning rate."""
    for record in study.of("trial"):
        if record["method"] in ("online_dpo", "gvpo", "rloo"):
            share, kl = (record["measured"][number] for number in ("share", "kl"))
            word = "reached" if share["estimate"] >= ACCEPTED else "missed"
            yield (
                f"- {NAMES[record['method']]} at {setting(record)}: {share['estimate']:.0%} "
                f"({share['low']:.0%} to {share['high']:.0%}) at {kl['estimate']:.2f} nats, {word}"
            )


HEAD = """# At equal budgets

Samples and judgements cost money, so methods are compared at the same number of them. One command runs this comparison
in the [known world](in-a-known-world.md) and writes this page from its records:

```
python benchmarks/equal_budget.py
```

- **The same for all**: the model, the kind of prompts (each in one round at most), the gold reward as judge, and
  {judgements:,} judgements. A judgement is the score of one sample. A round has 128 samples and one optimiser step.
- **Offline DPO** has the same number of judgements, on two samples of the model before training to each prompt. Its
  loss and its pairs are those of online DPO; only who draws differs.
- **The same aim** where a method has β: π_ref·e^(10·r)/Z. GRPO and RAFT have none.
- **Tuning**: two trials for each method, with a seed of their own; the one with more gold reward was run with three new
  seeds. [The trials](#the-trials) are below. One row of offline DPO chose between one epoch and four, the other between
  two learning rates.
- **Measured** on 32 samples of the final policy to each of 48 prompts that no run has seen. The share is the gain
  over the model before training, divided by that of the frontier at the same KL. Intervals are Student's over three
  seeds.
"""


def page(study: Study) -> list[str]:
    """Return the lines of the page."""
    judgements = max(record["cards"][0]["judgements"] for record in study.of("compare", "offline_dpo"))
    lines = [HEAD.format(judgements=judgements), *reading(study)]
    lines += ["## At equal judgements", "", *judgement_table(study), "", *COLLAPSE, ""]
    lines += ["![Reward against KL and against judgements](figures/equal-budget.svg)", "", *FIGURE, ""]
    for offline in (name for name in study.names if name.startswith("offline")):
        title = f"**Gold reward against {NAMES[offline]}**"
        lines += [f"{title}, difference with its interval over seeds, not adjusted:", ""]
        lines += [f"- {sentence}" for sentence in against_offline(study, offline)] + [""]
    lines += ["## At equal sampled tokens", "", *TOKENS, "", *token_table(study), ""]
    lines += ["## Offline DPO by its number of judgements", "", SMALLER, ""]
    for offline in ("offline_dpo_once", "offline_dpo"):
        lines += [f"**{NAMES[offline]}**", "", *smaller_table(study, offline), ""]
    lines += ["## The trials", "", *trial_table(study), ""]
    lines += ["## Is the frontier reached?", "", *ACCEPT, "", *accepted(study), ""]
    if study.of("proxy"):
        lines += over_optimisation(study)
    return lines


def over_optimisation(study: Study) -> list[str]:
    """Return the section of the flawed judge."""
    found = peaks(study)
    best = [record["gold"] for record in study.of("chosen")]
    peak, at, start = (shown([one[name] for one in found]) for name in ("gold", "kl", "start"))
    falls = [one["last_gold"] - one["gold"] for one in found]
    fall, is_clear = shown(falls), mean_of_repetitions(falls).high < 0
    saying = "the judge is over-optimised" if is_clear else "no fall is shown, only that gold stops rising"
    rise = shown([one["last_proxy"] - one["proxy"] for one in found])
    lines = ["## A flawed judge", "", *PROXY, ""]
    lines += ["![Scores over the root of the KL](figures/over-optimisation.svg)", ""]
    lines += ["| judge | KL at the peak, nats | gold there | KL at the end | gold there | own score: peak, end |"]
    lines += ["|---|---|---|---|---|---|"]
    lines += [
        f"| {k} | {one['kl']:.2f} | {one['gold']:.2f} | {one['last_kl']:.2f} | {one['last_gold']:.2f} | "
        f"{one['proxy']:.2f}, {one['last_proxy']:.2f} |"
        for k, one in enumerate(found)
    ]
    return [
        *lines,
        "",
        f"- **The peak**: a gold reward of {peak} at {at} nats, from {start} in the first rounds.",
        f"- **From the peak to the end** the gold reward changes by {fall}, the judge's own score by {rise}: "
        f"{saying}. The gold judge itself leads the same method to "
        f"{shown(study.final('online_dpo', 'policy'))} with fewer judgements.",
        f"- **Best of 64 by the same judges** has a gold reward of {shown([own[-1] for own in best])}, best of 4 "
        f"{shown([own[2] for own in best])}.",
    ]


def reading(study: Study) -> list[str]:
    """Return what the records show, in sentences."""
    once, four, online = (name for name in ("offline_dpo_once", "offline_dpo", "online_dpo"))
    found = difference(study.final(online, "policy"), study.final(once, "policy"))
    word = "no difference" if found.low <= 0 <= found.high else "ahead" if found.low > 0 else "behind"
    rewards = [float(np.mean(study.final(name, "policy"))) for name in study.names if not name.startswith("offline")]
    kls = [float(np.mean(study.final(name, "kl"))) for name in study.names if not name.startswith("offline")]
    sentences = [
        f"**Online DPO against offline DPO with one epoch: {word}.** The gold reward is {ends(study, online)}, and "
        f"{ends(study, once)}; the difference is {found.estimate:+.2f} ({found.low:+.2f} to {found.high:+.2f}). "
        f"They attain {shown(study.final(online, 'share'), percent=True)} and "
        f"{shown(study.final(once, 'share'), percent=True)} of what their KL allows.",
        f"**The same samples four times are a risk.** With four epochs offline DPO ends at a gold reward of "
        f"{spread(study.final(four, 'policy'))} with {spread(study.final(four, 'kl'))} nats, seed by seed. Its "
        "trial did not show that.",
        f"**Among the online methods** means go from {min(rewards):.2f} to {max(rewards):.2f}, at {min(kls):.2f} to "
        f"{max(kls):.2f} nats. Two trials and three seeds do not tell them apart where intervals meet.",
        "**What this world cannot show**: one reply in ten of the model before training has all four courtesies, so "
        "its own samples hold all there is to learn. Where good answers are rare at first, fresh ones may matter more.",
    ]
    lines = ["## What it shows", ""]
    for sentence in sentences:
        lines += textwrap.wrap(f"- {sentence}", 118, subsequent_indent="  ", break_on_hyphens=False)
    return [*lines, ""]


def ends(study: Study, name: str) -> str:
    """Return where a method ends: reward and KL, means over seeds."""
    return f"{shown(study.final(name, 'policy'))} at {np.mean(study.final(name, 'kl')):.2f} nats"


COLLAPSE = ["Where one seed of three has collapsed, the interval only says that; look at the seeds."]
FIGURE = [
    "Left: the rounds of each seed as lines, the final policies as dots. Right: means over seeds, with the range",
    "of the seeds; dots are runs of offline DPO, for which a smaller budget is another run.",
]
TOKENS = [
    "A reply has about 20 tokens and one judgement, so both budgets are nearly the same here. These are the cards",
    f"of the first round before which {EQUAL_TOKENS:,} tokens were spent: 128 samples to fresh prompts for each",
    "seed. Offline DPO has no rounds; the next table has its smaller budgets.",
]
SMALLER = "The setting of the better trial, with a quarter and a half of the judgements too; three seeds each."
ACCEPT = [
    "The share of the attainable gain should be at least 90 %. These are the trials (one seed, intervals over",
    "prompts) of three methods whose optimum is on the frontier:",
]
PROXY = [
    "Online DPO again, by a judge that is wrong: a reward model trained on 64 comparisons, another one for each seed.",
    "The gold judge is held out. Points are means over three rounds. The peak is found on one half of the prompts",
    "of each round, and its height is measured on the other half. Bands are intervals over prompts.",
]


def write_page(results: Path) -> None:
    """Write figures and page from the records."""
    mpl.rcParams["svg.hashsalt"] = "tiltlm"  # the same records give the same file
    study = Study(results)
    budget_figure(study)
    if study.of("proxy"):
        proxy_figure(study)
    text = "\n".join(page(study)).rstrip("\n") + "\n"
    (DOCS / "equal-budget.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_page(HERE / "results" / "equal_budget.jsonl")
