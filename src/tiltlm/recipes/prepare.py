"""The first part of every recipe: load the model, the data in the objective's shape, and the reference."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tiltlm.core import DataError, Example, Tree, build_trees
from tiltlm.core.logps import OF_REFERENCE
from tiltlm.core.notes import Note
from tiltlm.data import DataSettings, Encoder, PreferenceData, load_data
from tiltlm.data.cache.fingerprints import prompt_numbers
from tiltlm.data.cache.lazy import Joined, Selection
from tiltlm.diagnostics.step_metrics import MAX_SOURCES
from tiltlm.distributed import Ranks
from tiltlm.distributed.sharding import Sharding
from tiltlm.evaluation.alike_pairs import leave_out_alike
from tiltlm.evaluation.samples import Draw
from tiltlm.logprobs.experts import experts_per_token
from tiltlm.models import Loaded, Policy, Scorer, limit_of_ids, load_policy, load_scorer
from tiltlm.objectives import Objective
from tiltlm.objectives.terms import reads_scores
from tiltlm.recipes.progress import ProgressCallback
from tiltlm.recipes.run_settings import RunSettings, columns_read
from tiltlm.reference import Reference, ReferenceSettings, build_reference, model_digest
from tiltlm.sampling import sample

log = logging.getLogger(__name__)

EVAL_FRACTION = 0.1
"""Share of the prompts that a run holds out by default."""
TOO_FEW_TO_HOLD_OUT = frozenset({"nothing_held_out", "no_rows_left", "prompt_above_half", "one_label"})
"""Codes of errors that may come from holding out a share of very few prompts."""
DETAILS = frozenset(
    {"layout", "precision", "attention_route", "compiled", "end_tokens", "score_position"}
    | {"token_lengths", "response_end", "chat_template"}
)
"""Codes of notes that `--verbose` shows and log.txt holds."""
CHUNK = 50_000
"""Number of examples whose trees are in memory at the same time."""


@dataclass(frozen=True)
class Prepared:
    """All parts of a run before its first step."""

    objective: Objective
    policy: Policy | Scorer
    """The model to train: a policy or a reward model."""
    data: PreferenceData
    reference: Reference
    untrained: Reference | None
    """The policy as loaded, if it can still be computed after training: an adapter on frozen weights; else None."""
    model_digest: str
    """Digest of the policy's weights as loaded."""
    draw: Draw = sample
    """What draws samples of the policy with its present weights."""

    @property
    def examples(self) -> Sequence[Example]:
        """Training and held-out examples."""
        return Joined(self.data.train, self.data.held_out)

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources that metrics are divided by; none if there is only one, or more than `MAX_SOURCES`."""
        names = tuple(self.data.sources)
        return names if 2 <= len(names) <= MAX_SOURCES else ()

    @property
    def sampling_ends(self) -> tuple[int, ...]:
        """Tokens at which a sample ends: the model's end tokens and the one that ends responses in this data."""
        return tuple(sorted({*self.policy.end_token_ids, self.data.end_token_id}))


def window_of(policy: Loaded) -> int | None:
    """Return the context window of a model in tokens; None if its configuration does not state it."""
    window: int | None = getattr(policy.module.config.get_text_config(), "max_position_embeddings", None)
    return window


def encoder_of(policy: Loaded) -> Encoder:
    """Return the encoder of a model: its tokenizer, end token and context window."""
    return Encoder(
        policy.tokenizer,
        policy.end_token_id,
        window_of(policy),
        num_embeddings=limit_of_ids(len(policy.module.get_input_embeddings().weight), policy.tokenizer),
        reads_whole=isinstance(policy, Scorer),
    )


def prepare(settings: RunSettings, ranks: Ranks, sharding: Sharding | None = None) -> Prepared:
    """Load model and data, build the reference, and log what was decided. Nothing is written.

    Args:
        settings: Model, data, objective and reference are used; of training, `max_tokens` and `router_aux_loss_coef`.
        ranks: The processes of the run, which all call this function together.
        sharding: How they share the model; None: each loads all of it.

    Raises:
        ConfigError: a setting is unknown, missing or has no effect.
        DataError: the data cannot be used.
        ModelError: the model cannot be used.
    """
    objective = settings.build_objective()
    note_all(settings.objective_notes)
    load = load_scorer if reads_scores(objective) else load_policy
    policy: Policy | Scorer = load(settings.model, ranks.device, sharding=sharding)
    note_all(policy.notes)
    if settings.training.router_aux_loss_coef > 0:
        experts_per_token(policy.module.bare_model)  # raises, before the data is read, if the model has no experts
    data = load_for(objective, settings.data, encoder_of(policy), settings.reference.reads_columns)
    if settings.data.max_ches is not None and isinstance(policy, Policy):
        data = leave_out_alike(policy.module, data, settings.data.max_ches, settings.training.max_tokens, ranks)
    note_all(data.accounting.lines())
    note_all([*data.notes, *([] if data.verdict is None else [data.verdict])])
    return name_reference(settings, objective, policy, data)


def load_for(
    objective: Objective, settings: DataSettings, encoder: Encoder, use_reference_columns: bool = False
) -> PreferenceData:
    """Load data as the examples that an objective trains on, with partners if its statistic reads them.

    If the settings do not say what to hold out, it is `EVAL_FRACTION` of the prompts, or nothing if these are too few.

    Raises:
        ConfigError: a setting has no effect.
        DataError: the data cannot be used.
    """

    def load(settings: DataSettings) -> PreferenceData:
        reads = columns_read(objective)
        return load_data(settings, encoder, objective.shape, **reads, use_reference_columns=use_reference_columns)

    if settings.eval is not None or settings.eval_fraction is not None:
        return load(settings)
    try:
        data = load(replace(settings, eval_fraction=EVAL_FRACTION))
        note = Note(
            f"{len(data.held_out):,} of {data.accounting.kept:,} rows are held out to measure what training does "
            f"(data.eval_fraction={EVAL_FRACTION:g} by default; 0 trains on all rows)",
            code="held_out",
        )
    except DataError as error:
        if error.code not in TOO_FEW_TO_HOLD_OUT:
            raise
        data = load(replace(settings, eval_fraction=0.0))
        note = Note(
            "nothing is held out, because the data has too few prompts, so the report cannot say whether training "
            "helped; name held-out data (data.eval=FILE)",
            code="nothing_held_out",
        )
    return replace(data, notes=(*data.notes, note))


def name_reference(
    settings: RunSettings, objective: Objective, policy: Policy | Scorer, data: PreferenceData
) -> Prepared:
    """Build the reference and log it with its digest. A reward model has none."""
    if isinstance(policy, Scorer):
        return Prepared(objective, policy, data, Reference(), None, model_digest(policy.module))
    max_tokens = settings.training.max_tokens
    reference = build_reference(
        settings.reference,
        policy,
        is_needed=objective.needs_reference,
        max_tokens=max_tokens,
        live=bool(objective.extras & OF_REFERENCE),
    )
    log.debug("reference: %s", reference, extra={"event": "reference", "reference": str(reference)})
    untrained = None
    if policy.has_adapter:
        as_loaded = ReferenceSettings("initial", cache=False)
        untrained = build_reference(as_loaded, policy, is_needed=True, max_tokens=max_tokens)
    return Prepared(objective, policy, data, reference, untrained, model_digest(policy.module))


def ensure_reference(
    reference: Reference, examples: Sequence[Example], progress: ProgressCallback, ranks: Ranks
) -> None:
    """Compute every missing reference log-probability before the weights change, and recheck a few stored ones.

    Each process computes its share of what is missing in the store, and then reads the shares of the others there.
    """
    hits = computed = 0
    for chunk in chunks(examples):
        own = all_trees(chunk)[ranks.rank :: ranks.size]
        before = computed
        found = reference.ensure(own, lambda done, total: progress("reference", before + done, before + total))  # noqa: B023
        hits, computed = hits + found.num_hits, computed + found.num_computed
    num_hits, num_computed = ranks.sum([hits, computed])  # the sum returns only when all processes have stored theirs
    if ranks.size > 1:
        for chunk in chunks(examples):
            reference.ensure(all_trees(chunk))
    if num_hits or num_computed:
        log.debug(
            "reference: %d sequences read from the store, %d computed",
            num_hits,
            num_computed,
            extra={"event": "reference_pass", "stored": num_hits, "computed": num_computed},
        )
    audited = reference.audit()
    if audited:
        log.debug("reference: %d stored sequences were computed again and are equal within noise", audited)
    if ranks.is_first:
        reference.tidy()


def chunks(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    """Yield the examples in parts of at most `CHUNK`, sorted by prompt if there is more than one part."""
    if len(examples) <= CHUNK:
        yield examples
        return
    order = np.argsort(prompt_numbers(examples), kind="stable")
    for start in range(0, len(order), CHUNK):
        yield Selection(examples, order[start : start + CHUNK].tolist())


def all_trees(examples: Sequence[Example]) -> list[Tree]:
    """Return the trees of the responses, and of the partners if the examples have them."""
    return [*build_trees(examples)[0], *(build_trees(examples, "partners")[0] if examples[0].partners else ())]


def note_all(lines: Iterable[str]) -> None:
    """Log each line as one note; those about how tiltlm works, not about the user's run, as details."""
    for line in lines:
        code = getattr(line, "code", None)
        log.log(logging.DEBUG if code in DETAILS else logging.INFO, "%s", line, extra={"event": code})
