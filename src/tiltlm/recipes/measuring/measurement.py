"""Measure the policy before the first step and after the last: on held-out examples and on fresh samples.

Both measurements use the same examples and prompts, so that their difference comes from training. KL is measured on the
policy's own samples, to the objective's reference. If the objective has no reference or one that moves, KL is measured
to the untrained policy.

All processes of a run measure together. Each runs some of the forwards and draws the samples of some of the prompts.
All of them get all results.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tiltlm.core import Example, TokenIds
from tiltlm.data.cache.fingerprints import prompt_numbers
from tiltlm.diagnostics import Interval
from tiltlm.distributed import Ranks
from tiltlm.evaluation import (
    ExampleRow,
    HeldOut,
    SampleComparison,
    SampleSet,
    compare_held_out,
    compare_samples,
    draw_samples,
    fit_length_rule,
    measure_examples,
    sample_texts,
)
from tiltlm.links import Denoised, Logistic, Smoothed
from tiltlm.models import Policy, Scorer, load_policy
from tiltlm.objectives import Demonstration, Objective, Pairwise, WeightedSum
from tiltlm.recipes.prepare import Prepared, window_of
from tiltlm.recipes.progress import ProgressCallback
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.reference import Reference, ReferenceSettings, build_reference
from tiltlm.reference.model import ModelReference
from tiltlm.reference.weights import other_weights

log = logging.getLogger(__name__)

TRAINING_ROWS = 500
"""Approximate number of training examples on which ranking accuracy is measured at the end."""


@dataclass(frozen=True)
class Measurement:
    """Measurements of a policy at one moment, on held-out data."""

    rows: tuple[ExampleRow, ...]
    """Held-out examples; empty if there are none."""
    draws: SampleSet | None
    """Samples for held-out prompts; None if there are no prompts, or the policy is a reward model."""


def measure_policy(
    ready: Prepared, settings: RunSettings, label: str, progress: ProgressCallback, ranks: Ranks, *, trained: bool
) -> Measurement:
    """Measure the policy with its present weights.

    Args:
        ready: Model, data and reference.
        settings: All settings of the run.
        label: Label of the progress display during sampling.
        progress: Called during sampling.
        ranks: The processes of the run, which all call this function together.
        trained: True if the weights have changed since they were loaded.
    """
    rows: tuple[ExampleRow, ...] = ()
    max_tokens = settings.training.max_tokens
    if ready.data.held_out:
        progress("measure held-out data", 0, 0)
        reference = margin_reference(ready, settings, trained=trained)
        module, held_out = ready.policy.module, ready.data.held_out
        rows = measure_examples(module, held_out, ready.objective, reference, max_tokens, ranks)
    prompts = sampled_prompts(ready, settings, announce=not trained)
    if not prompts or isinstance(ready.policy, Scorer):  # a reward model gives no samples
        return Measurement(rows, None)
    draws = draw_samples(
        ready.policy.module,
        prompts,
        n=settings.evaluation.num_samples,
        max_new_tokens=settings.evaluation.max_new_tokens,
        seed=settings.evaluation.seed,
        end_token_ids=ready.sampling_ends,
        reference=None if not trained and starts_at_kl_reference(ready) else kl_reference(ready, settings),
        max_tokens=max_tokens,
        progress=lambda done, total: progress(label, done, total),
        ranks=ranks,
        draw=ready.draw,
    )
    return Measurement(rows, draws)


def sampled_prompts(ready: Prepared, settings: RunSettings, *, announce: bool) -> list[TokenIds]:
    """Return the first distinct held-out prompts that leave room for a sample in the model's context window.

    Args:
        ready: Model and data.
        settings: All settings of the run.
        announce: Log it if no prompt leaves room.
    """
    window = window_of(ready.policy)
    room = np.inf if window is None else window - settings.evaluation.max_new_tokens
    distinct = {example.prompt_ids.tobytes(): example.prompt_ids for example in ready.data.held_out}
    fitting = [ids for ids in distinct.values() if len(ids) <= room]
    if announce and settings.evaluation.num_prompts and distinct and not fitting:
        log.info(
            "no samples: every held-out prompt with %d new tokens is longer than the context window of %s tokens; "
            "lower evaluation.max_new_tokens",
            settings.evaluation.max_new_tokens,
            window,
            extra={"event": "no_samples"},
        )
    return fitting[: settings.evaluation.num_prompts]


def starts_at_kl_reference(ready: Prepared) -> bool:
    """Return whether KL is measured to the untrained policy, so that the KL before training is 0."""
    return ready.reference.starts_as_policy or not ready.reference.has_weights


def margin_reference(ready: Prepared, settings: RunSettings, *, trained: bool) -> Reference | None:
    """Return the reference of the rewards: the objective's, or the untrained policy once that one has moved.

    After a hard update every margin to a moving reference is 0, whatever was learned.
    """
    if not ready.objective.needs_reference:
        return None
    return kl_reference(ready, settings) if trained and ready.reference.moves else ready.reference


def kl_reference(ready: Prepared, settings: RunSettings) -> Reference:
    """Return the reference of the KL, which can score new samples; their log-probabilities are not stored.

    After full fine-tuning the untrained weights are no longer in memory. They are loaded again, for this measurement,
    as the policy was: whole, or in shards.
    """
    assert isinstance(ready.policy, Policy), "a reward model has no KL"
    if not starts_at_kl_reference(ready):
        uncached = ReferenceSettings(ready.reference.name, revision=settings.reference.revision, cache=False)
        return build_reference(uncached, ready.policy, is_needed=True, max_tokens=settings.training.max_tokens)
    if ready.untrained is not None:
        return ready.untrained
    policy = ready.policy
    loaded_again = load_policy(settings.model, policy.module.device, policy.choice, sharding=policy.sharding)
    return ModelReference("initial", other_weights(loaded_again.module), None, settings.training.max_tokens)


def held_out_change(ready: Prepared, before: Measurement, after: Measurement) -> HeldOut | None:
    """Compare the held-out measurements before and after training; None if nothing was held out."""
    if not after.rows:
        return None
    return compare_held_out(
        before.rows,
        after.rows,
        fit_length_rule(ready.data.train),
        starts_at_reference=ready.objective.needs_reference and ready.reference.starts_as_policy,
        imitates=isinstance(ready.objective, Demonstration),
        log_odds=reads_log_odds(ready.objective),
    )


def held_out_rows(ready: Prepared, before: Measurement, after: Measurement) -> list[dict[str, Any]]:
    """Return one row per response of a held-out example: its texts, and its values before and after training."""
    encoder = ready.data.encoder
    return [
        {
            "id": example.id,
            "role": role,
            "prompt": encoder.plain_text(example.prompt_ids),
            "response": encoder.plain_text(response.token_ids),
            "num_tokens": new.num_tokens,
            **({} if old.logps is None else {"logps_before": old.logps, "logps_after": new.logps}),
            "reward_before": old.reward,
            "reward_after": new.reward,
        }
        for example, first, last in zip(ready.data.held_out, before.rows, after.rows, strict=True)
        for role, response, old, new in zip(
            example.roles, example.responses, first.responses, last.responses, strict=True
        )
    ]


def reads_log_odds(objective: Objective) -> bool:
    """Return whether the objective (of a sum, the first one) compares rewards by a logistic link."""
    logged = objective.objectives[0] if isinstance(objective, WeightedSum) else objective
    link = logged.link if isinstance(logged, Pairwise) else None
    return isinstance(link.link if isinstance(link, Smoothed | Denoised) else link, Logistic)


def sample_change(
    ready: Prepared, before: Measurement, after: Measurement, gold: tuple[ArrayLike, ArrayLike] | None = None
) -> SampleComparison | None:
    """Compare the samples before and after training; None if there are none.

    Args:
        ready: The prepared run.
        before: The measurement before training.
        after: The measurement after training.
        gold: [P, n] gold rewards of the samples before and after training, if they are known.
    """
    if before.draws is None or after.draws is None:
        return None

    def decode(ids: TokenIds) -> str:
        return str(ready.policy.tokenizer.decode(ids.tolist(), skip_special_tokens=True))

    texts = sample_texts(before.draws, after.draws, decode, gold=gold)
    return compare_samples(before.draws, after.draws, texts, starts_at_reference=starts_at_kl_reference(ready))


def every_other_prompt(examples: Sequence[Example], step: int) -> list[Example]:
    """Return all examples of every `step`-th prompt; prompts are counted by first appearance."""
    return [examples[row] for row in np.flatnonzero(prompt_numbers(examples) % step == 0).tolist()]


def training_accuracy(ready: Prepared, settings: RunSettings, ranks: Ranks) -> Interval | None:
    """Return the ranking accuracy on evenly chosen training examples; None if the data has no preferences.

    All processes call it together.
    """
    chosen = every_other_prompt(ready.data.train, max(1, len(ready.data.train) // TRAINING_ROWS))
    reference = margin_reference(ready, settings, trained=True)
    max_tokens = settings.training.max_tokens
    rows = measure_examples(ready.policy.module, chosen, ready.objective, reference, max_tokens, ranks)
    contrast = compare_held_out(rows, rows, fit_length_rule(chosen)).contrast
    return None if contrast is None else contrast.accuracy.after
