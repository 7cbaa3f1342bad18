"""Draw the figures of docs/theory.md.

    python scripts/make_theory_figures.py            writes docs/figures/theory-*.svg
    python scripts/make_theory_figures.py FOLDER     writes them to another folder

Every curve is computed in a finite world, by the package's own objectives. The same versions give the same files.
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from torch import Tensor

from tiltlm.links import Exponential, Hinge, Link, Logistic, Sigmoid, Squared
from tiltlm.objectives import Objective, Pairwise, build
from tiltlm.rewards import LogOdds, LogRatio, MeanLogp, SeqLogp
from tiltlm.worlds import FiniteWorld, fit_policy, population_loss, total_variation

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
SIZE = (3.7, 2.8)
"""Inches. Two figures stand side by side on a wide page, and one fits a phone."""
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small files, and a test can read it
    "svg.hashsalt": "tiltlm",  # ids by content: the same curves give the same bytes
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
}

BETA = 0.5
REFERENCE = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
WORLD = FiniteWorld.of([0.0, 0.5, 1.0, 1.5], ref_logits=REFERENCE.log())
BEST = WORLD.optimum(BETA)
NAMES = ["A", "B", "C", "D"]
PATH = torch.linspace(0, 2, 81, dtype=torch.float64)
"""0 is the reference, 1 is π*, and 2 lies as far beyond it."""
MARGINS = torch.linspace(-4, 4, 161, dtype=torch.float64)


def along_the_path() -> list[Tensor]:
    """Return the policies between the reference and π* and beyond, as log-probabilities."""
    return [torch.log_softmax(WORLD.ref_logps + float(s) * WORLD.reward / BETA, 0) for s in PATH]


def with_data(preference: Tensor, sampler: Tensor | None = None) -> FiniteWorld:
    """Return the world with other labels, or with other pairs."""
    return FiniteWorld.of(WORLD.reward, ref_logits=WORLD.ref_logps, preference=preference, sampler=sampler)


def slope(link: Link, margins: Tensor) -> Tensor:
    """Return −ℓ′ at each margin: the weight of a pair."""
    leaf = margins.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(link(leaf).sum(), leaf)
    return -gradient


def bars(axes: Axes, policies: dict[str, Tensor]) -> None:
    """Draw the probabilities of the responses, one group a response."""
    width = 0.8 / len(policies)
    for i, (name, logps) in enumerate(policies.items()):
        places = [k + width * (i - (len(policies) - 1) / 2) for k in range(len(NAMES))]
        axes.bar(places, logps.exp().tolist(), width, label=name, color="0.7" if i == 0 else f"C{i - 1}")
    axes.set_xticks(range(len(NAMES)), NAMES)
    axes.set_ylabel("probability")
    axes.set_ylim(0, 1.35 * max(float(logps.exp().max()) for logps in policies.values()))
    axes.legend(ncols=2, loc="upper left")


def mark_the_ends(axes: Axes) -> None:
    """Name the reference and π* on the horizontal axis of a path."""
    axes.set_xticks([0, 1, 2], ["π_ref", "π*", "beyond"])
    axes.axvline(1, color="0.6", linestyle=":", linewidth=1)


def price(axes: Axes) -> None:
    shares = torch.linspace(0, 0.999, 100, dtype=torch.float64)
    always_d = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    policies = [((1 - share) * REFERENCE + share * always_d).log() for share in shares]
    parts_of_j(axes, shares, policies)
    axes.set_xticks([0, 1], ["reference", "always D"])
    axes.set_title("J is largest between the two")


def parts_of_j(axes: Axes, places: Tensor, policies: list[Tensor]) -> None:
    """Draw mean reward, cost and J of policies."""
    gained = [WORLD.expected_reward(policy) for policy in policies]
    paid = [BETA * WORLD.kl_to_reference(policy) for policy in policies]
    axes.plot(places, gained, label="E[r]", color="C0", linestyle="--")
    axes.plot(places, paid, label="β·KL", color="C3", linestyle="--")
    axes.plot(places, [WORLD.value(policy, BETA) for policy in policies], label="J = E[r] − β·KL", color="black")
    axes.set_ylim(0, 1.9)
    axes.legend()


def tilt(axes: Axes) -> None:
    bars(axes, {"π_ref": WORLD.ref_logps} | {f"π*, β = {beta:g}": WORLD.optimum(beta) for beta in (2.0, 0.5, 0.2)})
    axes.set_title("A smaller β tilts further")


def objective(axes: Axes) -> None:
    parts_of_j(axes, PATH, along_the_path())
    axes.axhline(BETA * WORLD.log_partition(BETA), color="0.6", linestyle=":", linewidth=1)
    axes.text(0.03, BETA * WORLD.log_partition(BETA) + 0.02, "β·log Z", color="0.4")
    mark_the_ends(axes)
    axes.set_title("J is largest at π*")


def reward(axes: Axes) -> None:
    implicit = BETA * (BEST - WORLD.ref_logps)
    axes.plot(NAMES, WORLD.reward, "o-", label="r")
    axes.plot(NAMES, implicit, "s-", label="β·log(π*/π_ref)")
    for name, high, low in zip(NAMES, WORLD.reward.tolist(), implicit.tolist(), strict=True):
        axes.annotate("", (name, low), (name, high), arrowprops={"arrowstyle": "<->", "color": "0.6"})
    axes.text(1.06, 0.0, "β·log Z", color="0.4")
    axes.legend()
    axes.set_title("One constant lies between the two")


def bradley_terry(axes: Axes) -> None:
    gaps = torch.linspace(-3, 3, 121)
    axes.plot(gaps, torch.sigmoid(gaps), color="black")
    for gap, pair in ((0.5, "B ≻ A"), (1.0, "C ≻ A"), (1.5, "D ≻ A")):
        chance = float(torch.sigmoid(torch.tensor(gap)))
        axes.plot(gap, chance, "o", color="C0")
        axes.annotate(f"{pair}: {chance:.3f}", (gap, chance), xytext=(6, -10), textcoords="offset points")
    axes.set_xlabel("difference of rewards")
    axes.set_ylabel("probability of winning")
    axes.set_title("Bradley–Terry")


def pair_loss(axes: Axes) -> None:
    axes.plot(MARGINS, torch.sigmoid(MARGINS), color="0.6", label="probability of the winner, σ(m)")
    axes.plot(MARGINS, Logistic()(MARGINS), color="black", label="loss −log σ(m)")
    axes.plot(0, Logistic()(torch.zeros(1)), "o", color="C0")
    axes.annotate("reference: log 2", (0, 0.69), xytext=(6, 16), textcoords="offset points")
    axes.set_xlabel("margin m")
    axes.set_ylim(0, 5)
    axes.legend()
    axes.set_title("The loss of one pair")


def loss(axes: Axes) -> None:
    dpo = build("dpo", beta=BETA)
    axes.plot(PATH, [float(population_loss(dpo, WORLD, policy)) for policy in along_the_path()], color="black")
    mark_the_ends(axes)
    axes.set_ylabel("DPO loss, infinite data")
    axes.set_title("The loss is smallest at π*")


def weight(axes: Axes) -> None:
    axes.plot(MARGINS, slope(Logistic(), MARGINS), color="black", label="weight σ(−m)")
    for margin, name, place in ((-2.0, "wrong", (-36, -12)), (0.0, "undecided", (-56, -12)), (2.0, "right", (4, 5))):
        high = float(torch.sigmoid(torch.tensor(-margin)))
        axes.plot(margin, high, "o", color="C0")
        axes.annotate(name, (margin, high), xytext=place, textcoords="offset points")
    axes.set_ylim(0, 1.25)
    axes.set_xlabel("margin m")
    axes.legend()
    axes.set_title("A wrong pair has the largest weight")


def observed(num_pairs: int, seed: int) -> FiniteWorld:
    """Return the world as a sample of comparisons shows it."""
    dice = torch.Generator().manual_seed(seed)
    first, second = torch.randint(4, (2, num_pairs), generator=dice)
    wins = torch.rand(num_pairs, generator=dice) < WORLD.preference[first, second]
    count = torch.zeros(4, 4, dtype=torch.float64)
    for i, j, won in zip(first.tolist(), second.tolist(), wins.tolist(), strict=True):
        count[(i, j) if won else (j, i)] += 1
    both = count + count.T
    share = torch.where(both > 0, count / both, 0.5)
    return with_data(share.fill_diagonal_(0.5), both / both.sum())


def finite_data(axes: Axes) -> None:
    dpo, numbers = build("dpo", beta=BETA), [100, 316, 1000, 3162, 10000]
    distances = []
    for number in numbers:
        fits = [fit_policy(dpo, observed(number, seed)) for seed in range(8)]
        distances.append([total_variation(fit.logps, BEST) for fit in fits])
        axes.plot([number] * 8, distances[-1], ".", color="C0", alpha=0.5)
    means = [sum(each) / len(each) for each in distances]
    axes.plot(numbers, means, color="black", label="mean of 8 samples")
    axes.plot(numbers, [means[0] * (100 / n) ** 0.5 for n in numbers], ":", color="0.5", label="falls as 1/√N")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("comparisons N")
    axes.set_ylabel("distance to π*")
    axes.legend()
    axes.set_title("The distance falls with the number of labels")


def certain(axes: Axes) -> None:
    dpo, steps = build("dpo", beta=BETA), range(1, 301)
    for name, world in (
        ("labels by chance", WORLD),
        ("the better one always wins", with_data((WORLD.preference > 0.5) + 0.5 * torch.eye(4))),
    ):
        logits, kls = WORLD.ref_logps.clone().requires_grad_(), []
        for _ in steps:
            (gradient,) = torch.autograd.grad(population_loss(dpo, world, torch.log_softmax(logits, 0)), logits)
            logits = (logits - 10 * gradient).detach().requires_grad_()
            kls.append(world.kl_to_reference(torch.log_softmax(logits.detach(), 0)))
        axes.plot(steps, kls, label=name)
    axes.axhline(WORLD.kl_to_reference(BEST), color="0.6", linestyle=":", linewidth=1)
    axes.text(60, WORLD.kl_to_reference(BEST) + 0.05, "KL of π*", color="0.4")
    axes.set_xscale("log")
    axes.set_xlabel("steps of gradient descent")
    axes.set_ylabel("KL to the reference, nats")
    axes.set_ylim(0, 3.2)
    axes.legend(loc="upper left")
    axes.set_title("Certain labels: β no longer limits the KL")


def displacement(axes: Axes) -> None:
    features = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    start = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
    knob = torch.linspace(0, -4, 81, dtype=torch.float64)
    shares = torch.stack([torch.softmax(start + theta * features, 0) for theta in knob])
    for i, name in enumerate(("“No”, chosen", "“Never”, rejected", "“Yes”, not in the data")):
        axes.plot(knob, shares[:, i], label=name)
    axes.invert_xaxis()
    axes.set_xlabel("shared parameter θ, training goes right")
    axes.set_ylabel("probability")
    axes.set_ylim(0, 1.25)
    axes.legend()
    axes.set_title("Both responses of the pair fall")


def links(axes: Axes) -> None:
    chance = torch.sigmoid(torch.tensor(1.5, dtype=torch.float64))
    for link in (Logistic(), Exponential(), Squared(target=2.0), Hinge(margin=1.0)):
        expected = chance * link(MARGINS) + (1 - chance) * link(-MARGINS)
        axes.plot(MARGINS, expected - expected.min(), label=type(link).__name__)
        axes.plot(MARGINS[expected.argmin()], 0, "o", color=axes.lines[-1].get_color(), clip_on=False)
    axes.set_xlim(-1, 4)
    axes.set_ylim(0, 1.5)
    axes.set_xlabel("margin m")
    axes.set_ylabel("loss above its minimum")
    axes.legend()
    axes.set_title("Each link has its own best margin")


def rewards(axes: Axes) -> None:
    world = FiniteWorld.of([0.0, 0.5, 1.0, 1.0], lengths=[2, 2, 2, 4], ref_logits=REFERENCE.log())
    parts = {"LogRatio": LogRatio(0.5), "SeqLogp": SeqLogp(0.5), "MeanLogp": MeanLogp(2.0), "LogOdds": LogOdds()}
    fits = {name: fit_policy(Pairwise(part, Logistic()), world).logps for name, part in parts.items()}
    bars(axes, {"π_ref": world.ref_logps} | fits)
    axes.set_title("Four rewards; D is longer than C")


def divergences(axes: Axes) -> None:
    names = ("reverse_kl", "jensen_shannon", "forward_kl")
    fits = {name: fit_policy(build("f_dpo", beta=BETA, divergence=name), WORLD).logps for name in names}
    bars(axes, {"π_ref": WORLD.ref_logps} | fits)
    axes.set_title("Three divergences, one β")


def shapes(axes: Axes) -> None:
    axes.plot(MARGINS, slope(Logistic(), MARGINS), label="DPO: of a pair's margin")
    axes.plot(MARGINS, slope(Sigmoid(), MARGINS), label="KTO: of one reward")
    axes.set_ylim(0, 1.25)
    axes.set_xlabel("margin, or reward above the baseline")
    axes.set_ylabel("weight")
    axes.legend()
    axes.set_title("KTO: little weight far from the baseline")


def noise(axes: Axes) -> None:
    rates = [0.0, 0.1, 0.2, 0.3]
    methods: dict[str, Callable[[], Objective]] = {
        "dpo": lambda: build("dpo", beta=BETA),
        "cdpo, ε = 0.2": lambda: build("cdpo", beta=BETA, label_smoothing=0.2),
        "robust_dpo, ε = 0.2": lambda: build("robust_dpo", beta=BETA, label_smoothing=0.2),
    }
    worlds = [with_data((1 - rate) * WORLD.preference + rate * WORLD.preference.T) for rate in rates]
    for name, make in methods.items():
        kls = [WORLD.kl_to_reference(fit_policy(make(), world).logps) for world in worlds]
        axes.plot(rates, kls, "o-", markersize=3, label=name)
    axes.axhline(WORLD.kl_to_reference(BEST), color="0.6", linestyle=":", linewidth=1)
    axes.text(0.24, WORLD.kl_to_reference(BEST) + 0.03, "KL of π*", color="0.4")
    axes.set_xlabel("share of flipped labels")
    axes.set_ylabel("KL to the reference, nats")
    axes.legend()
    axes.set_title("Flipped labels shrink the tilt")


def offset(axes: Axes) -> None:
    for gap in (0.5, 1.0, 1.5):
        axes.plot(MARGINS, torch.sigmoid(-(MARGINS - torch.tensor(gap).log())), label=f"score gap {gap:g}")
    axes.set_xlabel("margin m")
    axes.set_ylabel("weight")
    axes.legend()
    axes.set_title("A larger gap keeps its weight for longer")


DRAWN = (
    *(price, tilt, objective, reward, bradley_terry, pair_loss, weight, loss),
    *(finite_data, certain, displacement),
    *(links, rewards, divergences, shapes, noise, offset),
)


def write(folder: Path, drawn: Iterable[Callable[[Axes], None]] = DRAWN) -> None:
    """Write the figures to a folder, each named after its function."""
    folder.mkdir(parents=True, exist_ok=True)
    for draw in drawn:
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=SIZE, layout="constrained")
            FigureCanvasSVG(figure)
            draw(figure.subplots())
            name = draw.__name__.replace("_", "-")
            figure.savefig(folder / f"theory-{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FIGURES)
