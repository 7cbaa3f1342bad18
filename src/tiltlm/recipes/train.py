"""The whole of a training run: preferences in, a trained policy out, and a page that says whether it helped."""

import logging
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from tiltlm.core import RunError
from tiltlm.distributed import Ranks
from tiltlm.distributed.wrapping import check_parallel, trainable_copy
from tiltlm.evaluation import Gold, SampleSet
from tiltlm.models import save_policy
from tiltlm.recipes.measurement import Measurement, held_out_change, measure_policy, sample_change, training_accuracy
from tiltlm.recipes.prepare import Prepared, ensure_reference, prepare
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.reference import Reference
from tiltlm.reference.digests import numeric_path
from tiltlm.report import RunReport, series_of, to_plain, verdict_of, write_report
from tiltlm.runs import RunDirectory, check_contents
from tiltlm.training import Listener, TrainingResult, train_loop
from tiltlm.training.recorder import MetricsRecord

log = logging.getLogger(__name__)

PACKAGES = ("tiltlm", "torch", "transformers", "tokenizers", "accelerate", "datasets", "peft", "numpy")
SHOWN = ("loss", "rewards/accuracies", "rewards/margins")
"""Metrics worth a place beside the progress bar."""


@dataclass(frozen=True)
class TrainedRun:
    """A finished run."""

    path: Path
    """The run directory: `model/` is the trained policy, `report.html` the verdict."""
    training: TrainingResult
    report: RunReport
    """What `report.html` shows and `report.json` holds."""

    @property
    def verdict(self) -> str:
        """One sentence: did it help?"""
        return verdict_of(self.report).sentence

    def summary(self) -> str:
        """What a terminal shows at the end."""
        lines = [self.verdict]
        if self.report.training_accuracy is not None:
            lines.append(f"On what it was trained on it ranks {self.report.training_accuracy.estimate:.0%} right.")
        return "\n".join([*lines, f"model   {self.path / 'model'}", f"report  {self.path / 'report.html'}"])


GoldMeasure = Callable[[SampleSet, SampleSet], Gold]
"""From samples before and after training to their gold reward, in a ranks that has one."""


def train(
    settings: RunSettings, *, resume: bool = False, overwrite: bool = False, progress: ProgressCallback = silent
) -> TrainedRun:
    """Train a policy, measure it before and after on held-out data, save it, and write the report.

    Under a launcher (`accelerate launch`, `torchrun`) its processes share the training; the first one writes.

    Args:
        settings: everything the run is told.
        resume: go on with the run that is in `settings.output`.
        overwrite: delete the run that is there.
        progress: told of the reference pass, the steps and the samples.

    Raises:
        TiltError: something is wrong; before the first step, nothing has been written.
    """
    ranks = Ranks.join()
    check_parallel(settings.training.parallel, ranks)
    ranks.first(lambda: check_contents(settings.output, resume, overwrite))
    ready = prepare(settings, ranks.device)
    settings.training.check_held_out(len(ready.data.held_out))
    if ranks.size > 1:
        refuse_different(ready, ranks)
        log.info(
            "%d processes, training.parallel=%s",
            ranks.size,
            settings.training.parallel,
            extra={"event": "processes", "num_processes": ranks.size, "parallel": settings.training.parallel},
        )
    with RunDirectory.open(settings.output, resume=resume, overwrite=overwrite, ranks=ranks) as run:
        return carry_out(run, ready, settings, ranks, resume=resume, progress=progress)


def refuse_different(ready: Prepared, ranks: Ranks) -> None:
    """Every process has loaded for itself, perhaps on another machine: it must have come to the same.

    Raises:
        RunError: data, model, reference or numeric path differ.
    """
    for what, own in {**digests(ready), "numeric path": numeric_path(ready.policy.module)}.items():
        found = ranks.gather(own)
        for rank, other in enumerate(found):
            if other != found[0]:
                raise RunError(
                    f"process {rank} has another {what} ({other}) than process 0 ({found[0]}); give every machine the "
                    "same files and packages, and name model.precision where it was chosen by measuring",
                    code="processes_differ",
                )


def carry_out(
    run: RunDirectory,
    ready: Prepared,
    settings: RunSettings,
    ranks: Ranks,
    *,
    resume: bool = False,
    progress: ProgressCallback = silent,
    title: str | None = None,
    gold: GoldMeasure | None = None,
) -> TrainedRun:
    """The run itself, in an open run directory, from what has been prepared. All processes train, the first measures.

    Args:
        title: of the report; None: method and model.
        gold: measures a gold reward, where there is one.
    """
    if not resume:  # a resumed run is what it was; the loop refuses settings that would make it another
        describe_run(run, ready, settings)
    ensure_reference(ready.reference, ready.examples, progress, ranks)
    before = ranks.first(lambda: measure_policy(ready, settings, "samples before", progress, trained=False))
    with trainable_copy(ready.policy.module, settings.training.parallel, aside=not ready.reference.is_live) as module:
        result = train_loop(
            module,
            ready.data.train,
            ready.data.held_out,
            ready.objective,
            ready.reference if ready.objective.needs_reference else None,
            settings.training,
            run,
            ready.data.fingerprint,
            resume=resume,
            ranks=ranks,
            listener=listener(progress),
        )
    return ranks.first(lambda: conclude(run, ready, settings, before, result, progress, title, gold))


def conclude(
    run: RunDirectory,
    ready: Prepared,
    settings: RunSettings,
    before: Measurement,
    result: TrainingResult,
    progress: ProgressCallback,
    title: str | None,
    gold: GoldMeasure | None,
) -> TrainedRun:
    """After the last step, in the first process: measure again, save, report."""
    after = measure_policy(ready, settings, "samples after", progress, trained=True)
    report = replace(
        make_report(run, ready, settings, result),
        held_out=held_out_change(ready, before, after),
        training_accuracy=training_accuracy(ready, settings),
        samples=sample_change(ready, before, after),
        gold=gold(before.draws, after.draws) if gold and before.draws and after.draws else None,
    )
    report = replace(report, title=title) if title else report
    save(ready, run.path, report)
    write_report(run.path, report)
    return TrainedRun(run.path, result, report)


def describe_run(run: RunDirectory, ready: Prepared, settings: RunSettings) -> None:
    """Write what the run is made of, before it begins: enough to run it again."""
    run.write_text("config.yaml", yaml.safe_dump(to_plain(settings), sort_keys=False, allow_unicode=True))
    run.write_json("versions.json", versions())
    run.write_json("data.json", {**ready.data.accounting.as_dict(), "fingerprint": ready.data.fingerprint})
    run.write_json("digests.json", digests(ready))


def make_report(run: RunDirectory, ready: Prepared, settings: RunSettings, result: TrainingResult) -> RunReport:
    """What there is to tell about the run, but for what was measured."""
    sources = [settings.data.train] if isinstance(settings.data.train, str) else settings.data.train
    facts = {
        "Model": short(settings.model.path) + (" with a new LoRA adapter" if settings.model.lora else ""),
        "Data": ", ".join(map(short, sources)),
        "Objective": settings.objective_text,
        "Reference": reference_fact(ready.reference),
        "Training": f"{result.num_steps} steps of {settings.training.batch_size} examples, "
        f"peak learning rate {result.learning_rate:g}",
        "Examples": f"{len(ready.data.train):,} trained on, {len(ready.data.held_out):,} held out",
    }
    return RunReport(
        title=f"{settings.objective_title} on {short(settings.model.path)}",
        facts=facts,
        series=series_of(result.history),
        data=ready.data.accounting.as_dict(),
        config=to_plain(settings),
        versions=versions(),
        digests=digests(ready),
        notes=(*settings.objective_notes, *ready.policy.notes, *ready.data.notes),
        command=f"tiltlm train {run.path / 'config.yaml'} output=NEW_FOLDER",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def reference_fact(reference: Reference) -> str:
    """Which reference the objective had, and what is measured where that one does not stand still."""
    named = " ".join([short(reference.name), reference.digest[:8]]).strip()
    return f"{named}; held-out margins and KL are to the untrained policy" if reference.name == "moving" else named


def short(name: str) -> str:
    """A folder or file by its last part, for a page that others will see; a name on the hub as it is."""
    return Path(name).name if Path(name).exists() else name


def save(ready: Prepared, folder: Path, report: RunReport) -> None:
    """The trained policy as an ordinary model folder, `model/`; of an adapter also itself, `adapter/`."""
    for name in ("model", "adapter"):
        shutil.rmtree(folder / name, ignore_errors=True)  # of an earlier end of this same run
    if ready.policy.has_adapter:
        save_policy(ready.policy, folder / "adapter")
    save_policy(ready.policy, folder / "model", merge=True, card=model_card(report))


def model_card(report: RunReport) -> str:
    """README.md of the model folder: what it is, how it was made, whether it helped."""
    facts = "\n".join(f"- **{label}**: {text}" for label, text in report.facts.items())
    return (
        "---\nlibrary_name: transformers\ntags: [tiltlm, preference-alignment]\n---\n\n"
        f"# {report.title}\n\n{verdict_of(report).sentence}\n\n{facts}\n\n"
        f"Made with tiltlm {report.versions['tiltlm']}. The full account is `report.html` beside this folder.\n"
    )


def listener(progress: ProgressCallback) -> Listener:
    """Notes to the log, steps to the progress display with the last figures beside them."""
    figures: dict[str, float] = {}

    def record(line: MetricsRecord) -> None:
        figures.update({name.removeprefix("rewards/"): line[name] for name in SHOWN if name in line})

    return Listener(note=log.info, record=record, step=lambda done, total: progress("train", done, total, **figures))


def versions() -> dict[str, str]:
    """What computed this: Python, platform, packages."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def digests(ready: Prepared) -> dict[str, str]:
    """What the run is made of, by content."""
    return {
        "model": ready.model_digest,
        "reference": f"{ready.reference.name} {ready.reference.digest}".strip(),
        "data": ready.data.fingerprint,
    }
