"""A model as an ordinary folder, which transformers' `from_pretrained` and other tools load."""

import copy
from pathlib import Path

from tiltlm.core.errors import RunError
from tiltlm.models.loading import Loaded
from tiltlm.storage.files import atomic_folder


def save_policy(policy: Loaded, folder: Path, merge: bool = False, card: str = "") -> None:
    """Write weights (safetensors), configuration, generation configuration and tokenizer.

    The folder is complete or absent: it gets its name when all files are written.

    Args:
        policy: A policy or a reward model. With an adapter, the folder holds only the adapter, and names its base.
        folder: Must not exist.
        merge: Add the adapter to the weights and save a full model.
        card: Content of README.md, the model card; "" writes none (PEFT writes one of its own for adapters).

    Raises:
        RunError: the folder exists.
    """
    if folder.exists():
        raise RunError(
            f"{folder} exists, and nothing is overwritten; name another folder", code="already_exists", key="folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as partial:
        with policy.module.stock_attention():  # the saved configuration must not name our attention
            model = policy.module.model
            if merge and policy.has_adapter:
                model = copy.deepcopy(model).merge_and_unload()
            model.save_pretrained(partial)
        policy.tokenizer.save_pretrained(partial)
        if card:
            (partial / "README.md").write_text(card, encoding="utf-8")
