"""Kinds of checkpoints that cannot be trained as what they are asked for: found from the configuration alone."""

from typing import Any

from tiltlm.core.errors import ModelError
from tiltlm.models.folders import Located

_OTHER_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")


def refuse_other_kinds(config: Any, located: Located, is_scorer: bool) -> None:
    """Refuse a classifier as a policy, and a model of several modalities of which only the text part would be kept.

    Args:
        config: The configuration of the checkpoint.
        located: Where it is, for the message.
        is_scorer: True if a reward model is loaded.

    Raises:
        ModelError: the checkpoint is of such a kind.
    """
    names = list(getattr(config, "architectures", None) or [])
    if not is_scorer and any(name.endswith(_OTHER_HEADS) for name in names):
        raise ModelError(
            f"{located.key}: {located.base} is a {names[0]}, a reward model or another classifier, and not a language "
            "model: its training has moved it away from one. Name the language model that it was made from; reward "
            "models are trained and scored with objective=reward_model",
            code="reward_model_as_policy",
            key=located.key,
        )
    refuse_text_parts(config, names, located, is_scorer)


def refuse_text_parts(config: Any, names: list[str], located: Located, is_scorer: bool) -> None:
    """Refuse a vision-language model that transformers cannot load whole with this kind of head."""
    import transformers

    parts = getattr(type(config), "sub_configs", {})
    modalities = [part for part in ("vision_config", "audio_config") if part in parts]
    if not modalities or type(config).__module__.startswith("transformers_modules"):
        return
    auto = "AutoModelForSequenceClassification" if is_scorer else "AutoModelForCausalLM"
    mapping = (
        transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
        if is_scorer
        else transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    )
    loaded: Any = mapping.get(type(config), None)
    if loaded is not None and loaded.config_class is type(config):
        return  # it is loaded and saved whole
    kind = "vision-language model" if "vision_config" in modalities else "multimodal model"
    if loaded is None:
        way_out = "only language models can be trained: name a text-only model, such as the one that it was built on"
    else:
        way_out = (
            f"transformers takes its text part out ({loaded.__name__}), and the trained folder would have lost the "
            f"rest. If the text part is what you want, make a folder of it and of its tokenizer, and name that: "
            f"{auto}.from_pretrained({located.base!r}).save_pretrained(FOLDER); "
            f"AutoTokenizer.from_pretrained({located.base!r}).save_pretrained(FOLDER)"
        )
    raise ModelError(
        f"{located.key}: {located.base} is a {kind} ({', '.join(names) or type(config).__name__}). {way_out}",
        code="vision_language_model",
        key=located.key,
    )
