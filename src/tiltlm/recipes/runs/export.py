"""A checkpoint of a run as an ordinary model folder, whether the run has ended or not."""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from tiltlm.core import ConfigError, ModelError, RunError
from tiltlm.distributed import Ranks
from tiltlm.models import Loaded, Policy, load_policy, load_scorer, save_policy
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
from tiltlm.training.checkpoints.tensors import restore_policy

log = logging.getLogger(__name__)


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

    One process reads the base model, and the checkpoint into it tensor by tensor: one copy of the model is in memory.

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
    restore_policy(loaded.module, content.policy)
    progress("write the folder", 0, 0)
    if loaded.has_adapter and not adapter:
        merge(loaded)
    chat = Chat.of_run(run)
    if chat is None:
        log.warning(
            "%s does not say which chat template and end token its data had; the folder has the tokenizer's own",
            run,
            extra={"event": "chat_unknown"},
        )
        chat = Chat(None, None)
    save_policy(loaded, output, chat_template=chat.template, response_end=chat.response_end)
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
    """Return the model as the run loaded it, on the CPU.

    Raises:
        ModelError: only an adapter was trained, and the model below it is another one now.
    """
    loaded: Loaded
    if reads_scores(objective):
        loaded = load_scorer(settings.model, "cpu")
    else:
        loaded = load_policy(settings.model, "cpu", choice=STOCK)
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


def merge(loaded: Loaded) -> None:
    """Add the adapter to the weights, in place: no second copy of the model is made."""
    module = loaded.module
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", ".*no longer tied.*")  # the saved configuration says so too
        module.model = module.model.merge_and_unload()
