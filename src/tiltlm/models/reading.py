"""Reading of models with transformers: configuration and weights of what the settings name, or an error that says why.

`loading.py` makes a policy or a reward model of what is read here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from safetensors import SafetensorError

from tiltlm.core.errors import ConfigError, ModelError
from tiltlm.distributed.sharding import Sharding
from tiltlm.models.folders import Located, check_reachable, locate, place_of
from tiltlm.models.foreign_code import without_pickles
from tiltlm.models.kinds import refuse_other_kinds
from tiltlm.models.model_settings import ModelSettings
from tiltlm.models.sharded.skeleton import Skeleton, load_skeleton
from tiltlm.storage.hub import commit_of

DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    RuntimeError,
    SafetensorError,
)
"""Errors of transformers for a folder whose files are missing, damaged or of another kind."""


def located_of(settings: ModelSettings, key: str) -> Located:
    """Find the parts of the model, and refuse a revision of a folder."""
    located = locate(settings.path, settings.adapter, key)
    if located.is_folder and settings.revision is not None:
        raise ConfigError(
            f"model.revision={settings.revision} has no effect: {key}={settings.path} is a folder; remove the revision",
            code="no_effect",
            key="model.revision",
        )
    if located.is_folder:
        return located
    check_reachable(located)
    return replace(located, commit=commit_of(located.base, "model", settings.revision))


def revision_of(located: Located, settings: ModelSettings) -> str | None:
    """Return what is loaded of a name on the hub: always the same commit, also if its branch moves meanwhile."""
    return None if located.is_folder else located.commit or settings.revision


def read_config(located: Located, settings: ModelSettings, **keywords: Any) -> Any:
    """Return transformers' configuration of the model; `keywords` override its values."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(
        located.base,
        revision=revision_of(located, settings),
        trust_remote_code=settings.trust_remote_code,
        **keywords,
    )


def read_language_model(
    located: Located, settings: ModelSettings, sharding: Sharding | None, has_weights: bool = True
) -> tuple[Any, Skeleton | None]:
    """Load a causal language model; return it and its shards. `has_weights` as for `load_policy`."""
    from transformers import AutoModelForCausalLM

    model, skeleton, missing = _load_model(AutoModelForCausalLM, located, settings, sharding, has_weights)
    _refuse_incomplete(model, missing, located)
    return model, skeleton


def read_classifier(
    located: Located, settings: ModelSettings, sharding: Sharding | None, has_weights: bool = True
) -> tuple[Any, Skeleton | None, bool]:
    """Load a sequence classifier with one label; return it, its shards, and whether its head is new.

    `has_weights` as for `load_policy`.
    """
    from transformers import AutoModelForSequenceClassification

    with torch.random.fork_rng():
        torch.manual_seed(0)  # so that a new head is always the same
        kind = AutoModelForSequenceClassification
        model, skeleton, missing = _load_model(kind, located, settings, sharding, has_weights, num_labels=1)
    _refuse_incomplete(model, [name for name in missing if name != "score.weight"], located)
    if missing and skeleton is not None:
        skeleton.replace("score.weight", _new_head(model))
    return model, skeleton, bool(missing)


def _new_head(model: Any) -> torch.Tensor:
    """Return the weight of the score head that transformers draws where the files have none, the same in all ranks."""
    shape, dtype = model.score.weight.shape, model.score.weight.dtype
    head = torch.nn.Linear(shape[1], shape[0], bias=False, device="meta", dtype=dtype).to_empty(device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model._init_weights(head)
    return head.weight.detach()


def _load_model(
    kind: Any,
    located: Located,
    settings: ModelSettings,
    sharding: Sharding | None,
    has_weights: bool,
    **keywords: Any,
) -> tuple[Any, Skeleton | None, list[str]]:
    """Load a model with this class of transformers; return it, its shards, and the names of missing tensors."""
    options: dict[str, Any] = {
        "revision": revision_of(located, settings),
        "dtype": getattr(torch, settings.dtype),
        "use_safetensors": True,
        "trust_remote_code": settings.trust_remote_code,
        **keywords,
    }
    with explained(located):
        config = read_config(located, settings, **keywords)
        refuse_other_kinds(config, located, is_scorer="num_labels" in keywords)
        with without_pickles(located.key):
            if sharding is not None:
                skeleton, info = load_skeleton(kind, located.base, config, sharding, **options)
                return skeleton.model, skeleton, sorted(info["missing_keys"])
            if not has_weights:
                options["device_map"] = "meta"
            model, info = kind.from_pretrained(located.base, output_loading_info=True, **options)
    return model, None, sorted(info["missing_keys"])


@contextmanager
def explained(located: Located) -> Iterator[None]:
    """Explain errors of transformers in the block: the model could not be loaded."""
    try:
        yield
    except ModelError:
        raise
    except DAMAGED as error:
        raise ModelError(
            f"{place_of(located, located.base)}: the model could not be loaded: {first_line(error)}",
            code="model_not_readable",
            key=located.key,
        ) from error


def _refuse_incomplete(model: Any, missing: list[str], located: Located) -> None:
    if missing:  # transformers would use random numbers instead
        raise ModelError(
            f"{place_of(located, located.base)}: {len(missing)} tensors of {type(model).__name__} are missing in the "
            f"weights ({', '.join(missing[:3])}, …); check that it is such a model, and that the copy is complete",
            code="missing_tensors",
            key=located.key,
        )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class if it has none; of foreign code what can be done."""
    lines = str(error).strip().splitlines()
    line = lines[0].strip() if lines else type(error).__name__
    if "trust_remote_code" in str(error):
        line += (
            " It is never run from a folder. Name a model of a class that transformers has, or allow the code of a "
            "name on the hub at a revision: model.trust_remote_code, model.revision"
        )
    return line
