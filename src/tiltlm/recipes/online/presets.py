"""The presets of a loop, as a terminal, a notebook and the documentation look at them.

Every fact is read from the settings of a preset; none is written twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from tiltlm.objectives import compose, describe_spec, spell_out
from tiltlm.online.examples.rules import ExampleSettings
from tiltlm.online.loop_settings import LearnedJudgeSettings, LoopSettings, RivalSettings
from tiltlm.online.presets import PRESETS, Preset

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 96
"""Characters of a line."""


@dataclass(frozen=True)
class PresetFacts:
    """What a preset does, in words."""

    draws: str
    judge: str
    trains: str
    reference: str
    a_round: str
    stop: str


def facts_of(preset: Preset) -> PresetFacts:
    """Return what a preset draws, who judges, what it trains, against which reference, and what a round is."""
    values: Mapping[str, Any] = preset.settings
    loop, examples = LoopSettings(**values.get("loop", {})), ExampleSettings(**values.get("examples", {}))
    rivals = RivalSettings(**values.get("rivals", {}))
    learned = LearnedJudgeSettings(**values.get("learned_judge", {}))
    moves = {
        "reset": "the policy at the start of each round",
        "average": f"a moving average of the policy, rate {loop.rate:g}",
        "fixed": "fixed: the policy before the first round, or reference.name",
    }
    kind, spec = examples.kind, spell_out(values["objective"])
    judged = "scores" if kind.needs_scores else "scores or compares"
    judge = f"one that {judged}" if kind.needs_judge else "none"
    if learned.labels:
        judge += f", for {learned.labels} pairs of each round, from which a learned judge learns to label all of them"
    training = values["training"]
    steps = -(-loop.prompts_per_round // training["batch_size"]) * training["num_epochs"]
    epochs = f", {training['num_epochs']} epochs" if training["num_epochs"] > 1 else ""
    return PresetFacts(
        draws=_drawn(loop, rivals, values.get("sampling", {})),
        judge=f"the policy itself, {preset.judge}" if preset.judge else judge,
        trains=f"rule {examples.rule} ({kind.shape}), {describe_spec(spec, with_numbers=False)}",
        reference=moves[loop.reference] if compose(spec).needs_reference or rivals.n else "none",
        a_round=f"{loop.prompts_per_round:,} prompts{epochs}: {steps} step{'s' if steps > 1 else ''} of "
        f"{training['batch_size']}" + (", each with a new optimiser and schedule" if loop.restarts else ""),
        stop=f"after {loop.rounds} rounds"
        + ("; set stop.kl, since nothing bounds the KL" if loop.reference != "fixed" else ""),
    )


def _drawn(loop: LoopSettings, rivals: RivalSettings, sampling: Mapping[str, Any]) -> str:
    """Return what is drawn for each prompt, in words."""
    parts = [f"{loop.n} of the policy"]
    if rivals.n:
        who = "the reference" if rivals.mix == 1 else f"its mixture with the reference (share {rivals.mix:g})"
        parts.append(f"{rivals.n} of {who}")
    if rivals.revisions:
        parts.append("its revision of it")
    if rivals.data:
        parts.append("the response of the data")
    drawn = ", ".join(f"{name} {value:g}" for name, value in sampling.items())
    past = f"; the examples of {loop.past_rounds} earlier rounds again" if loop.past_rounds else ""
    return ", ".join(parts) + (f"; {drawn}" if drawn else "") + past


class PresetList:
    """All presets."""

    def summary(self) -> str:
        """Return what the command line prints."""
        blocks = []
        for name, one in PRESETS.items():
            facts = facts_of(one)
            texts = (
                one.title,
                one.source,
                f"samples: {facts.draws}; judge: {facts.judge}",
                f"trains: {facts.trains}; {facts.a_round}",
                one.differs,
            )
            blocks.append([name, *(f"  {line}" for text in texts for line in wrap(text, WIDTH))])
        return "\n\n".join("\n".join(block) for block in blocks)

    __repr__ = summary

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row a preset."""
        import pandas as pd

        rows = [
            {
                "preset": name,
                "title": one.title,
                "source": one.source,
                "differs": one.differs,
                "fails": one.fails,
                **vars(facts_of(one)),
            }
            for name, one in PRESETS.items()
        ]
        return pd.DataFrame(rows).set_index("preset")
