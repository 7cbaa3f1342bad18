"""Loading of policies and reward models: weights, tokenizer, adapter, numeric path and layout, each decided once.

`Loaded.notes` holds everything that a run prints about its model.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError

from tiltlm.core.errors import ConfigError, ModelError
from tiltlm.core.finite import not_finite
from tiltlm.core.forest import pack_trees
from tiltlm.core.notes import Note
from tiltlm.distributed.sharding import Sharding
from tiltlm.distributed.wrapping import is_sharded, local_part
from tiltlm.logprobs.checkpointing import enable_checkpointing
from tiltlm.logprobs.module import ForestModule
from tiltlm.logprobs.policy import PolicyModule
from tiltlm.logprobs.precision import Precision, choose_precision
from tiltlm.logprobs.scoring import ScoreModule
from tiltlm.logprobs.selfcheck import Choice, choose_layout, probe_trees
from tiltlm.models.adapters import put_adapter, put_alike
from tiltlm.models.folders import Located, check_reachable, locate, place_of
from tiltlm.models.foreign_code import without_pickles
from tiltlm.models.kinds import refuse_other_kinds
from tiltlm.models.model_settings import ModelSettings
from tiltlm.models.sharded.miniature import make_miniature
from tiltlm.models.sharded.skeleton import Skeleton, load_skeleton
from tiltlm.storage.hub import commit_of

log = logging.getLogger(__name__)

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


@dataclass(frozen=True, eq=False)
class Loaded:
    """A loaded model, ready for forwards, with the decisions about it."""

    module: ForestModule
    tokenizer: Any
    settings: ModelSettings
    choice: Choice
    """The layout, and the reason for it."""
    end_token_id: int
    """The token that is appended to responses given as text."""
    end_token_ids: tuple[int, ...]
    """Tokens that end a sampled response: the same, and those that the generation configuration names."""
    notes: tuple[Note, ...]
    """Sentences that a run prints about its model."""
    sharding: Sharding | None = None
    """The processes that share the module, which they must call together; None: this one has all of it."""
    commit: str | None = None
    """The commit of a name on the hub; None for a folder, or if it is unknown."""

    @property
    def has_adapter(self) -> bool:
        """True for a model with a PEFT adapter."""
        return hasattr(self.module.model, "peft_config")


@dataclass(frozen=True, eq=False)
class Policy(Loaded):
    """A language model."""

    module: PolicyModule


@dataclass(frozen=True, eq=False)
class Scorer(Loaded):
    """A reward model."""

    module: ScoreModule


def load_policy(
    settings: ModelSettings,
    device: torch.device | str | None = None,
    choice: Choice | None = None,
    key: str = "model.path",
    sharding: Sharding | None = None,
    add: Callable[[PolicyModule], None] | None = None,
) -> Policy:
    """Load a language model and decide once how it runs.

    Args:
        settings: The model, and how it runs.
        device: Its device; None means a CUDA device if there is one, else the CPU.
        choice: The layout of the same model, where it was loaded and checked before; None means to check it.
        key: The setting that names the model, for error messages.
        sharding: The processes that share the model, of which each then loads its part only; None: load all of it. All
            of them must call this function together.
        add: Adds layers to the module that are not of the model, such as the value head of a critic. It is called
            before the module is sharded.

    Raises:
        ModelError: the folder, tokenizer or architecture cannot be used; the message says what to do.
        ConfigError: a setting has no effect for this model.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    located = _locate(settings, key)
    if sharding is not None:
        choice = choice or _choose_by_miniature(AutoModelForCausalLM, located, settings, sharding)
    (base, skeleton), tokenizer = _load_language_model(located, settings, sharding), _load_tokenizer(located, settings)
    if located.adapter is not None and (Path(located.adapter) / "generation_config.json").exists():
        base.generation_config = GenerationConfig.from_pretrained(located.adapter)
    made = _make_ready(base, tokenizer, located, settings, device, choice, skeleton)
    module = PolicyModule(made.model, made.choice.layout, made.precision, made.choice.head, made.choice.trims)
    module.is_exact = made.choice.is_exact
    if add is not None:
        add(module)
    if skeleton is not None:
        _fill(skeleton, module, located, settings, () if module.value_head is None else (module.value_head,))
    notes = [*made.notes, *_prepare_kernels(module, settings)]
    end_token_id, end_token_ids = _end_tokens(tokenizer, base)
    names = ", ".join(repr(tokenizer.convert_ids_to_tokens(i)) for i in end_token_ids)
    ends = Note(
        f"a sampled response ends at {names}; a response given as text gets token {end_token_id} at its end",
        code="end_tokens",
    )
    notes.append(ends)
    return Policy(
        module, tokenizer, settings, made.choice, end_token_id, end_token_ids, tuple(notes), sharding, located.commit
    )


def load_scorer(
    settings: ModelSettings, device: torch.device | str | None = None, sharding: Sharding | None = None
) -> Scorer:
    """Load a reward model, or a language model with a new score head, and decide once how it runs.

    Args:
        settings: The model, and how it runs.
        device: As for `load_policy`.
        sharding: As for `load_policy`.

    Raises:
        ModelError: as for `load_policy`; or transformers has no such classifier.
        ConfigError: as for `load_policy`.
    """
    from transformers import AutoModelForSequenceClassification

    located, choice = _locate(settings, "model.path"), None
    if sharding is not None:
        choice = _choose_by_miniature(AutoModelForSequenceClassification, located, settings, sharding, num_labels=1)
    (base, skeleton, is_new), tokenizer = (
        _load_classifier(located, settings, sharding),
        _load_tokenizer(located, settings),
    )
    end = tokenizer.eos_token_id
    pad = None if tokenizer.pad_token_id == end else tokenizer.pad_token_id
    base.config.get_text_config().pad_token_id = pad
    made = _make_ready(base, tokenizer, located, settings, device, choice, skeleton, is_scorer=True)
    module = ScoreModule(made.model, made.choice.layout, made.precision, made.choice.trims)
    module.is_exact = made.choice.is_exact
    if skeleton is not None:
        _fill(skeleton, module, located, settings, (module.score_head(),) if module.precision == "bf16" else ())
    notes = [*made.notes, *_prepare_kernels(module, settings)]
    notes.append(
        Note(
            f"the score is read at a response's last token: for text, token {end}; for a conversation, the last one "
            "that the template writes",
            code="score_position",
        )
    )
    if is_new and located.adapter is None:
        notes.append(
            Note("the model has no score head: a new one starts from small random weights", code="new_score_head")
        )
    if pad is None:
        notes.append(
            Note(
                "the tokenizer has no padding token that differs from its end token, so the saved model names none if "
                "responses end with it; transformers then scores one sequence at a time, always at its last token",
                code="no_padding_token",
            )
        )
    return Scorer(module, tokenizer, settings, made.choice, end, (end,), tuple(notes), sharding, located.commit)


def _prepare_kernels(module: ForestModule, settings: ModelSettings) -> list[Note]:
    """Compile the layers where the settings say so; return notes on that and on the routes of attention."""
    notes = []
    if module.device.type != "cpu":
        forest = pack_trees(probe_trees(module.config) * 8)  # as long as a real row
        notes += [Note(f"attention {route}", code="attention_route") for route in module.attention_routes(forest)]
    if settings.compile:
        if not is_sharded(module):
            module.compile_layers()
        notes.append(Note("decoder layers are compiled at their first call", code="compiled"))
    return notes


def _fill(
    skeleton: Skeleton,
    module: ForestModule,
    located: Located,
    settings: ModelSettings,
    own_dtype: tuple[torch.nn.Module, ...] = (),
) -> None:
    """Shard a module, give it its weights, and refuse damaged ones.

    Layers are compiled before: the hooks that gather their weights stay outside.
    """
    if settings.compile:
        module.compile_layers()
    skeleton.fill(
        module,
        half=module.precision == "bf16",
        has_new_adapter=settings.lora is not None,
        own_dtype=own_dtype,
    )
    _refuse_not_finite(module, located, skeleton.sharding)


class _Made(NamedTuple):
    """A model with its adapter on its device, and how it runs."""

    model: Any
    choice: Choice
    precision: Precision
    notes: tuple[Note, ...]


def _make_ready(
    base: Any,
    tokenizer: Any,
    located: Located,
    settings: ModelSettings,
    device: torch.device | str | None,
    choice: Choice | None,
    skeleton: Skeleton | None,
    is_scorer: bool = False,
) -> _Made:
    """Put the adapter on, move the model to its device, and choose layout and precision.

    A skeleton has no weights to move or look at yet, and its layout is chosen already.
    """
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    notes = [
        *_commit_note(located),
        *_missing_embeddings(len(base.get_input_embeddings().weight), tokenizer, located),
    ]
    task = "SEQ_CLS" if is_scorer else "CAUSAL_LM"
    model = put_adapter(base, located, settings.lora, task, is_skeleton=skeleton is not None)
    model.eval()  # PEFT adds its modules in training mode, where their dropout acts
    if skeleton is None:
        model.to(target)
        _refuse_not_finite(model, located)
    choice = choice or choose_layout(model, settings.layout, is_scorer)
    notes.append(Note(f"layout {choice.layout}: {choice.reason}", code="layout"))
    if not choice.is_exact:
        log.warning("layout %s: %s", choice.layout, choice.reason, extra={"event": "layout_deviates", "choice": choice})
    precision, reason = choose_precision(settings.precision, target, settings.dtype)
    notes.append(Note(f"precision {precision}: {reason}", code="precision"))
    if settings.gradient_checkpointing:
        enable_checkpointing(model, settings.activation_offload)
    return _Made(model, choice, precision, tuple(notes))


class LoadedTokenizer(NamedTuple):
    """A tokenizer, and what the configuration of its model says about it."""

    tokenizer: Any
    window: int | None
    """The longest sequence of the model in tokens; None if the configuration does not state it."""
    num_embeddings: int | None
    """Number of embeddings of the model if the tokenizer has more tokens, else None."""
    notes: tuple[Note, ...]


def load_tokenizer(settings: ModelSettings) -> LoadedTokenizer:
    """Load a model's tokenizer, without its weights.

    Raises:
        ModelError: there is no such model, its tokenizer has no end token, or this token has no embedding.
        ConfigError: `revision` is set for a folder.
    """
    located = _locate(settings, "model.path")
    tokenizer = _load_tokenizer(located, settings)
    try:
        config = _read_config(located, settings)
    except DAMAGED as error:
        raise ModelError(
            f"{place_of(located, located.base)}: the configuration could not be read: {_first_line(error)}",
            code="config_not_readable",
            key=located.key,
        ) from error
    config = config.get_text_config()
    rows = getattr(config, "vocab_size", None) or len(tokenizer)
    notes = _missing_embeddings(rows, tokenizer, located)
    return LoadedTokenizer(
        tokenizer, getattr(config, "max_position_embeddings", None), limit_of_ids(rows, tokenizer), tuple(notes)
    )


def limit_of_ids(rows: int, tokenizer: Any) -> int | None:
    """Return the number of embeddings if the tokenizer has more tokens, else None."""
    return rows if rows < len(tokenizer) else None


def _read_config(located: Located, settings: ModelSettings, **keywords: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(
        located.base,
        revision=_revision(located, settings),
        trust_remote_code=settings.trust_remote_code,
        **keywords,
    )


def _locate(settings: ModelSettings, key: str) -> Located:
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


def _revision(located: Located, settings: ModelSettings) -> str | None:
    """Return what is loaded of a name on the hub: always the same commit, also if its branch moves meanwhile."""
    return None if located.is_folder else located.commit or settings.revision


def _commit_note(located: Located) -> list[Note]:
    """Return a note with the commit of a name on the hub."""
    return [Note(f"{located.base}: commit {located.commit}", code="commit")] if located.commit else []


def _load_tokenizer(located: Located, settings: ModelSettings) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            located.tokenizer,
            revision=_revision(located, settings),
            trust_remote_code=settings.trust_remote_code,
        )
    except DAMAGED as error:
        raise ModelError(
            f"{place_of(located, located.tokenizer)}: the tokenizer could not be loaded: {_first_line(error)}",
            code="tokenizer_not_readable",
            key=located.key,
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{located.key}: the tokenizer of {located.tokenizer} has no end token, so no response could end; set "
            "eos_token in its tokenizer_config.json",
            code="no_end_token",
            key=located.key,
        )
    return tokenizer


def _choose_by_miniature(
    kind: Any, located: Located, settings: ModelSettings, sharding: Sharding, **keywords: Any
) -> Choice:
    """Choose the layout of a model that no process holds whole."""
    is_scorer = "num_labels" in keywords
    with _explained(located):
        config = _read_config(located, settings, **keywords)
        refuse_other_kinds(config, located, is_scorer)
        model, how = make_miniature(
            kind, config, dtype=getattr(torch, settings.dtype), trust_remote_code=settings.trust_remote_code
        )
    model = put_alike(model, located, settings.lora, "SEQ_CLS" if is_scorer else "CAUSAL_LM")
    model.to(sharding.ranks.device).eval()
    return replace(choose_layout(model, settings.layout, is_scorer), checked_on=how)


def _load_language_model(
    located: Located, settings: ModelSettings, sharding: Sharding | None
) -> tuple[Any, Skeleton | None]:
    from transformers import AutoModelForCausalLM

    model, skeleton, missing = _load_model(AutoModelForCausalLM, located, settings, sharding)
    _refuse_incomplete(model, missing, located)
    return model, skeleton


def _load_classifier(
    located: Located, settings: ModelSettings, sharding: Sharding | None
) -> tuple[Any, Skeleton | None, bool]:
    """Load a sequence classifier with one label; return it, its shards, and whether its head is new."""
    from transformers import AutoModelForSequenceClassification

    with torch.random.fork_rng():
        torch.manual_seed(0)  # so that a new head is always the same
        kind = AutoModelForSequenceClassification
        model, skeleton, missing = _load_model(kind, located, settings, sharding, num_labels=1)
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
    kind: Any, located: Located, settings: ModelSettings, sharding: Sharding | None, **keywords: Any
) -> tuple[Any, Skeleton | None, list[str]]:
    """Load a model with this class of transformers; return it, its shards, and the names of missing tensors."""
    options: dict[str, Any] = {
        "revision": _revision(located, settings),
        "dtype": getattr(torch, settings.dtype),
        "use_safetensors": True,
        "trust_remote_code": settings.trust_remote_code,
        **keywords,
    }
    with _explained(located):
        config = _read_config(located, settings, **keywords)
        refuse_other_kinds(config, located, is_scorer="num_labels" in keywords)
        with without_pickles(located.key):
            if sharding is not None:
                skeleton, info = load_skeleton(kind, located.base, config, sharding, **options)
                return skeleton.model, skeleton, sorted(info["missing_keys"])
            model, info = kind.from_pretrained(located.base, output_loading_info=True, **options)
    return model, None, sorted(info["missing_keys"])


@contextmanager
def _explained(located: Located) -> Iterator[None]:
    """Explain errors of transformers in the block: the model could not be loaded."""
    try:
        yield
    except ModelError:
        raise
    except DAMAGED as error:
        raise ModelError(
            f"{place_of(located, located.base)}: the model could not be loaded: {_first_line(error)}",
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


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _missing_embeddings(rows: int, tokenizer: Any, located: Located) -> list[Note]:
    """Return a note if the last tokens of the tokenizer have no embeddings; rows that use them are defective."""
    if len(tokenizer) <= rows:
        return []
    if tokenizer.eos_token_id >= rows:
        raise ModelError(
            f"{located.key}: the tokenizer has {len(tokenizer)} tokens, its end token is number "
            f"{tokenizer.eos_token_id}, and the model has only {rows} embeddings; use the model's own tokenizer",
            code="too_few_embeddings",
            key=located.key,
        )
    return [
        Note(
            f"the tokenizer has {len(tokenizer)} tokens and the model {rows} embeddings; rows that use the others, "
            f"such as {tokenizer.convert_ids_to_tokens(rows)!r}, are defective",
            code="too_few_embeddings",
        )
    ]


def _refuse_not_finite(model: Any, located: Located, sharding: Sharding | None = None) -> None:
    names = not_finite({name: local_part(weight) for name, weight in model.named_parameters()})
    if sharding is not None:  # a shard of one process may hold what those of others do not
        names = sorted({name for own in sharding.ranks.gather(names) for name in own})
    if names:
        raise ModelError(
            f"{place_of(located, located.adapter or located.base)}: {len(names)} of its tensors hold NaN or "
            f"infinities, first {names[0]}; the weights are damaged, or the training that made them diverged. Use "
            "another copy",
            code="weights_not_finite",
            key=located.key,
        )


def _end_tokens(tokenizer: Any, model: Any) -> tuple[int, tuple[int, ...]]:
    """Return the tokenizer's end token, and all tokens that end a sampled response."""
    named = getattr(model.generation_config, "eos_token_id", None)
    listed = [named] if isinstance(named, int) else list(named or ())
    return tokenizer.eos_token_id, tuple(sorted({tokenizer.eos_token_id, *listed}))
