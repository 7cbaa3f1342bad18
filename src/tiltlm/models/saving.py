"""A model as an ordinary folder: what transformers' `from_pretrained` and everyone else's tools load."""

import copy
import shutil
import tempfile
from pathlib import Path

from tiltlm.core.errors import RunError
from tiltlm.models.loading import Loaded


def save_policy(policy: Loaded, folder: Path, merge: bool = False, card: str = "") -> None:
    """Write weights (safetensors), configuration, generation configuration and tokenizer.

    Files go to a temporary folder beside the target, which is then renamed: the target is complete or absent.

    Args:
        policy: What to save; a reward model likewise. With an adapter the folder holds the adapter alone, and names
            its base.
        folder: Must not exist.
        merge: Add the adapter to the weights and save a full model.
        card: Content of README.md, the model card; "": none (PEFT writes one of its own for adapters).

    Raises:
        RunError: the folder exists.
    """
    if folder.exists():
        raise RunError(f"{folder} exists; nothing is written over it", code="already_exists", key="folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with policy.module.stock_attention():  # the configuration must not name our attention
            model = policy.module.model
            if merge and policy.has_adapter:
                model = copy.deepcopy(model).merge_and_unload()
            model.save_pretrained(partial)
        policy.tokenizer.save_pretrained(partial)
        if card:
            (partial / "README.md").write_text(card, encoding="utf-8")
        partial.chmod(0o755)  # mkdtemp's folders are private
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
