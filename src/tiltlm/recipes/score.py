"""The scoring recipe: loss and metrics of data under a policy and a reference, as one step without training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tiltlm.core import Responses, ResponseScores, View
from tiltlm.distributed import Ranks
from tiltlm.objectives import Objective, Term, example_losses
from tiltlm.recipes.prepare import ensure_reference, prepare
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.storage.files import finite_json, write_text
from tiltlm.training.packs import Pack
from tiltlm.training.step import Stepper


def score(
    settings: RunSettings, *, per_example: Path | None = None, progress: ProgressCallback = silent
) -> dict[str, Any]:
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
    settings = replace(settings, data=replace(settings.data, eval_fraction=settings.data.eval_fraction or 0.0))
    objective = settings.build_objective()
    ranks = Ranks.single("score")
    ready = prepare(settings, ranks.device)
    examples = ready.examples
    ensure_reference(ready.reference, examples, progress, ranks)
    module = ready.policy.module.eval()
    stepper = Stepper(
        module,
        objective,
        ready.reference if objective.needs_reference else None,
        settings.training.max_tokens,
        ranks,
    )
    rows: list[dict[str, Any]] = []

    def observe(pack: Pack, responses: Responses, view: View, terms: tuple[Term, ...]) -> None:
        del view
        rows.extend(example_rows(objective, pack, responses, terms))
        progress("score", len(rows), len(examples))

    result = stepper.evaluate(examples, observe)
    if per_example is not None:
        order = {e.id: i for i, e in enumerate(examples)}
        rows.sort(key=lambda row: order[row["id"]])
        write_text(per_example, "".join(json.dumps(finite_json(row), ensure_ascii=False) + "\n" for row in rows))
    return {
        "objective": settings.objective_title,
        "num_examples": len(examples),
        "loss": result.loss,
        "metrics": dict(result.metric_sums.means()),
    }


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
