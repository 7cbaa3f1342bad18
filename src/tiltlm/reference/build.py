"""Build the reference of a run from its settings, or explain in an error why that is not possible."""

from typing import Any

from tiltlm.core.errors import ModelError
from tiltlm.distributed.ranks import Ranks
from tiltlm.models import ModelSettings, Policy, load_policy
from tiltlm.reference.digests import numeric_path
from tiltlm.reference.model import ModelReference
from tiltlm.reference.moving import MovingReference
from tiltlm.reference.reference import ColumnReference, Reference
from tiltlm.reference.reference_settings import ReferenceSettings, check_reference, store_folder
from tiltlm.reference.store.store import ReferenceStore
from tiltlm.reference.weights import Weights, base_weights, initial_weights, other_weights

LARGER = 4
"""Token budget of a reference pack, in units of training's: a reference forward keeps no activations for a backward."""


def build_reference(
    settings: ReferenceSettings, policy: Policy, *, is_needed: bool, max_tokens: int, live: bool = False
) -> Reference:
    """Build the reference of a run, before anything trains and before a checkpoint's weights are loaded.

    Args:
        settings: Its name, and where its log-probabilities are stored.
        policy: The policy as loaded, which is what `initial` means.
        is_needed: True if the objective compares with a reference (`objective.needs_reference`).
        max_tokens: Token budget of a pack in training.
        live: True if the objective also reads whole distributions (`objective.extras`). They are not stored: the
            reference runs at every step, on a copy of the weights if they are trained, and the same forward gives its
            log-probabilities.

    Raises:
        ConfigError: the objective needs a reference and none is named, or one is named and not needed.
        ModelError: the folder of another model cannot be used, or its tokenizer differs.
    """
    check_reference(settings, is_needed=is_needed, live=live)
    name = settings.name
    if not is_needed:
        return Reference()
    if settings.reads_columns:
        return ColumnReference()
    if settings.moves:
        assert settings.rate is not None, "checked by the settings"
        assert settings.period is not None, "checked by the settings"
        return MovingReference(policy.module, settings.rate, settings.period, LARGER * max_tokens)
    is_stored = settings.cache and not live
    module, keep_copy = policy.module, not is_stored
    if name in ("auto", "initial"):
        name, weights = "initial", initial_weights(module, keep_copy)
    elif name == "base":
        weights = base_weights(module, keep_copy)
    else:
        weights = other_weights(_load(settings, policy).module)
    store = None
    if is_stored:
        limit = None if settings.store_limit is None else round(settings.store_limit * 1e9)
        store = ReferenceStore(store_folder(settings), weights.digest, numeric_path(weights.policy), limit)
    return ModelReference(name, weights, store, LARGER * max_tokens, _ranks_of(policy))


def _ranks_of(policy: Policy) -> Ranks | None:
    """Return the processes that share the weights of a policy."""
    return None if policy.sharding is None else policy.sharding.ranks


def build_round_references(
    settings: ReferenceSettings, policy: Policy, *, is_needed: bool, rate: float | None, max_tokens: int
) -> tuple[Reference, ModelReference]:
    """Build the references of a run that draws new samples while it trains. Nothing is stored on disk.

    Args:
        settings: Only `name` and `revision` are used.
        policy: The policy as loaded.
        is_needed: True if the objective compares with a reference, or if it draws samples.
        rate: How far the reference moves toward the policy at each call of its method `move`; None: it is fixed.
        max_tokens: Token budget of a pack in training.

    Returns:
        The objective's reference, and the policy before the first round, on a copy of its weights if they are trained.

    Raises:
        ConfigError: the objective needs another kind of reference.
        ModelError: the folder of another model cannot be used, or its tokenizer differs.
    """
    check_reference(settings, is_needed=is_needed, live=False)

    def in_memory(name: str, weights: Weights) -> ModelReference:
        store = ReferenceStore(None, weights.digest, numeric_path(weights.policy))
        return ModelReference(name, weights, store, LARGER * max_tokens, _ranks_of(policy))

    initial = in_memory("initial", initial_weights(policy.module, keep_copy=True))
    if not is_needed:
        return Reference(), initial
    if rate is not None:
        return MovingReference(policy.module, rate, None, LARGER * max_tokens), initial
    if settings.name in ("auto", "initial"):
        return initial, initial
    if settings.name == "base":
        return in_memory("base", base_weights(policy.module, keep_copy=True)), initial
    return in_memory(settings.name, other_weights(_load(settings, policy).module)), initial


def _load(settings: ReferenceSettings, policy: Policy) -> Policy:
    """Load another model on the policy's numeric path."""
    path, revision = settings.name, settings.revision
    model = ModelSettings(
        path,
        revision,
        dtype=policy.settings.dtype,
        precision=policy.module.precision,
        layout=policy.settings.layout,
    )
    loaded = load_policy(model, policy.module.device, key="reference.name", sharding=policy.sharding)
    _refuse_other_tokens(path, loaded.tokenizer, policy.tokenizer)
    return loaded


def _refuse_other_tokens(path: str, tokenizer: Any, policy_tokenizer: Any) -> None:
    """Raise if a token of the policy has another id, or none, in the reference."""
    known = tokenizer.get_vocab()
    differing = [token for token, i in policy_tokenizer.get_vocab().items() if known.get(token) != i]
    if differing:
        raise ModelError(
            f"reference.name: {len(differing)} of the policy's tokens, such as {differing[0]!r}, have another id or"
            f" none in {path}. A reference reads the policy's token ids: name a model with the same tokenizer.",
            code="other_tokenizer",
            key="reference.name",
        )
