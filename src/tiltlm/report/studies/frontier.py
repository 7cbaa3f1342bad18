"""The page of the plane of KL and reward: frontier.html, frontier.json, and a Markdown summary."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tiltlm.diagnostics import MIN_EFFECTIVE_SAMPLES, Interval
from tiltlm.diagnostics.pools import reward_at
from tiltlm.evaluation.answers.knob_trials import KnobSearch
from tiltlm.evaluation.answers.loop_curve import LoopCurve
from tiltlm.evaluation.answers.plane import Plane, PolicyPoint
from tiltlm.report.answers.compare_words import same_judge
from tiltlm.report.answers.markdown import markdown_summary, write_markdown
from tiltlm.report.numbers import estimate, format_number, share, with_bounds
from tiltlm.report.page import as_json, template_environment, write
from tiltlm.report.sections import Remark, SectionView
from tiltlm.report.studies.frontier_figures import reward_figure, win_rate_figure
from tiltlm.report.studies.rounds import some_rounds
from tiltlm.report.tables import NONE, Cell, Table, TableRow, cell

PAGE, TWIN, SUMMARY = "frontier.html", "frontier.json", "frontier.md"
SCHEMA = "tiltlm.frontier/1"
MANY_CUT = 0.05
"""Share of cut answers above which the page says that a KL is only a lower bound."""
TITLE = "Reward against KL"
LOOPS_LEAD = (
    "Scores and KL are those of the cards of each round: samples that its policy drew before it trained on them, to "
    "the prompts of the round. What was spent is the sum over the rounds before. Small print: 95 % intervals by "
    "bootstrap over the prompts of a round; over seeds (Student's) where there are several."
)


def deciding(point: PolicyPoint) -> Interval:
    """Return the number that points are ranked by: the reward, or the win rate with a judge that compares."""
    return point.win_rate if point.reward is None else point.reward


def best_point(plane: Plane) -> PolicyPoint:
    """Return the trained policy with the highest reward."""
    return max(plane.points, key=lambda point: deciding(point).estimate)


def sentences_of(plane: Plane, search: KnobSearch | None = None) -> list[str]:
    """Return what came out, in sentences."""
    found = []
    if search is not None:
        verb = "spends" if search.is_found else "comes nearest: it spends"
        found.append(
            f"{search.knob}={search.best.value:g} {verb} {with_bounds(search.best.kl)} nats of KL; "
            f"{search.wanted:g} were asked for."
        )
    if not plane.points:
        return [*found, *map(sentence_of_loop, plane.loops)]
    best = best_point(plane)
    won = f"a win rate of {with_bounds(best.win_rate, percent=True)} against the policy before training"
    if best.reward is None or plane.base is None or best.gain is None:
        found.append(f"{best.name} wins most: {won}, at a KL of {with_bounds(best.kl)} nats.")
        return found
    found.append(
        f"{best.name} has the highest reward: {with_bounds(best.reward)}, a gain of "
        f"{with_bounds(best.gain, signed=True)} over {estimate(plane.base)} before training, and {won}. "
        f"Its KL is {with_bounds(best.kl)} nats."
    )
    if best.share is not None:
        found.append(
            f"That is {with_bounds(best.share, percent=True)} of the gain that any policy could have at this KL."
        )
    found.append(_beside_best_of_n(plane, best.reward))
    return [*found, *map(sentence_of_loop, plane.loops)]


def sentence_of_loop(curve: LoopCurve) -> str:
    """Say where a loop has been best, and what it had spent by then."""
    best, last = curve.best, curve.points[-1]
    end = "" if best is last else f" Its last round has {with_bounds(last.reward)} at {with_bounds(last.kl)} nats."
    return (
        f"{curve.name} has its highest reward in round {best.round}: {with_bounds(best.reward)} at a KL of "
        f"{with_bounds(best.kl)} nats, after {best.sampled_tokens:,} sampled tokens and {best.judgements:,} "
        f"judgements.{end}"
    )


def _beside_best_of_n(plane: Plane, reward: Interval) -> str:
    """Say which n of best-of-n has as much reward as the best policy."""
    best = plane.best_of_n
    assert best is not None, "there is a reward"
    for k, n in enumerate(best.ns):
        if best.proxy[k].estimate >= reward.estimate:
            kl = best.kl_bound[k] if best.kl is None else best.kl[k].estimate
            return (
                f"The best of {n} answers of the policy before training has as much, {with_bounds(best.proxy[k])}, at "
                f"a KL of {format_number(kl, 2)} nats and {n} times the tokens of an answer."
            )
    return f"The best of {best.ns[-1]} answers of the policy before training has less, {with_bounds(best.proxy[-1])}."


def cautions_of(plane: Plane, search: KnobSearch | None = None) -> Iterator[Remark]:
    """Yield what limits the page, each with what can be done."""
    if search is not None and not search.is_found:
        yield Remark(
            "not_found",
            f"No value of {search.knob} was found whose KL is within 5 % of {search.wanted:g} nats "
            f"({search.num_trained} runs were trained for the search). Its KL may depend on more than this knob, or "
            "jump; give values nearer to it, more prompts (--limit) or more answers (--n).",
        )
    for drop in plane.drops:
        yield Remark(
            "over_optimised",
            f"More KL has done harm: {drop.further} is further away than {drop.nearer}, and its score differs by "
            f"{with_bounds(drop.difference, signed=True)}. Stay at the nearer one: a larger β, fewer steps, or an "
            "earlier checkpoint.",
        )
    for curve in plane.loops:
        if curve.has_fallen:
            yield Remark(
                "over_optimised",
                f"More KL has done harm in {curve.name}: round {curve.best.round} has a reward of "
                f"{with_bounds(curve.best.reward)}, the last round {with_bounds(curve.points[-1].reward)}. Stop "
                "earlier: fewer rounds, stop.kl, or a larger β.",
            )
    yield from _precision_cautions(plane)
    for name, error in plane.failed.items():
        yield Remark("failed", f"{name} is missing, because its run failed: {error}")
    for cause, count in plane.left_out.items():
        yield Remark("left_out", f"{count:,} prompts are left out: {cause}.")
    if plane.same_judge:
        yield same_judge(plane.judge, plane.same_judge)
    if plane.trained_on:
        yield Remark(
            "trained_on",
            f"{plane.trained_on:,} of {plane.num_prompts:,} prompts were trained on, so rewards are too high. Use "
            "prompts that were held out.",
        )


def _precision_cautions(plane: Plane) -> Iterator[Remark]:
    """Yield what makes KL or the frontier less certain."""
    everyone = [*plane.points, *(point for own in plane.checkpoints.values() for point in own)]
    shares = [(point.cut_share, point.name) for point in everyone]
    shares += [(point.cut_share, f"round {point.round} of {one.name}") for one in plane.loops for point in one.points]
    cut, where = max(shares)
    if cut > MANY_CUT:
        yield Remark(
            "cut",
            f"Up to {share(cut)} of the answers were cut ({where}), so their KL is that of the texts up "
            "to the cut: a lower bound. Raise --max-new-tokens.",
        )
    if plane.tilt is None and plane.base is not None:
        yield Remark(
            "no_variation",
            "All answers to a prompt have the same score before training, so there is no frontier. Use a judge that "
            "tells them apart, or draw more answers (--pool).",
        )
    elif plane.tilt is not None:
        end = float(np.nanmax(plane.tilt.kl)) if np.isfinite(plane.tilt.kl).any() else 0.0
        beyond = [point.name for point in plane.points if point.share is None]
        if beyond:
            yield Remark(
                "frontier_ends",
                f"The frontier is known up to a KL of {format_number(end, 2)} nats, where {plane.pool_size} answers a "
                f"prompt have {MIN_EFFECTIVE_SAMPLES:.0f} effective ones left. It is not known for "
                f"{_some(beyond)}. Draw more answers (--pool), as far as they help: their number must grow like e^KL.",
            )


def _some(names: list[str], most: int = 4) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} others" if more > 0 else "")


def table_of(plane: Plane) -> Table:
    """Return one row for each trained policy, by KL."""
    rows = [_row(point) for point in sorted(plane.points, key=lambda point: point.kl.estimate)]
    columns = ("KL, nats", "reward", "gain", "win rate", "of the attainable gain", "tokens")
    return Table(columns, tuple(rows))


def _row(point: PolicyPoint) -> TableRow:
    kl = Cell(estimate(point.kl), f"{cell(point.kl).note}; k3 {estimate(point.kl_k3)}")
    cells = (
        kl,
        cell(point.reward),
        cell(point.gain, signed=True),
        cell(point.win_rate, percent=True),
        cell(point.share, percent=True),
        cell(point.length, decimals=1),
    )
    seeds = f" ({point.num_seeds} seeds)" if point.num_seeds > 1 else ""
    name = point.name if point.step is None else f"step {point.step}"
    return TableRow(f"{point.name}/{point.step}", name + seeds, cells)


def checkpoint_tables(plane: Plane) -> list[Table]:
    """Return one table for each run, with its checkpoints by step."""
    columns = table_of(plane).columns
    return [Table(columns, tuple(_row(point) for point in own), title=name) for name, own in plane.checkpoints.items()]


def best_of_n_table(plane: Plane) -> Table | None:
    """Return reward, win rate and KL of best-of-n; None without scores."""
    best = plane.best_of_n
    if best is None:
        return None
    rows = []
    for k, n in enumerate(best.ns):
        bound = f"at most {format_number(best.kl_bound[k], 3)}"
        kl = Cell("–" if best.kl is None else format_number(best.kl[k].estimate, 3), bound)
        gain = NONE if n == 1 else cell(best.proxy_gain[k], signed=True)
        known = plane.best_of_n_win_rates
        rate = Cell("50 %") if n == 1 else cell(known[k] if k < len(known) else None, percent=True, decimals=1)
        cells = (kl, cell(best.proxy[k]), gain, rate)
        rows.append(TableRow(str(n), f"n = {n}", cells))
    return Table(("KL, nats", "reward", "gain", "win rate"), tuple(rows))


def loop_table(curve: LoopCurve, plane: Plane) -> Table:
    """Return some rounds of a loop: KL, reward, what is attainable at this KL, and what was spent before."""
    rows = []
    for point in some_rounds(curve.points):
        best = np.nan if plane.tilt is None else reward_at(plane.tilt, point.kl.estimate)
        cells = (
            cell(point.kl, decimals=2),
            cell(point.reward),
            *(() if plane.tilt is None else [Cell(format_number(best, 2)) if np.isfinite(best) else NONE]),
            Cell(format_number(point.num_tokens, 1)),
            Cell(f"{point.sampled_tokens:,}"),
            Cell(f"{point.judgements:,}"),
        )
        rows.append(TableRow(str(point.round), f"round {point.round}", cells))
    known = () if plane.tilt is None else ("frontier at this KL",)
    columns = ("KL, nats", "reward", *known, "tokens", "tokens spent", "judgements spent")
    seeds = f" ({curve.num_seeds} seeds)" if curve.num_seeds > 1 else ""
    return Table(columns, tuple(rows), title=curve.name + seeds)


def search_table(search: KnobSearch) -> Table:
    """Return the values of the knob that were measured."""
    rows = [TableRow(f"{t.value:g}", f"{t.value:g}", (cell(t.kl),)) for t in search.trials]
    return Table(("KL, nats",), tuple(rows), row_heading=search.knob)


def sections_of(plane: Plane, search: KnobSearch | None = None) -> list[SectionView]:
    """Return the sections of the page."""
    lead = (
        f"KL is measured on {plane.samples_per_prompt} answers of each policy to {plane.num_prompts:,} prompts, drawn "
        "at temperature 1 from the whole distribution, to the policy before training. "
    )
    if plane.tilt is not None:
        lead += (
            f"The frontier is the best that any policy can do at a KL: answers before training, "
            f"{plane.pool_size} a prompt, weighted by e^(score/β). "
        )
    lead += "Small print: 95 % intervals by bootstrap over prompts; over seeds (Student's) where there are several."
    text = "k3 is a second estimate of the same KL. If it differs much from the first, the answers are too few."
    views = [SectionView("policies", "Policies", None, lead, [table_of(plane)], (), text)] if plane.points else []
    if plane.base is not None or plane.loops:
        views.append(SectionView("reward", "Reward over KL", None, "", (), [reward_figure(plane)]))
    if plane.points:
        views.append(SectionView("win-rate", "Win rate over KL", None, "", (), [win_rate_figure(plane)]))
    if plane.loops:
        tables = [loop_table(curve, plane) for curve in plane.loops]
        views.append(SectionView("rounds", "Rounds of loops", None, LOOPS_LEAD, tables))
    if search is not None:
        views.append(SectionView("search", "The search for a KL", None, "", [search_table(search)]))
    if plane.checkpoints:
        lead = "Where each run was at its checkpoints, before the last step. Many methods are best before their end."
        views.append(SectionView("checkpoints", "On the way", None, lead, checkpoint_tables(plane)))
    if (table := best_of_n_table(plane)) is not None:
        lead = (
            f"The best of n answers before training, chosen by {plane.judge} itself, so errors of this judge count as "
            "gains. All n come from one pool."
        )
        views.append(SectionView("best-of-n", "Without training: best of n", None, lead, [table]))
    return views


def facts_of(plane: Plane) -> dict[str, str]:
    """Return the main facts."""
    facts = {"Before training": plane.reference, "Judge": plane.judge}
    if plane.num_prompts:
        facts |= {"Prompts": f"{plane.num_prompts:,}"}
    facts |= {"Policies": f"{len(plane.points):,}"}
    return facts | ({"Loops": f"{len(plane.loops):,}"} if plane.loops else {})


def rows_of_plane(plane: Plane) -> list[dict[str, Any]]:
    """Return the numbers of each point and checkpoint as plain values."""
    rows = []
    for point in (*plane.points, *(point for own in plane.checkpoints.values() for point in own)):
        row: dict[str, Any] = {"name": point.name, **point.knobs, "step": point.step, "num_seeds": point.num_seeds}
        for name in ("kl", "reward", "gain", "win_rate", "share", "length"):
            value = getattr(point, name)
            if value is not None:
                row |= {name: value.estimate, f"{name}_low": value.low, f"{name}_high": value.high}
        rows.append({**row, "kl_k3": point.kl_k3.estimate, "attainable": point.attainable, "cut": point.cut_share})
    return rows + [row for curve in plane.loops for row in _rows_of_loop(curve)]


def _rows_of_loop(curve: LoopCurve) -> Iterator[dict[str, Any]]:
    for point in curve.points:
        row: dict[str, Any] = {"name": curve.name, **curve.knobs, "round": point.round, "num_seeds": curve.num_seeds}
        for name in ("kl", "reward"):
            value = getattr(point, name)
            row |= {name: value.estimate, f"{name}_low": value.low, f"{name}_high": value.high}
        spent = {name: getattr(point, name) for name in ("sampled_tokens", "judgements")}
        yield {**row, "length": point.num_tokens, "cut": point.cut_share, **spent}


def render_frontier(plane: Plane, search: KnobSearch | None = None) -> str:
    """Return the page as HTML."""
    cautions = list(cautions_of(plane, search))
    return (
        template_environment()
        .get_template("study.html")
        .render(
            kicker="frontier",
            title=f"{TITLE}: {plane.reference}",
            facts=facts_of(plane),
            question="What does each nat of KL buy?",
            word="",
            colour="cautious" if cautions else "",
            sentences=sentences_of(plane, search),
            cautions=cautions,
            sections=sections_of(plane, search),
            twin=TWIN,
        )
    )


def write_frontier(folder: Path, plane: Plane, search: KnobSearch | None = None, *, markdown: bool = False) -> Path:
    """Write frontier.html and frontier.json, and with `markdown` frontier.md.

    Returns:
        The path of the page.

    Raises:
        RunError: a file cannot be written.
    """
    cautions, sentences = list(cautions_of(plane, search)), sentences_of(plane, search)
    content = {
        "schema": SCHEMA,
        "sentences": sentences,
        "cautions": [{"key": remark.key, "text": remark.text} for remark in cautions],
        "search": None if search is None else vars(search),
        **vars(plane),
    }
    write(folder / TWIN, as_json(content))
    write(folder / PAGE, render_frontier(plane, search))
    if markdown:
        facts = ", ".join(f"{name.lower()} {text}" for name, text in facts_of(plane).items())
        texts = [remark.text for remark in cautions]
        tables = [*([table_of(plane)] if plane.points else []), *(loop_table(curve, plane) for curve in plane.loops)]
        write_markdown(folder / SUMMARY, markdown_summary(TITLE, sentences, tables, texts, facts))
    return folder / PAGE
