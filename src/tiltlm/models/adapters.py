"""Adapters of PEFT on a model: new ones, saved ones, and those that are refused.

An adapter is accepted if its merged weights are the same policy, and if the model without it is the base model.
"""

import warnings
from pathlib import Path
from typing import Any

import torch

from tiltlm.core.errors import ConfigError, ModelError, TiltError
from tiltlm.models.folders import Located
from tiltlm.models.foreign_code import without_pickles
from tiltlm.models.model_settings import LoraSettings

KINDS = frozenset({"LORA", "IA3", "LOHA", "LOKR", "OFT", "HRA", "VERA", "FOURIERFT", "VBLORA", "MISS"})
"""PEFT types that can be loaded. A test holds for each that the merged model is the same policy."""

_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of `init_lora_weights` with which PEFT also changes the weights of the base model."""

_BEYOND_LORA = ("use_dora", "lora_bias", "trainable_token_indices", "target_parameters")
"""Settings of LoRA with which merging changes more than the weight of a layer, or scales it."""


def put_adapter(
    model: Any, located: Located, lora: LoraSettings | None, task: str, *, is_skeleton: bool = False
) -> Any:
    """Return the model with a saved adapter, a new one, or none.

    Args:
        model: The base model.
        located: Names the folder of a saved adapter.
        lora: Settings of a new adapter.
        task: PEFT's name of what the model is for: `CAUSAL_LM` or `SEQ_CLS`.
        is_skeleton: The weights of the model have no memory, so only adapters that never read them can be put on it.

    Raises:
        ModelError: the saved adapter cannot be used with this model.
        ConfigError: the settings of a new one do not fit the model, or there are both.
    """
    if located.adapter is None and lora is None:
        return model
    if located.adapter is not None and lora is not None:
        raise ModelError(
            f"{located.adapter} is an adapter, and model.lora starts another one; remove one of them",
            code="conflict",
            key="model.lora",
        )
    head = model.get_output_embeddings()
    is_tied = head is not None and head.weight is model.get_input_embeddings().weight
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*tie_word_embeddings=True.*")  # what is wrong with them is refused below
        # PEFT 0.21 asks transformers 5 for a name that is being given up; nobody but PEFT can change that
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        if located.adapter is not None:
            adapted = _saved(model, located.adapter, task, is_skeleton)
        else:
            adapted = _new(model, lora, task)
    if is_tied:
        _refuse_tied(adapted.get_base_model(), located.adapter)
    return adapted


def put_alike(model: Any, located: Located, lora: LoraSettings | None, task: str) -> Any:
    """Return a model with an adapter of the same settings as `put_adapter` would put on it, with random values.

    It is for the self-check of a model that has fewer layers than the adapter.
    """
    if located.adapter is None:
        return put_adapter(model, located, lora, task)
    import peft

    config = peft.PeftConfig.from_pretrained(located.adapter)
    _refuse_kind(located.adapter, config, task)
    _refuse_on_skeleton(located.adapter, config)
    config.init_lora_weights, config.inference_mode = False, False
    config.layers_to_transform = None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return peft.get_peft_model(model, config)


def _refuse_on_skeleton(adapter: str, config: Any) -> None:
    """Refuse kinds of adapters that read the weights which they change, or whose shards are not tested."""
    if not is_plain_lora(config):
        more = "".join(f", with {name}" for name in _BEYOND_LORA if getattr(config, name, None))
        raise ModelError(
            f"model.adapter: {adapter} is of kind {_kind_of(config)}{more}; a sharded model takes plain LoRA only. Use "
            "training.parallel=replicate",
            code="not_supported",
            key="training.parallel",
        )


def is_plain_lora(config: Any) -> bool:
    """Return whether an adapter adds B·A to weights of layers and changes nothing else."""
    return _kind_of(config) == "LORA" and not any(getattr(config, name, None) for name in _BEYOND_LORA)


def _kind_of(config: Any) -> str:
    """Return PEFT's name of a kind of adapter."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def _new(model: Any, lora: LoraSettings | None, task: str) -> Any:
    """Put a new LoRA adapter on a model."""
    import peft

    assert lora is not None
    _check_targets(model, lora.target_modules)
    config = peft.LoraConfig(
        task_type=task,  # for a classifier, PEFT trains the head too
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT accepts any number
        lora_dropout=0.0,
        use_rslora=lora.rslora,
        target_modules=lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules),
    )
    with torch.random.fork_rng():
        torch.manual_seed(lora.seed)
        try:
            return peft.get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(
                f"model.lora.target_modules={lora.target_modules}: PEFT cannot put LoRA on all of these modules: "
                f"{str(error).splitlines()[0]}. Linear layers of this model: {', '.join(_linear_names(model))}",
                code="not_supported",
                key="model.lora.target_modules",
            ) from error


def _check_targets(model: Any, targets: str | tuple[str, ...]) -> None:
    """Require that each name is a module of the model. A text is PEFT's regular expression or `all-linear`."""
    if isinstance(targets, str):
        is_list = "," in targets and not any(mark in targets for mark in "()[]{}*+?|\\")
        if is_list:
            _refuse_targets(model, targets, f"it is one text; write a list: [{', '.join(targets.split(','))}]")
        return
    names = [name for name, _ in model.named_modules()]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            _refuse_targets(model, targets, f"the model has no module {target!r}")


def _refuse_targets(model: Any, targets: str | tuple[str, ...], reason: str) -> None:
    shown = targets if isinstance(targets, str) else ", ".join(targets)
    raise ConfigError(
        f"model.lora.target_modules={shown}: {reason}. Linear layers of this model: {', '.join(_linear_names(model))}; "
        "all-linear names all of them except the head",
        code="no_such_module",
        key="model.lora.target_modules",
    )


def _linear_names(model: Any) -> list[str]:
    """Return the last part of the name of each linear layer, each once."""
    linear = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return sorted({name.rsplit(".", 1)[-1] for name in linear})


def _saved(model: Any, adapter: str, task: str, is_skeleton: bool) -> Any:
    """Put a saved adapter on a model."""
    import peft
    from safetensors import SafetensorError, safe_open

    try:
        config = peft.PeftConfig.from_pretrained(adapter)
        _refuse_kind(adapter, config, task)
        if is_skeleton:
            _refuse_on_skeleton(adapter, config)
        with without_pickles("model.adapter"):
            adapted = peft.PeftModel.from_pretrained(model, adapter, is_trainable=True, low_cpu_mem_usage=is_skeleton)
        stored: set[str] = set()
        for file in Path(adapter).glob("adapter_model*.safetensors"):
            with safe_open(file, framework="pt") as tensors:
                stored.update(tensors.keys())
    except TiltError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"model.adapter: {adapter} could not be put on {type(model).__name__}: {' '.join(lines[:2]).strip()}; "
            "check that it was trained on this model, and that the copy is complete",
            code="adapter_not_readable",
            key="model.adapter",
        ) from error
    expected = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
    missing = sorted(name for name in expected if name not in stored)
    if missing:  # PEFT would use random numbers instead
        raise ModelError(
            f"model.adapter: {len(missing)} tensors are missing in {adapter} ({', '.join(missing[:3])}, …); check that "
            "the copy is complete",
            code="missing_tensors",
            key="model.adapter",
        )
    return adapted


def _refuse_kind(adapter: str, config: Any, task: str) -> None:
    """Refuse an adapter that cannot be merged, or that changes the base model, or that is for another task."""
    kind = _kind_of(config)
    dropout = [name for name, value in vars(config).items() if "dropout" in name and value]
    start = getattr(config, "init_lora_weights", True)
    reasons = {
        f"its peft_type {kind} cannot be used here; known: {', '.join(sorted(KINDS))}": kind not in KINDS,
        f"its bias={getattr(config, 'bias', 'none')!r} changes the base model": getattr(config, "bias", "none")
        != "none",
        "layer_replication changes the number of layers": bool(getattr(config, "layer_replication", None)),
        "alora_invocation_tokens switch it on inside a text, so it cannot be merged": bool(
            getattr(config, "alora_invocation_tokens", None)
        ),
        f"init_lora_weights={start!r} changes the base model; save it with path_initial_model_for_weight_conversion": (
            isinstance(start, str) and start.startswith(_CHANGES_BASE)
        ),
        f"its {', '.join(dropout)} cannot be switched off; set it to 0 in adapter_config.json": kind != "LORA"
        and bool(dropout),
        f"it is for {config.task_type}, and this model is for {task}; merge it into its own model first": (
            config.task_type not in ((None, task) if task == "CAUSAL_LM" else (task,))
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ModelError(
                f"model.adapter: {adapter} cannot be used: {reason}", code="not_supported", key="model.adapter"
            )


def _refuse_tied(model: Any, adapter: str | None) -> None:
    """Refuse an adapter on one of two modules that share a weight: the merged weight would change both."""
    from peft.tuners.trainable_tokens import TrainableTokensLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        if isinstance(module, BaseTunerLayer) and not isinstance(module, TrainableTokensLayer):
            key = "model.adapter" if adapter is not None else "model.lora.target_modules"
            raise ModelError(
                f"{key}: the adapter is on the embeddings or on the head, and this model uses one matrix for both, so "
                "no merged model is the same policy; leave them out, as all-linear does",
                code="tied_weights",
                key=key,
            )
