"""The scoring recipe: loss and metrics of data under a policy and a reference, as one step without training."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from tiltlm.core import Example, Responses, ResponseScores, View
from tiltlm.distributed import Ranks
from tiltlm.objectives import Objective, Term, example_losses
from tiltlm.recipes.prepare import ensure_reference, prepare
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.storage.files import finite_json, write_text
from tiltlm.training.packs import Pack
from tiltlm.training.step import Stepper

if TYPE_CHECKING:
    import pandas as pd


class Scores(dict[str, Any]):
    """Loss and metrics, as a mapping that can be written as JSON, with tables. pandas is imported only for these."""

    def __init__(self, values: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        """Hold the values and, for `examples`, the rows of `--per-example`."""
        super().__init__(values)
        self._rows = rows

    def __repr__(self) -> str:
        numbers = " ".join(f"{name} {value:.4g}" for name, value in self._numbers().items())
        return f"{self['objective']} on {self['num_examples']:,} examples: {numbers}"

    def _repr_html_(self) -> str:
        """Return the numbers as a table for a notebook."""
        row = Markup("<tr><th style='text-align: left'>{}</th><td>{:.4g}</td></tr>")
        rows = Markup("").join(row.format(name, value) for name, value in self._numbers().items())
        caption = Markup("<caption>{} on {:,} examples</caption>").format(self["objective"], self["num_examples"])
        return Markup("<table>") + caption + rows + Markup("</table>")

    @property
    def examples(self) -> "pd.DataFrame":
        """One row per response: `id` and `loss` of its example, its role, log-probabilities in nats, and length."""
        import pandas as pd

        return pd.DataFrame(
            [{"id": row["id"], "loss": row["loss"], **response} for row in self._rows for response in row["responses"]]
        )

    def to_pandas(self) -> "pd.DataFrame":
        """Return loss and metrics as a table of one row."""
        import pandas as pd

        return pd.DataFrame([{"objective": self["objective"], "num_examples": self["num_examples"], **self._numbers()}])

    def _numbers(self) -> dict[str, float]:
        return {"loss": self["loss"], **self["metrics"]}


@dataclass(frozen=True, eq=False)
class ScoredExamples:
    """All examples of some data, scored as one step."""

    objective: Objective
    examples: Sequence[Example]
    rows: Sequence[Mapping[str, Any]]
    """One per example, in the same order: see `example_rows`."""
    loss: float
    metrics: Mapping[str, float]


def score(settings: RunSettings, *, per_example: Path | None = None, progress: ProgressCallback = silent) -> Scores:
    """Compute loss and metrics of all data as one step.

    Args:
        settings: Model, data, objective and reference are used; of training, `max_tokens`. They have been checked
            (`recipes.run_settings`).
        per_example: A JSON Lines file to write, one line per example: `id`, `loss`, and for every response `role`,
            `logps` and `ref_logps` (nats, summed over the response) and `num_tokens`. A reward model gives `score`
            instead of log-probabilities.
        progress: Called during the reference pass and the scoring.

    Returns:
        `objective`, `num_examples`, `loss`, `metrics` (TRL's names).
    """
    scored = score_examples(settings, progress=progress)
    rows = scored.rows
    if per_example is not None:
        write_text(per_example, "".join(json.dumps(finite_json(row), ensure_ascii=False) + "\n" for row in rows))
    values = {
        "objective": settings.objective_title,
        "num_examples": len(scored.examples),
        "loss": scored.loss,
        "metrics": dict(scored.metrics),
    }
    return Scores(values, rows)


def score_examples(settings: RunSettings, *, progress: ProgressCallback = silent) -> ScoredExamples:
    """Score all data as one step. Arguments: see `score`."""
    settings = replace(settings, data=replace(settings.data, eval_fraction=settings.data.eval_fraction or 0.0))
    objective = settings.build_objective()
    ranks = Ranks.single("score")
    ready = prepare(settings, ranks)
    examples = ready.examples
    ensure_reference(ready.reference, examples, progress, ranks)
    module = ready.policy.module.eval()
    stepper = Stepper(
        module,
        objective,
        ready.reference if objective.needs_reference else None,
        settings.training.max_tokens,
        ranks,
        sources=ready.sources,
    )
    rows: list[dict[str, Any]] = []

    def observe(pack: Pack, responses: Responses, view: View, terms: tuple[Term, ...]) -> None:
        del view
        rows.extend(example_rows(objective, pack, responses, terms))
        progress("score", len(rows), len(examples))

    result = stepper.evaluate(examples, observe)
    order = {e.id: i for i, e in enumerate(examples)}
    rows.sort(key=lambda row: order[row["id"]])
    return ScoredExamples(objective, examples, rows, result.loss, result.metric_sums.means())


def example_rows(
    objective: Objective, pack: Pack, responses: Responses, terms: tuple[Term, ...]
) -> list[dict[str, Any]]:
    """Return one row per example: its own loss and the values of its responses.

    The loss is that of a step with this example only, except that a baseline is still computed over the whole step.
    """
    counts = [
        objective.view.of([example], [slot]).counts() for example, slot in zip(pack.examples, pack.slots, strict=True)
    ]
    losses = example_losses(terms, counts).tolist()
    columns = response_columns(objective, responses)
    return [
        {
            "id": example.id,
            "loss": loss,
            "responses": [
                {
                    "role": role,
                    **{name: values[s] for name, values in columns.items()},
                    "num_tokens": response.num_tokens,
                }
                for s, role, response in zip(slot, example.roles, example.responses, strict=True)
            ],
        }
        for example, slot, loss in zip(pack.examples, pack.slots, losses, strict=True)
    ]


def response_columns(objective: Objective, responses: Responses) -> dict[str, list[float | None]]:
    """Return the values to write, by name: one for each response of the forward."""
    if isinstance(responses, ResponseScores):
        return {"score": responses.scores.tolist()}
    logps = responses.seq_logps.tolist()
    ref_logps = responses.ref_sums.tolist() if objective.needs_reference else [None] * len(logps)
    return {"logps": logps, "ref_logps": ref_logps}
