"""From settings to a policy: model, tokenizer, adapter, numeric path and layout, each decided once and noted.

Everything that a run should print about its model is in `Policy.notes`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from tiltlm.core.errors import ModelError
from tiltlm.logprobs.dropout import remove_dropout
from tiltlm.logprobs.folders import Located, locate
from tiltlm.logprobs.policy import PolicyModule
from tiltlm.logprobs.precision import choose_precision
from tiltlm.logprobs.selfcheck import Choice, choose_layout
from tiltlm.logprobs.settings import LoraSettings, ModelSettings


@dataclass(frozen=True, eq=False)
class Policy:
    """A loaded model, ready for forwards, with everything that was decided about it."""

    module: PolicyModule
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
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    located = locate(settings.path, settings.adapter)
    base = _load_model(located, settings)
    tokenizer = _load_tokenizer(located, settings)
    _refuse_short_vocabulary(base, tokenizer)
    model = _put_adapter(base, located, settings).to(target)
    notes = [f"dropout switched off: {', '.join(found)}" for found in [remove_dropout(model)] if found]
    choice = choice or choose_layout(model, settings.layout)
    notes.append(f"layout {choice.layout}: {choice.reason}")
    precision, reason = choose_precision(settings.precision, target, settings.dtype)
    notes.append(f"precision {precision}: {reason}")
    if settings.gradient_checkpointing:
        _checkpoint(model)
    module = PolicyModule(model, choice.layout, precision, choice.head)
    end_token_id, end_token_ids = _end_tokens(tokenizer, base)
    names = ", ".join(repr(tokenizer.convert_ids_to_tokens(i)) for i in end_token_ids)
    notes.append(f"a sampled response ends at {names}; answers given as text get token {end_token_id}")
    return Policy(module, tokenizer, settings, choice, end_token_id, end_token_ids, tuple(notes))


def load_tokenizer(settings: ModelSettings) -> tuple[Any, int | None]:
    """A model's tokenizer and window (None where its configuration names none), without its weights.

    Raises:
        ModelError: there is no such model, or its tokenizer has no end token.
    """
    from transformers import AutoConfig

    located = locate(settings.path, settings.adapter)
    tokenizer = _load_tokenizer(located, settings)
    try:
        config = AutoConfig.from_pretrained(
            located.base,
            revision=None if located.is_folder else settings.revision,
            trust_remote_code=settings.trust_remote_code,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{_place(located.base)} no configuration could be read: {_first_line(error)}") from error
    return tokenizer, getattr(config.get_text_config(), "max_position_embeddings", None)


def _load_tokenizer(located: Located, settings: ModelSettings) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            located.tokenizer,
            revision=None if located.is_folder else settings.revision,
            trust_remote_code=settings.trust_remote_code,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{_place(located.tokenizer)} no tokenizer could be loaded: {_first_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{located.tokenizer}: the tokenizer has no end token, so no response could ever end; set eos_token in its "
            "tokenizer_config.json"
        )
    return tokenizer


def _load_model(located: Located, settings: ModelSettings) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            located.base,
            revision=None if located.is_folder else settings.revision,
            dtype=getattr(torch, settings.dtype),
            use_safetensors=True,
            trust_remote_code=settings.trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{_place(located.base)} no model could be loaded: {_first_line(error)}") from error
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:  # transformers would go on with random numbers in their place
        raise ModelError(
            f"{_place(located.base)} the weights lack {len(missing)} tensors of {type(model).__name__} "
            f"({', '.join(missing[:3])}, …); is it a language model, and the copy complete?"
        )
    return model


def _place(path: str) -> str:
    return f"model.path: {path}:" if Path(path).exists() else f"model.path: {path} is no folder here; from the hub"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _refuse_short_vocabulary(model: Any, tokenizer: Any) -> None:
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {rows} embeddings; they do not belong together"
        )


def _put_adapter(model: Any, located: Located, settings: ModelSettings) -> Any:
    """The model with the adapter it should have, if any."""
    if located.adapter is None and settings.lora is None:
        return model
    try:
        import peft
    except ImportError as error:
        raise ModelError("adapters need PEFT: pip install 'tiltlm[peft]'") from error
    if located.adapter is not None and settings.lora is not None:
        raise ModelError(f"{located.adapter} is an adapter, and model.lora starts another; leave one of them out")
    if located.adapter is not None:
        adapted = peft.PeftModel.from_pretrained(model, located.adapter, is_trainable=True)
        if adapted.active_peft_config.is_prompt_learning:
            raise ModelError(f"{located.adapter} learns prompt vectors; only adapters inside the layers can be used")
        return adapted
    assert settings.lora is not None
    with torch.random.fork_rng():
        torch.manual_seed(settings.lora.seed)
        return peft.get_peft_model(model, _lora_config(settings.lora))


def _lora_config(lora: LoraSettings) -> Any:
    import peft

    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # any number serves
        lora_dropout=0.0,
        use_rslora=lora.rslora,
        target_modules=lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules),
    )


def _checkpoint(model: Any) -> None:
    if not model.supports_gradient_checkpointing:
        raise ModelError("model.gradient_checkpointing: this architecture does not support it; leave it off")
    keywords = {"use_reentrant": False}  # reentrant checkpoints lose gradients of keyword arguments
    if hasattr(model, "activation_checkpointing_enable"):  # the name since transformers 5.2x
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=keywords)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=keywords)


def _end_tokens(tokenizer: Any, model: Any) -> tuple[int, tuple[int, ...]]:
    """The tokenizer's end token, and all tokens at which a sampled response ends."""
    named = getattr(model.generation_config, "eos_token_id", None)
    listed = [named] if isinstance(named, int) else list(named or ())
    return tokenizer.eos_token_id, tuple(sorted({tokenizer.eos_token_id, *listed}))
