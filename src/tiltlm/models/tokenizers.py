"""Loading of tokenizers, and what a tokenizer and its model say about each other: end tokens, missing embeddings."""

from typing import Any, NamedTuple

from tiltlm.core.errors import ModelError
from tiltlm.core.notes import Note
from tiltlm.models.folders import Located, place_of
from tiltlm.models.model_settings import ModelSettings
from tiltlm.models.reading import DAMAGED, first_line, located_of, read_config, revision_of


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
    located = located_of(settings, "model.path")
    tokenizer = read_tokenizer(located, settings)
    try:
        config = read_config(located, settings)
    except DAMAGED as error:
        raise ModelError(
            f"{place_of(located, located.base)}: the configuration could not be read: {first_line(error)}",
            code="config_not_readable",
            key=located.key,
        ) from error
    config = config.get_text_config()
    rows = getattr(config, "vocab_size", None) or len(tokenizer)
    notes = missing_embeddings(rows, tokenizer, located)
    return LoadedTokenizer(
        tokenizer, getattr(config, "max_position_embeddings", None), limit_of_ids(rows, tokenizer), tuple(notes)
    )


def limit_of_ids(rows: int, tokenizer: Any) -> int | None:
    """Return the number of embeddings if the tokenizer has more tokens, else None."""
    return rows if rows < len(tokenizer) else None


def read_tokenizer(located: Located, settings: ModelSettings) -> Any:
    """Load the tokenizer.

    Raises:
        ModelError: it cannot be read, or has no end token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            located.tokenizer,
            revision=revision_of(located, settings),
            trust_remote_code=settings.trust_remote_code,
        )
    except DAMAGED as error:
        raise ModelError(
            f"{place_of(located, located.tokenizer)}: the tokenizer could not be loaded: {first_line(error)}",
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


def missing_embeddings(rows: int, tokenizer: Any, located: Located) -> list[Note]:
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


def end_tokens(tokenizer: Any, model: Any) -> tuple[int, tuple[int, ...]]:
    """Return the tokenizer's end token, and all tokens that end a sampled response."""
    named = getattr(model.generation_config, "eos_token_id", None)
    listed = [named] if isinstance(named, int) else list(named or ())
    return tokenizer.eos_token_id, tuple(sorted({tokenizer.eos_token_id, *listed}))
