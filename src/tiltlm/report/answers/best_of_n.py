"""The page of best-of-n: best-of-n.html, best-of-n.json, and a Markdown summary."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from tiltlm.diagnostics import Interval
from tiltlm.evaluation.answers.scored_pool import ScoredPool
from tiltlm.report.answers.markdown import markdown_summary, write_markdown
from tiltlm.report.numbers import estimate, format_number, share, with_bounds
from tiltlm.report.page import as_json, template_environment, write
from tiltlm.report.plots import FULL
from tiltlm.report.sections import Remark, SectionView
from tiltlm.report.svg import FIRST, MUTED, SECOND, figure, inline, styled
from tiltlm.report.tables import NONE, Cell, Table, TableRow, cell

PAGE, TWIN, SUMMARY = "best-of-n.html", "best-of-n.json", "best-of-n.md"
SCHEMA = "tiltlm.best_of_n/1"


def sentences_of(pool: ScoredPool) -> list[str]:
    """Return what came out, in sentences."""
    curve, last = pool.curve, pool.curve.ns[-1]
    gain = curve.proxy_gain[-1]
    found = [
        f"On {curve.num_prompts:,} prompts the best of {last} answers has a {pool.judge} score of "
        f"{with_bounds(curve.proxy[-1])}, one answer {estimate(curve.proxy[0])}: a gain of "
        f"{with_bounds(gain, signed=True)}. It costs {last} times the tokens."
    ]
    if curve.gold is None or curve.gold_gain is None:
        return [*found, "No second judge measured it, so a part of this gain may be errors of the judge that chose."]
    found.append(f"By {pool.gold}, which did not choose, the gain is {with_bounds(curve.gold_gain[-1], signed=True)}.")
    peak = curve.peak
    if peak is not None and peak.chosen_n == 1:
        found.append(f"By {pool.gold}, choosing wins nothing: one answer is as good as the best of any number.")
    elif peak is not None:
        found.append(
            f"The {pool.gold} score is highest at n = {peak.n} (95 %: {peak.low} to {peak.high}). Chosen on one half "
            f"of the prompts (n = {peak.chosen_n}), it is {with_bounds(peak.gold)} on the other half, a gain of "
            f"{with_bounds(peak.gain, signed=True)}."
        )
    return found


def cautions_of(pool: ScoredPool) -> Iterator[Remark]:
    """Yield what limits the page."""
    peak = pool.curve.peak
    if peak is not None and peak.is_over_optimised:
        yield Remark(
            "over_optimised",
            f"Choosing among more than {peak.chosen_n} answers does harm: from there to n = {pool.curve.ns[-1]} the "
            f"{pool.gold} score changes by {with_bounds(peak.after, signed=True)}. The judge is exploited; choose "
            "among fewer, or use a better judge or a panel.",
        )
    if pool.gold is None:
        yield Remark(
            "no_gold",
            "The curve is of the judge that chooses. It overstates what is won; give a second judge with --gold.",
        )
    if not pool.is_audited:
        yield Remark(
            "unaudited",
            f"{pool.judge} has no audit, so nobody knows how often its choice is right. Measure it before you train on "
            "winners.jsonl: tiltlm judge-audit, then judge.audit=FILE.",
        )
    if not pool.has_own_distribution:
        yield Remark(
            "no_kl",
            "The answers were not drawn at temperature 1 from the whole distribution, or their log-probabilities are "
            "not known, so the KL is not estimated; the bound is to the policy that drew them.",
        )
    for cause, count in pool.left_out.items():
        yield Remark("left_out", f"{count:,} prompts are left out: {cause}.")


def points_of(pool: ScoredPool) -> list[dict[str, Any]]:
    """Return the numbers of each n as plain values."""
    curve, rows = pool.curve, []
    for k, n in enumerate(curve.ns):
        row: dict[str, Any] = {"n": n}
        families = {"score": curve.proxy, "score_gain": curve.proxy_gain, "gold": curve.gold}
        families |= {"gold_gain": curve.gold_gain, "kl": curve.kl}
        for name, family in families.items():
            if family is not None:
                row |= {name: family[k].estimate, f"{name}_low": family[k].low, f"{name}_high": family[k].high}
        row["kl_bound"] = curve.kl_bound[k]
        row["tokens"] = None if pool.mean_tokens is None else n * pool.mean_tokens
        rows.append(row)
    return rows


def table_of(pool: ScoredPool) -> Table:
    """Return one row for each n."""
    curve, rows = pool.curve, []
    for k, n in enumerate(curve.ns):
        gold = NONE if curve.gold is None else cell(curve.gold[k])
        gain = NONE if curve.gold_gain is None or n == 1 else cell(curve.gold_gain[k], signed=True)
        bound = format_number(curve.kl_bound[k], 3)
        kl = Cell("–" if curve.kl is None else format_number(curve.kl[k].estimate, 3), f"at most {bound}")
        cost = NONE if pool.mean_tokens is None else Cell(format_number(n * pool.mean_tokens, 0))
        rows.append(TableRow(str(n), f"n = {n}", (cell(curve.proxy[k]), gold, gain, kl, cost)))
    columns = ("score", "gold score", "gold gain", "KL, nats", "tokens a prompt")
    return Table(columns, tuple(rows))


def curve_figure(pool: ScoredPool) -> Markup:
    """Draw the scores over √KL: the judge that chooses, and the gold score."""
    curve = pool.curve
    kl = curve.kl_bound if curve.kl is None else tuple(interval.estimate for interval in curve.kl)
    distance: list[float] = np.sqrt(np.maximum(kl, 0.0)).tolist()
    panels: list[tuple[str, Sequence[Interval], str]] = [(f"gain by {pool.judge}", curve.proxy_gain, FIRST)]
    if curve.gold_gain is not None:
        panels.append((f"gain by {pool.gold}", curve.gold_gain, SECOND))
    with styled():
        made = figure(FULL, 3.6)
        for axes, (title, family, colour) in zip(made.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw(axes, distance, family, colour)
            for n, x, point in zip(curve.ns, distance, family, strict=True):
                axes.annotate(
                    f"{n}",
                    (x, point.estimate),
                    (0, 6),
                    textcoords="offset points",
                    color=MUTED,
                    fontsize=8,
                    ha="center",
                )
            axes.set_title(title)
            axes.set_xlabel("√KL, KL in nats per answer; labels: n")
            axes.margins(y=0.15)
        return inline(made, "curve", "Gain of best-of-n over the square root of its KL")


def _draw(axes: Axes, x: Sequence[float], family: Sequence[Interval], colour: str) -> None:
    low, mid, high = ([getattr(point, name) for point in family] for name in ("low", "estimate", "high"))
    axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(x, mid, "o-", color=colour, markersize=4)
    axes.axhline(0, color=MUTED, linewidth=1, linestyle=(0, (3, 3)), zorder=0.5)


def sections_of(pool: ScoredPool) -> list[SectionView]:
    """Return the sections of the page."""
    curve = pool.curve
    lead = (
        f"All values come from one pool of {curve.pool_size} answers a prompt: the mean over all subsets of n, ties "
        "averaged, so each is unbiased, and neighbouring points are dependent. Small print: 95 % intervals by "
        "bootstrap over prompts."
    )
    text = ""
    if curve.collisions is not None:
        text = (
            f"{share(curve.collisions)} of the pairs of answers to a prompt are equal. The bound of the KL is "
            "log n − (n − 1)/n; equal answers make the KL smaller."
        )
    views = [SectionView("curve", "Gain over n", None, lead, [table_of(pool)], [curve_figure(pool)], text)]
    if curve.fit is not None:
        lead = (
            f"gain = d·(α − β·d) with d = √KL, fitted by least squares (Gao et al. 2022): α = "
            f"{with_bounds(curve.fit.alpha)}, β = {with_bounds(curve.fit.beta)}."
        )
        if np.isfinite(curve.fit.peak):
            lead += f" By this curve the gold score is highest at d = {format_number(curve.fit.peak, 2)}."
        views.append(SectionView("fit", "Shape of over-optimisation", None, lead))
    return views


def facts_of(pool: ScoredPool) -> dict[str, str]:
    """Return the main facts."""
    facts = {"Model": pool.model, "Judge that chooses": pool.judge, "Gold judge": pool.gold or "none"}
    facts |= {"Prompts": f"{pool.curve.num_prompts:,}", "Answers a prompt": f"{pool.curve.pool_size:,}"}
    return facts


def render_best_of_n(pool: ScoredPool) -> str:
    """Return the page as HTML."""
    return (
        template_environment()
        .get_template("study.html")
        .render(
            kicker="best of n",
            title=f"Best of n answers of {pool.model}",
            facts=facts_of(pool),
            question="What does choosing among n answers win?",
            word="",
            colour="cautious" if any(cautions_of(pool)) else "",
            sentences=sentences_of(pool),
            cautions=list(cautions_of(pool)),
            sections=sections_of(pool),
            twin=TWIN,
        )
    )


def write_best_of_n(folder: Path, pool: ScoredPool, *, markdown: bool = False) -> Path:
    """Write best-of-n.html and best-of-n.json, and with `markdown` best-of-n.md.

    Returns:
        The path of the page.

    Raises:
        RunError: a file cannot be written.
    """
    cautions = list(cautions_of(pool))
    content = {
        "schema": SCHEMA,
        "sentences": sentences_of(pool),
        "cautions": {remark.key: remark.text for remark in cautions},
        **vars(pool),
    }
    write(folder / TWIN, as_json(content))
    write(folder / PAGE, render_best_of_n(pool))
    if markdown:
        facts = ", ".join(f"{name.lower()} {text}" for name, text in facts_of(pool).items())
        texts = [remark.text for remark in cautions]
        title = f"Best of n answers of {pool.model}"
        write_markdown(folder / SUMMARY, markdown_summary(title, sentences_of(pool), [table_of(pool)], texts, facts))
    return folder / PAGE
