"""A model as an ordinary folder, which transformers' `from_pretrained` and other tools load.

The folder chats as it was trained: it has the chat template that rendered the data and the tokens that ended responses.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from tiltlm.core.errors import RunError
from tiltlm.distributed.ranks import Ranks
from tiltlm.distributed.sharding import Sharding
from tiltlm.models.loading import Loaded, Policy
from tiltlm.models.sharded.saving import adapter_tensors_of, write_weights
from tiltlm.storage.files import atomic_folder


def save_policy(
    policy: Loaded,
    folder: Path,
    merge: bool = False,
    chat_template: str | None = None,
    response_end: int | None = None,
    values: Mapping[str, Tensor] | None = None,
) -> None:
    """Write weights (safetensors), configuration, generation configuration and tokenizer.

    The folder is complete or absent: it gets its name when all files are written. The processes that share a sharded
    policy call this together, with a folder that all of them can write to.

    Args:
        policy: A policy or a reward model. With an adapter, the folder holds only the adapter, and names its base.
        folder: Must not exist.
        merge: Add the adapter to the weights and save a full model.
        chat_template: Jinja text of the template that rendered the data; None keeps the tokenizer's own.
        response_end: The token that ended responses in the data; None: the tokenizer's own. `generate` stops there too.
            A reward model is read there, so it is never its padding token.
        values: Write the whole model part by part, and these values in place of parameters of the same names. They are
            read one after the other. An adapter is merged, which must be LoRA. None: all is in memory.

    Raises:
        RunError: the folder exists.
    """
    ranks = Ranks() if policy.sharding is None else policy.sharding.ranks
    with ExitStack() as stack:
        partial = ranks.first(lambda: stack.enter_context(_new_folder(folder)))
        is_separate = policy.sharding is not None or values is not None
        # Before the weights: transformers removes files of weights that it has not written itself.
        ranks.first(lambda: _write_rest(policy, partial, merge, is_separate, chat_template, response_end))
        if policy.sharding is not None:
            _write_shards(policy, partial, merge, policy.sharding)
        elif values is not None:
            write_weights(policy.module, partial, None, values=values)
        ranks.first(stack.close)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Make a folder that gets its name at the end, if there is none of this name."""
    if folder.exists():
        raise RunError(
            f"{folder} exists, and nothing is overwritten; name another folder", code="already_exists", key="folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as partial:
        yield partial


def _write_shards(policy: Loaded, folder: Path, merge: bool, sharding: Sharding) -> None:
    """Write what the processes share: the weights, or the tensors of the adapter."""
    if merge or not policy.has_adapter:
        write_weights(policy.module, folder, sharding)
        return
    tensors = adapter_tensors_of(policy.module)
    sharding.ranks.first(lambda: _save_adapter(policy, folder, state_dict=tensors))


def _write_rest(
    policy: Loaded, folder: Path, merge: bool, is_separate: bool, chat_template: str | None, response_end: int | None
) -> None:
    """Write all files, or those beside the weights where these are written separately."""
    if isinstance(policy, Policy):
        _save_model(policy, folder, merge, is_separate)
        _save_generation_config(policy, folder, response_end)
    else:
        with _padding_of(policy, response_end):
            _save_model(policy, folder, merge, is_separate)
    _with_template(policy.tokenizer, chat_template).save_pretrained(folder)


def _save_adapter(policy: Loaded, folder: Path, **options: Any) -> None:
    with policy.module.stock_attention():
        policy.module.model.save_pretrained(folder, save_embedding_layers=False, **options)  # embeddings of the base


def _save_model(policy: Loaded, folder: Path, merge: bool, is_separate: bool) -> None:
    """Write weights and configuration of the model, or of its adapter; the configuration alone if `is_separate`."""
    from transformers import GenerationConfig

    if policy.has_adapter and not merge:
        if not is_separate:
            _save_adapter(policy, folder)
        return

    with policy.module.stock_attention():  # the saved configuration must not name our attention
        model = policy.module.bare_model if is_separate else policy.module.model
        if policy.has_adapter and not is_separate:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*no longer tied.*")  # the saved configuration says so too
                model = copy.deepcopy(model).merge_and_unload()
        own = getattr(model, "generation_config", None)  # a classifier has none
        if own is not None:
            model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]  # some that it loads are not saved
        try:
            model.save_pretrained(folder, **({"state_dict": {}} if is_separate else {}))
        finally:
            if own is not None:
                model.generation_config = own


def _save_generation_config(policy: Policy, folder: Path, response_end: int | None) -> None:
    """Write the generation configuration that the model came with, and all tokens that end a response.

    It is written without transformers' check: values that a model came with are kept, even contradictory ones such as a
    temperature without sampling.
    """
    from transformers import GenerationConfig

    config = copy.deepcopy(policy.module.bare_model.generation_config) or GenerationConfig()  # type: ignore[no-untyped-call]
    ends = list(policy.end_token_ids)
    if response_end is not None and response_end not in ends:
        ends.append(response_end)
    config.eos_token_id = ends
    if config.pad_token_id is None:
        config.pad_token_id = policy.tokenizer.pad_token_id
    config.to_json_file(folder / "generation_config.json", keys_to_pop=["compile_config"])


@contextmanager
def _padding_of(scorer: Loaded, response_end: int | None) -> Iterator[None]:
    """Let the configuration name the tokenizer's padding token inside the block.

    transformers reads the score at the last token that is not padding. So the configuration names none if that token
    ends responses; transformers then scores one sequence at a time.
    """
    config, pad = scorer.module.config.get_text_config(), scorer.tokenizer.pad_token_id
    before = config.pad_token_id
    config.pad_token_id = None if pad == (scorer.end_token_id if response_end is None else response_end) else pad
    try:
        yield
    finally:
        config.pad_token_id = before


def _with_template(tokenizer: Any, chat_template: str | None) -> Any:
    """Return the tokenizer with this chat template as its default one."""
    if chat_template is None:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    named = tokenizer.chat_template
    tokenizer.chat_template = {**named, "default": chat_template} if isinstance(named, dict) else chat_template
    return tokenizer
