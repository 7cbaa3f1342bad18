"""Loading of policies and reward models: weights, tokenizer, adapter, numeric path and layout, each decided once.

`Loaded.notes` holds everything that a run prints about its model.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tiltlm.core.errors import ModelError
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
from tiltlm.models.folders import Located, place_of
from tiltlm.models.kinds import refuse_other_kinds
from tiltlm.models.model_settings import ModelSettings
from tiltlm.models.reading import explained, located_of, read_classifier, read_config, read_language_model
from tiltlm.models.sharded.miniature import make_miniature
from tiltlm.models.sharded.skeleton import Skeleton
from tiltlm.models.tokenizers import end_tokens, missing_embeddings, read_tokenizer

log = logging.getLogger(__name__)


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
    has_weights: bool = True,
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
        has_weights: False: the weights are not read, and have shapes but no memory. It is for a model whose weights are
            in a checkpoint. Needs `choice` with a head.
        add: Adds layers to the module that are not of the model, such as the value head of a critic. It is called
            before the module is sharded.

    Raises:
        ModelError: the folder, tokenizer or architecture cannot be used; the message says what to do.
        ConfigError: a setting has no effect for this model.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    located = located_of(settings, key)
    if sharding is not None:
        choice = choice or _choose_by_miniature(AutoModelForCausalLM, located, settings, sharding)
    base, skeleton = read_language_model(located, settings, sharding, has_weights)
    tokenizer = read_tokenizer(located, settings)
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
    end_token_id, end_token_ids = end_tokens(tokenizer, base)
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
    settings: ModelSettings,
    device: torch.device | str | None = None,
    sharding: Sharding | None = None,
    choice: Choice | None = None,
    has_weights: bool = True,
) -> Scorer:
    """Load a reward model, or a language model with a new score head, and decide once how it runs.

    Args:
        settings: The model, and how it runs.
        device: As for `load_policy`.
        sharding: As for `load_policy`.
        choice: As for `load_policy`.
        has_weights: As for `load_policy`. A choice needs no head.

    Raises:
        ModelError: as for `load_policy`; or transformers has no such classifier.
        ConfigError: as for `load_policy`.
    """
    from transformers import AutoModelForSequenceClassification

    located = located_of(settings, "model.path")
    if sharding is not None:
        choice = choice or _choose_by_miniature(
            AutoModelForSequenceClassification, located, settings, sharding, num_labels=1
        )
    base, skeleton, is_new = read_classifier(located, settings, sharding, has_weights)
    tokenizer = read_tokenizer(located, settings)
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

    A skeleton, or a model without weights, has none to move or look at yet, and its layout is chosen already.
    """
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    notes = [
        *_commit_note(located),
        *missing_embeddings(len(base.get_input_embeddings().weight), tokenizer, located),
    ]
    task = "SEQ_CLS" if is_scorer else "CAUSAL_LM"
    model = put_adapter(base, located, settings.lora, task, is_skeleton=skeleton is not None)
    model.eval()  # PEFT adds its modules in training mode, where their dropout acts
    if skeleton is None and base.device.type != "meta":
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


def _choose_by_miniature(
    kind: Any, located: Located, settings: ModelSettings, sharding: Sharding, **keywords: Any
) -> Choice:
    """Choose the layout of a model that no process holds whole."""
    is_scorer = "num_labels" in keywords
    with explained(located):
        config = read_config(located, settings, **keywords)
        refuse_other_kinds(config, located, is_scorer)
        model, how = make_miniature(
            kind, config, dtype=getattr(torch, settings.dtype), trust_remote_code=settings.trust_remote_code
        )
    model = put_alike(model, located, settings.lora, "SEQ_CLS" if is_scorer else "CAUSAL_LM")
    model.to(sharding.ranks.device).eval()
    return replace(choose_layout(model, settings.layout, is_scorer), checked_on=how)


def _commit_note(located: Located) -> list[Note]:
    """Return a note with the commit of a name on the hub."""
    return [Note(f"{located.base}: commit {located.commit}", code="commit")] if located.commit else []


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
