"""Scoring: loss and metrics of given data under a given policy and reference, as one step, without training."""

import json
from pathlib import Path
from typing import Any

from tiltlm.core import ConfigError, ResponseLogps, ResponseScores, View
from tiltlm.distributed import Ranks
from tiltlm.objectives import Objective, Term, example_losses
from tiltlm.recipes.prepare import ensure_reference, prepare
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.storage.files import write_bytes
from tiltlm.training import Stepper
from tiltlm.training.packs import Pack


def score(
    settings: RunSettings, *, per_example: Path | None = None, progress: ProgressCallback = silent
) -> dict[str, Any]:
    """Loss and metrics of the whole data as one step.

    Args:
        settings: model, data, objective and reference; `output` and `training` are not used, but for `max_tokens`.
        per_example: a JSON Lines file to write, a line per example: `id`, `loss`, and for every response `role`,
            `logps` and `ref_logps` (nats, summed over the response), `num_tokens`; of a reward model `score` instead.
        progress: told of the reference pass.

    Returns:
        `objective`, `num_examples`, `loss`, `metrics` (TRL's names).

    Raises:
        ConfigError: a reference is needed and none was named: what a fresh policy is compared with must be said.
    """
    objective = settings.build_objective()
    if objective.needs_reference and settings.reference.name == "auto":
        raise ConfigError(
            f"{settings.objective_title} compares the policy with a reference, and none is named; "
            "give --reference FOLDER, or base (adapters off), columns (of the data) or initial (the policy itself)",
            code="needs_reference",
            key="reference.name",
        )
    if settings.reference.name == "moving":
        raise ConfigError(
            "reference.name is 'moving' and scoring takes no steps, so it would stay where it starts; name 'initial'",
            code="no_effect",
            key="reference.name",
        )
    if per_example is not None and not per_example.absolute().parent.is_dir():
        raise ConfigError(
            f"--per-example {per_example}: there is no folder {per_example.parent}; make it first",
            code="no_such_path",
            key="--per-example",
        )
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

    def observe(pack: Pack, responses: ResponseLogps, view: View, terms: tuple[Term, ...]) -> None:
        del view
        rows.extend(example_rows(objective, pack, responses, terms))
        progress("score", len(rows), len(examples))

    outcome = stepper.evaluate(examples, observe)
    if per_example is not None:
        order = {e.id: i for i, e in enumerate(examples)}
        rows.sort(key=lambda row: order[row["id"]])
        write_bytes(per_example, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    metrics = dict(outcome.metric_sums.means())
    return {
        "objective": settings.objective_title,
        "num_examples": len(examples),
        "loss": outcome.loss,
        "metrics": metrics,
    }


def example_rows(
    objective: Objective, pack: Pack, responses: ResponseLogps, terms: tuple[Term, ...]
) -> list[dict[str, Any]]:
    """One row an example: its loss as if alone (a baseline stays the whole step's), and what each response scored."""
    alone = [
        objective.view.of([example], [slot]).counts() for example, slot in zip(pack.examples, pack.slots, strict=True)
    ]
    losses = example_losses(terms, alone).tolist()
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


def response_columns(objective: Objective, responses: ResponseLogps) -> dict[str, list[float | None]]:
    """What is written of each response."""
    if isinstance(responses, ResponseScores):
        return {"score": responses.scores.tolist()}
    logps = responses.seq_logps.tolist()
    ref_logps = responses.ref_sums.tolist() if objective.needs_reference else [None] * len(logps)
    return {"logps": logps, "ref_logps": ref_logps}
