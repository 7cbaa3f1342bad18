"""From settings to a policy or a reward model: weights, tokenizer, adapter, numeric path and layout, each decided once.

Everything that a run should print about its model is in `notes`.
"""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError

from tiltlm.core.errors import ConfigError, ModelError
from tiltlm.core.forest import pack_trees
from tiltlm.logprobs.module import ForestModule
from tiltlm.logprobs.policy import PolicyModule
from tiltlm.logprobs.precision import Precision, choose_precision
from tiltlm.logprobs.scoring import ScoreModule
from tiltlm.logprobs.selfcheck import Choice, choose_layout, probe_trees
from tiltlm.models.dropout import remove_dropout
from tiltlm.models.folders import Located, locate
from tiltlm.models.model_settings import LoraSettings, ModelSettings


@dataclass(frozen=True, eq=False)
class Loaded:
    """A loaded model, ready for forwards, with everything that was decided about it."""

    module: ForestModule
    tokenizer: Any
    settings: ModelSettings
    choice: Choice
    """The layout, and why."""
    end_token_id: int
    """What ends a response: appended to answers that are given as text."""
    end_token_ids: tuple[int, ...]
    """What ends a sampled response: the same, and whatever the generation configuration names."""
    notes: tuple[str, ...]
    """What a run prints about its model."""

    @property
    def has_adapter(self) -> bool:
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
    settings: ModelSettings, device: torch.device | str | None = None, choice: Choice | None = None
) -> Policy:
    """Load a model and decide once how it runs.

    Args:
        settings: Which model, and how.
        device: Where to; None: a CUDA device if there is one, else the CPU.
        choice: The layout of the very same model, where it was loaded and checked before; None: check it.

    Raises:
        ModelError: the folder, tokenizer or architecture cannot serve; the message names the way out.
    """
    located = _locate(settings)
    base, tokenizer = _load_language_model(located, settings), _load_tokenizer(located, settings)
    made = _make_ready(base, tokenizer, located, settings, device, choice)
    module = PolicyModule(made.model, made.choice.layout, made.precision, made.choice.head, made.choice.trims)
    notes = [*made.notes, *_announced(module, settings)]
    end_token_id, end_token_ids = _end_tokens(tokenizer, base)
    names = ", ".join(repr(tokenizer.convert_ids_to_tokens(i)) for i in end_token_ids)
    ends = f"a sampled response ends at {names}; answers given as text get token {end_token_id}"
    return Policy(module, tokenizer, settings, made.choice, end_token_id, end_token_ids, (*notes, ends))


def load_scorer(settings: ModelSettings, device: torch.device | str | None = None) -> Scorer:
    """Load a reward model, or a language model with a new score head, and decide once how it runs.

    Args:
        settings: Which model, and how.
        device: As for `load_policy`.

    Raises:
        ModelError: as for `load_policy`; or there is no such classifier in transformers.
    """
    located = _locate(settings)
    (base, is_new), tokenizer = _load_classifier(located, settings), _load_tokenizer(located, settings)
    end = tokenizer.eos_token_id
    pad = None if tokenizer.pad_token_id == end else tokenizer.pad_token_id
    base.config.get_text_config().pad_token_id = pad
    made = _make_ready(base, tokenizer, located, settings, device, None, is_scorer=True)
    module = ScoreModule(made.model, made.choice.layout, made.precision, made.choice.trims)
    notes = [*made.notes, *_announced(module, settings)]
    notes.append(f"answers given as text end with token {end}; the score is read there")
    if is_new and located.adapter is None:
        notes.append("the model has no score head: a new one starts from small random weights")
    if pad is None:
        notes.append(
            "the tokenizer has no padding token beside its end token, so the saved model names none: transformers then "
            "scores one sequence at a time, and never the token before the end"
        )
    return Scorer(module, tokenizer, settings, made.choice, end, (end,), tuple(notes))


def _announced(module: ForestModule, settings: ModelSettings) -> list[str]:
    """Which route computes attention, where there are several, and what is compiled."""
    notes = []
    if module.device.type != "cpu":
        forest = pack_trees(probe_trees(module.config) * 8)  # as long as a real row
        notes += [f"attention {route}" for route in module.attention_routes(forest)]
    if settings.compile:
        module.compile_layers()
        notes.append("decoder layers are compiled at their first call")
    return notes


class _Made(NamedTuple):
    """A model with its adapter on its device, and how it runs."""

    model: Any
    choice: Choice
    precision: Precision
    notes: tuple[str, ...]


def _make_ready(
    base: Any,
    tokenizer: Any,
    located: Located,
    settings: ModelSettings,
    device: torch.device | str | None,
    choice: Choice | None,
    is_scorer: bool = False,
) -> _Made:
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    _refuse_short_vocabulary(base, tokenizer)
    model = _put_adapter(base, located, settings, "SEQ_CLS" if is_scorer else "CAUSAL_LM").to(target)
    notes = [f"dropout switched off: {', '.join(found)}" for found in [remove_dropout(model)] if found]
    choice = choice or choose_layout(model, settings.layout, is_scorer)
    notes.append(f"layout {choice.layout}: {choice.reason}")
    precision, reason = choose_precision(settings.precision, target, settings.dtype)
    notes.append(f"precision {precision}: {reason}")
    if settings.gradient_checkpointing:
        _checkpoint(model, settings.activation_offload)
    return _Made(model, choice, precision, tuple(notes))


def load_tokenizer(settings: ModelSettings) -> tuple[Any, int | None]:
    """A model's tokenizer and window (None where its configuration names none), without its weights.

    Raises:
        ModelError: there is no such model, or its tokenizer has no end token.
    """
    from transformers import AutoConfig

    located = _locate(settings)
    tokenizer = _load_tokenizer(located, settings)
    try:
        config = AutoConfig.from_pretrained(
            located.base,
            revision=None if located.is_folder else settings.revision,
            trust_remote_code=settings.trust_remote_code,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{_place(located.base)} no configuration could be read: {_first_line(error)}",
            code="config_not_readable",
            key="model.path",
        ) from error
    return tokenizer, getattr(config.get_text_config(), "max_position_embeddings", None)


def _locate(settings: ModelSettings) -> Located:
    located = locate(settings.path, settings.adapter)
    if located.is_folder and settings.revision is not None:
        raise ConfigError(
            f"model.revision={settings.revision} has no effect: model.path={settings.path} is a folder; remove it",
            code="no_effect",
            key="model.revision",
        )
    return located


def _load_tokenizer(located: Located, settings: ModelSettings) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            located.tokenizer,
            revision=None if located.is_folder else settings.revision,
            trust_remote_code=settings.trust_remote_code,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"{_place(located.tokenizer)} no tokenizer could be loaded: {_first_line(error)}",
            code="tokenizer_not_readable",
            key="model.path",
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{located.tokenizer}: the tokenizer has no end token, so no response could ever end; set eos_token in its "
            "tokenizer_config.json",
            code="no_end_token",
            key="model.path",
        )
    return tokenizer


def _load_language_model(located: Located, settings: ModelSettings) -> Any:
    from transformers import AutoModelForCausalLM

    model, missing = _load_model(AutoModelForCausalLM, located, settings)
    _refuse_incomplete(model, missing, located)
    return model


def _load_classifier(located: Located, settings: ModelSettings) -> tuple[Any, bool]:
    """A sequence classifier with one label, and whether its head is new."""
    from transformers import AutoModelForSequenceClassification

    with torch.random.fork_rng():
        torch.manual_seed(0)  # of a new head
        model, missing = _load_model(AutoModelForSequenceClassification, located, settings, num_labels=1)
    _refuse_incomplete(model, [name for name in missing if name != "score.weight"], located)
    return model, bool(missing)


def _load_model(kind: Any, located: Located, settings: ModelSettings, **keywords: Any) -> tuple[Any, list[str]]:
    """A model of this kind, and the names of its tensors that the weights lack."""
    try:
        model, info = kind.from_pretrained(
            located.base,
            revision=None if located.is_folder else settings.revision,
            dtype=getattr(torch, settings.dtype),
            use_safetensors=True,
            trust_remote_code=settings.trust_remote_code,
            output_loading_info=True,
            **keywords,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{_place(located.base)} no model could be loaded: {_first_line(error)}",
            code="model_not_readable",
            key="model.path",
        ) from error
    return model, sorted(info["missing_keys"])


def _refuse_incomplete(model: Any, missing: list[str], located: Located) -> None:
    if missing:  # transformers would go on with random numbers in their place
        raise ModelError(
            f"{_place(located.base)} the weights lack {len(missing)} tensors of {type(model).__name__} "
            f"({', '.join(missing[:3])}, …); is it a language model, and the copy complete?",
            code="missing_tensors",
            key="model.path",
        )


def _place(path: str) -> str:
    return f"model.path: {path}:" if Path(path).exists() else f"model.path: {path} is no folder here; from the hub"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _refuse_short_vocabulary(model: Any, tokenizer: Any) -> None:
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {rows} embeddings; they do not belong together",
            code="too_few_embeddings",
            key="model.path",
        )


def _put_adapter(model: Any, located: Located, settings: ModelSettings, task: str) -> Any:
    """The model with the adapter it should have, if any."""
    if located.adapter is None and settings.lora is None:
        return model
    try:
        import peft
    except ImportError as error:
        raise ModelError("adapters need PEFT: pip install 'tiltlm[peft]'", code="missing_dependency") from error
    if located.adapter is not None and settings.lora is not None:
        raise ModelError(
            f"{located.adapter} is an adapter, and model.lora starts another; leave one of them out",
            code="conflict",
            key="model.lora",
        )
    if located.adapter is not None:
        adapted = peft.PeftModel.from_pretrained(model, located.adapter, is_trainable=True)
        if adapted.active_peft_config.is_prompt_learning:
            raise ModelError(
                f"{located.adapter} learns prompt vectors; only adapters inside the layers can be used",
                code="not_supported",
                key="model.adapter",
            )
        return adapted
    assert settings.lora is not None
    with torch.random.fork_rng():
        torch.manual_seed(settings.lora.seed)
        return peft.get_peft_model(model, _lora_config(settings.lora, task))


def _lora_config(lora: LoraSettings, task: str) -> Any:
    import peft

    return peft.LoraConfig(
        task_type=task,  # of a classifier the head is trained too
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # any number serves
        lora_dropout=0.0,
        use_rslora=lora.rslora,
        target_modules=lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules),
    )


def _checkpoint(model: Any, offload: bool) -> None:
    if not model.supports_gradient_checkpointing:
        raise ModelError(
            "model.gradient_checkpointing: this architecture does not support it; leave it off",
            code="not_supported",
            key="model.gradient_checkpointing",
        )
    keywords = {"use_reentrant": False}  # reentrant checkpoints lose gradients of keyword arguments
    if offload and next(model.parameters()).device.type == "cpu":
        raise ConfigError(
            "model.activation_offload moves activations to the host, where this model is; leave it off",
            code="no_effect",
            key="model.activation_offload",
        )
    if hasattr(model, "activation_checkpointing_enable"):  # the name since transformers 5.2x
        enable, name = model.activation_checkpointing_enable, "activation_checkpointing_kwargs"
    else:
        enable, name = model.gradient_checkpointing_enable, "gradient_checkpointing_kwargs"
    if offload and "offload" not in inspect.signature(enable).parameters:
        raise ConfigError(
            "model.activation_offload: this architecture, or this version of transformers, has none; leave it off",
            code="not_supported",
            key="model.activation_offload",
        )
    enable(**{name: keywords}, **({"offload": True} if offload else {}))


def _end_tokens(tokenizer: Any, model: Any) -> tuple[int, tuple[int, ...]]:
    """The tokenizer's end token, and all tokens at which a sampled response ends."""
    named = getattr(model.generation_config, "eos_token_id", None)
    listed = [named] if isinstance(named, int) else list(named or ())
    return tokenizer.eos_token_id, tuple(sorted({tokenizer.eos_token_id, *listed}))
