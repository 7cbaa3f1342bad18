"""What every recipe begins with: a model, data cut to its tokenizer and the objective's shape, and the reference."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tiltlm.core import Example, Tree, build_trees
from tiltlm.core.logps import OF_REFERENCE
from tiltlm.data import Encoder, PreferenceData, load_data
from tiltlm.data.cache.fingerprints import prompt_numbers
from tiltlm.data.cache.lazy import Joined, Selection
from tiltlm.distributed import Ranks
from tiltlm.logprobs.experts import experts_per_token
from tiltlm.models import Loaded, Policy, Scorer, load_policy, load_scorer
from tiltlm.objectives import Objective
from tiltlm.objectives.terms import reads_scores
from tiltlm.recipes.methods import toy_batch
from tiltlm.recipes.progress import ProgressCallback
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.reference import Reference, ReferenceSettings, build_reference, model_digest, no_reference

log = logging.getLogger(__name__)

CHUNK = 50_000
"""Examples whose trees are in memory at once."""


@dataclass(frozen=True)
class Prepared:
    """A run before its first step."""

    objective: Objective
    policy: Policy | Scorer
    """What is trained: a policy, or a reward model."""
    data: PreferenceData
    reference: Reference
    untrained: Reference | None
    """The policy as loaded, able to compute after training too: where it is an adapter on frozen weights."""
    model_digest: str
    """Of the policy's weights as loaded."""

    @property
    def examples(self) -> Sequence[Example]:
        """Training and held-out examples."""
        return Joined(self.data.train, self.data.held_out)

    @property
    def sampling_ends(self) -> tuple[int, ...]:
        """Tokens at which a sample ends: the model's own, and what ends a response in this data."""
        return tuple(sorted({*self.policy.end_token_ids, self.data.end_token_id}))


def window_of(policy: Loaded) -> int | None:
    """Longest sequence the model was made for; None where its configuration does not say."""
    window: int | None = getattr(policy.module.config.get_text_config(), "max_position_embeddings", None)
    return window


def encoder_of(policy: Loaded) -> Encoder:
    """The tokenizer of a policy, with its decisions made."""
    return Encoder(policy.tokenizer, policy.end_token_id, window_of(policy))


def prepare(settings: RunSettings, device: torch.device) -> Prepared:
    """Load model and data and name the reference, saying what was decided on the way. Nothing is written.

    Args:
        settings: model, data, objective and reference are used; of training, the token budget.
        device: where the model goes.

    Raises:
        ConfigError, DataError, ModelError: something is missing, unknown or unusable.
    """
    objective = settings.build_objective()
    note_all(settings.objective_notes)
    objective(
        *toy_batch(objective)
    )  # what reads log-probabilities of a reward model, or scores of a policy, says so here
    load = load_scorer if reads_scores(objective) else load_policy
    policy: Policy | Scorer = load(settings.model, device)
    note_all(policy.notes)
    if settings.training.router_aux_loss_coef > 0:
        experts_per_token(policy.module.bare_model)  # refused before the data are read
    data = load_data(
        settings.data,
        encoder_of(policy),
        objective.shape,
        needs=objective.needs,
        uses=objective.uses,
        needs_partners=objective.statistic is not None and objective.statistic.of == "partners",
        use_reference_columns=settings.reference.name == "columns",
    )
    note_all(data.accounting.lines())
    note_all(data.notes)
    return name_reference(settings, objective, policy, data)


def name_reference(
    settings: RunSettings, objective: Objective, policy: Policy | Scorer, data: PreferenceData
) -> Prepared:
    """The last piece: the reference, named and printed with its digest; a reward model has none."""
    if isinstance(policy, Scorer):
        return Prepared(objective, policy, data, no_reference(settings.reference), None, model_digest(policy.module))
    max_tokens = settings.training.max_tokens
    reference = build_reference(
        settings.reference,
        policy,
        is_needed=objective.needs_reference,
        max_tokens=max_tokens,
        live=bool(objective.extras & OF_REFERENCE),
    )
    log.info("reference: %s", reference, extra={"event": "reference", "reference": str(reference)})
    untrained = None
    if policy.has_adapter:
        as_loaded = ReferenceSettings("initial", cache=False)
        untrained = build_reference(as_loaded, policy, is_needed=True, max_tokens=max_tokens)
    return Prepared(objective, policy, data, reference, untrained, model_digest(policy.module))


def ensure_reference(
    reference: Reference, examples: Sequence[Example], progress: ProgressCallback, ranks: Ranks
) -> None:
    """Have every reference log-probability at hand before weights move, and recheck a few that were stored.

    Each process computes its share of what the store has not, and then finds the others' shares there.
    """
    hits = computed = 0
    for chunk in chunks(examples):
        own = all_trees(chunk)[ranks.rank :: ranks.size]
        before = computed
        found = reference.ensure(own, lambda done, total: progress("reference", before + done, before + total))  # noqa: B023
        hits, computed = hits + found.num_hits, computed + found.num_computed
    num_hits, num_computed = ranks.sum([hits, computed])  # only once all have stored theirs
    if ranks.size > 1:
        for chunk in chunks(examples):
            reference.ensure(all_trees(chunk))
    if num_hits or num_computed:
        log.info(
            "reference: %d sequences from the store, %d computed",
            num_hits,
            num_computed,
            extra={"event": "reference_pass", "stored": num_hits, "computed": num_computed},
        )
    audited = reference.audit()
    if audited:
        log.info("reference: %d stored sequences computed again, equal within noise", audited)
    if ranks.is_first:
        reference.tidy()


def chunks(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    """The examples, so many at a time that their trees fit into memory; those of one prompt next to each other."""
    if len(examples) <= CHUNK:
        yield examples
        return
    order = np.argsort(prompt_numbers(examples), kind="stable")
    for start in range(0, len(order), CHUNK):
        yield Selection(examples, order[start : start + CHUNK].tolist())


def all_trees(examples: Sequence[Example]) -> list[Tree]:
    """The trees of responses, and of partners where these examples have them."""
    return [*build_trees(examples)[0], *(build_trees(examples, "partners")[0] if examples[0].partners else ())]


def note_all(lines: Iterable[str]) -> None:
    """Say these, one a line."""
    for line in lines:
        log.info("%s", line)
