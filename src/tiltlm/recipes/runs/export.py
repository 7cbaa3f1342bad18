"""A checkpoint of a run as an ordinary model folder, whether the run has ended or not."""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from tiltlm.core import ConfigError, ModelError, RunError
from tiltlm.distributed import Ranks
from tiltlm.logprobs.head.states import Head
from tiltlm.models import Loaded, Policy, load_policy, load_scorer, save_policy
from tiltlm.models.adapters import is_plain_lora
from tiltlm.models.folders import locate
from tiltlm.objectives import Objective, compose
from tiltlm.objectives.shapes.rollouts import PolicyGradient
from tiltlm.objectives.terms import reads_scores
from tiltlm.recipes.answers.sample import STOCK
from tiltlm.recipes.online.loop_run import LoopRunSettings
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.reference import model_digest
from tiltlm.runs.chat import Chat
from tiltlm.storage.files import read_json
from tiltlm.training.checkpoints import files as checkpoint
from tiltlm.training.checkpoints.tensors import check_shapes, restore_policy

log = logging.getLogger(__name__)

UNUSED = replace(STOCK, head=Head("module"))
"""How the model would run: it never does."""


@dataclass(frozen=True)
class Exported:
    """A model folder made of a checkpoint."""

    path: Path
    """The folder."""
    run: Path
    step: int
    """Optimiser steps of the run before the checkpoint."""
    digest: str
    """SHA-256 of the manifest of the checkpoint, which has the hashes of all its files."""
    is_adapter: bool
    """True if the folder holds an adapter, which needs its base model."""

    def summary(self) -> str:
        """Return what the command line prints."""
        kind = "the adapter" if self.is_adapter else "the model"
        return (
            f"{self.path}: {kind} of {self.run} after step {self.step}\n\n"
            f"checkpoint  {checkpoint.folder_of(self.run / 'checkpoints', self.step)}\n"
            f"manifest    sha256 {self.digest}"
        )


def export(
    run: Path,
    settings: RunSettings | LoopRunSettings,
    output: Path,
    *,
    step: int | None = None,
    adapter: bool = False,
    progress: ProgressCallback = silent,
) -> Exported:
    """Write a checkpoint as the run itself would write its model at the end.

    One process reads and writes the weights part by part, so it needs twice the memory of one file of the folder. With
    LoRA the base model is in memory too, unless `model.dtype` is that of its files: these are then memory-mapped. Other
    kinds of adapters, and models with weights that are never trained, need a whole copy.

    Args:
        run: The folder of a run of `tiltlm train` or `tiltlm loop`.
        settings: Its settings.
        output: The folder to write; it must not exist.
        step: Step of the checkpoint; None: the newest one that is intact.
        adapter: Write the adapter alone instead of the merged model.
        progress: Called while the model is read and written.

    Raises:
        ConfigError: there is no such checkpoint, or the run has no adapter.
        RunError: the checkpoint is damaged.
        ModelError: the base model is not the one that the run began with.
    """
    Ranks.single("export")
    path = chosen(run / "checkpoints", step)
    if output.exists():
        raise ConfigError(
            f"{output} exists, and nothing is overwritten; name another folder", code="already_exists", key="output"
        )
    progress("load the model", 0, 0)
    objective = settings.build_objective() if isinstance(settings, RunSettings) else compose(settings.objective)
    loaded = as_it_began(run, settings, objective)
    if adapter and not loaded.has_adapter:
        raise ConfigError(
            f"--adapter has no effect: {run} trains the whole model; remove it", code="no_effect", key="--adapter"
        )
    progress("read the checkpoint", 0, 0)
    content = checkpoint.load(path)
    values: Mapping[str, Tensor] | None = None
    if is_without_weights(loaded):
        check_shapes(loaded.module, content.policy)
        values = content.policy
    else:
        restore_policy(loaded.module, content.policy)
        if loaded.has_adapter and not adapter:
            values = merged(loaded)
    progress("write the folder", 0, 0)
    chat = Chat.of_run(run)
    if chat is None:
        log.warning(
            "%s does not say which chat template and end token its data had; the folder has the tokenizer's own",
            run,
            extra={"event": "chat_unknown"},
        )
        chat = Chat(None, None)
    save_policy(
        loaded,
        output,
        merge=values is not None,
        chat_template=chat.template,
        response_end=chat.response_end,
        values=values,
    )
    digest = (path / checkpoint.MANIFEST_HASH).read_text(encoding="utf-8").split()[0]
    return Exported(output, run, int(content.state["progress"]["step"]), digest, adapter)


def chosen(folder: Path, step: int | None) -> Path:
    """Return the folder of a checkpoint that is intact; nothing is cleaned up, for the run may go on meanwhile.

    Args:
        folder: The folder of all checkpoints.
        step: Its step; None: the newest. Damaged ones are named.

    Raises:
        ConfigError: there is no such checkpoint.
        RunError: it is damaged, or all are.
    """
    steps = checkpoint.steps_in(folder)
    if not steps or step not in (None, *steps):
        there = f"checkpoints of steps {', '.join(map(str, steps))} are there" if steps else "no checkpoint is there"
        asked = "" if step is None else f" of step {step}"
        raise ConfigError(
            f"{folder}: there is no checkpoint{asked}; {there}",
            code="no_checkpoint",
            key="run" if not steps else "step",
        )
    for number in [step] if step is not None else reversed(steps):
        path = checkpoint.folder_of(folder, number)
        reason = checkpoint.damage(path)
        if reason is None:
            return path
        if step is not None:
            raise RunError(f"{path} is damaged: {reason}. Name another step", code="damaged", key="step")
        log.warning("%s is skipped: %s", path, reason, extra={"event": "checkpoint_skipped", "step": number})
    raise RunError(f"{folder}: all {len(steps)} checkpoints are damaged", code="damaged")


def as_it_began(run: Path, settings: RunSettings | LoopRunSettings, objective: Objective) -> Loaded:
    """Return the model as the run loaded it, on the CPU; without its weights if the run trains all of them.

    Raises:
        ModelError: only an adapter was trained, and the model below it is another one now.
    """
    is_scorer = reads_scores(objective)

    def load(has_weights: bool) -> Loaded:
        if is_scorer:
            return load_scorer(settings.model, "cpu", choice=UNUSED, has_weights=has_weights)
        return load_policy(settings.model, "cpu", choice=UNUSED, has_weights=has_weights)

    located = locate(settings.model.path, settings.model.adapter)
    loaded = load(has_weights=settings.model.lora is not None or located.adapter is not None)
    if is_without_weights(loaded) and not has_all_trained(loaded):
        loaded = load(has_weights=True)
    began = (read_json(run / "digests.json") or {}).get("model")
    now = model_digest(loaded.module) if loaded.has_adapter and began else began
    if now != began:
        raise ModelError(
            f"{settings.model.path} has other weights than when {run} began (digest {now}, then {began}), and the "
            "checkpoint has the adapter only. Give the model back its weights",
            code="other_model",
            key="model.path",
        )
    if isinstance(loaded, Policy) and isinstance(objective, PolicyGradient) and objective.critic is not None:
        assert isinstance(settings, LoopRunSettings), "only a loop has a critic"
        loaded.module.add_value_head(shares_body=settings.critic.shares_body)
    return loaded


def is_without_weights(loaded: Loaded) -> bool:
    """Return whether the weights of a model were not read."""
    return bool(loaded.module.bare_model.device.type == "meta")


def has_all_trained(loaded: Loaded) -> bool:
    """Return whether training changes all that a model folder has: no frozen parameter, no buffer that is saved."""
    model = loaded.module.bare_model
    saved = model.state_dict().keys()
    return all(p.requires_grad for p in model.parameters()) and not any(
        name in saved for name, _ in model.named_buffers()
    )


def merged(loaded: Loaded) -> Mapping[str, Tensor] | None:
    """Return what `save_policy` writes in place of the model's own values, so that the adapter is merged.

    LoRA is merged when it is written, layer by layer. Other kinds are added to the weights in place.
    """
    module = loaded.module
    if all(is_plain_lora(config) for config in module.model.peft_config.values()):
        return {}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", ".*no longer tied.*")  # the saved configuration says so too
        module.model = module.model.merge_and_unload()
    return None
