"""The training recipe: preferences in, a trained policy out, and a report that says whether training helped."""

import logging
import platform
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from numpy.typing import ArrayLike
from safetensors import SafetensorError

from tiltlm.core import NumericsError, RunError
from tiltlm.data import Encoder
from tiltlm.data.data_settings import paths_of
from tiltlm.distributed import Ranks
from tiltlm.distributed.sharding import Sharding
from tiltlm.evaluation import Gold, SampleSet
from tiltlm.models import Policy, Scorer, save_policy
from tiltlm.recipes.commits import COMMITS, at_recorded_commits, commits_of
from tiltlm.recipes.engines.served_samples import AFTER, BEFORE, open_server, with_draws
from tiltlm.recipes.measuring.measurement import (
    Measurement,
    held_out_change,
    held_out_rows,
    measure_policy,
    sample_change,
    training_accuracy,
)
from tiltlm.recipes.measuring.probability import Start, compare_with_start, measure_start
from tiltlm.recipes.prepare import Prepared, ensure_reference, prepare
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.run_settings import RunSettings
from tiltlm.recipes.trained_run import TrainedRun
from tiltlm.reference import Reference, model_facts
from tiltlm.reference.digests import numeric_path
from tiltlm.report import RunReport, series_of, to_plain, verdict_of, write_report
from tiltlm.runs import RunDirectory, RunLog, run_log
from tiltlm.runs.chat import Chat
from tiltlm.storage.versions import python_and_packages
from tiltlm.training import Listener, Origin, TrainingResult, train_loop
from tiltlm.training.guards import explained_stop
from tiltlm.training.recorder import MetricsRecord
from tiltlm.version import __version__

log = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "datasets", "peft", "numpy")
SHOWN = ("loss", "rewards/accuracies", "rewards/margins")
"""Metrics that are shown beside the progress bar."""


MeasuredGold = tuple[Gold, tuple[ArrayLike, ArrayLike]]
"""The comparison by a gold reward, and the [P, n] rewards of the samples before and after training."""
GoldMeasure = Callable[[SampleSet, SampleSet], MeasuredGold]
"""Computes the gold reward of samples before and after training, in a world whose reward is known."""


def train(
    settings: RunSettings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    waits: bool = False,
    progress: ProgressCallback = silent,
) -> TrainedRun:
    """Train a policy, measure it on held-out data before and after, save it, and write the report.

    Under a launcher (`accelerate launch`, `torchrun`) the processes share training and measuring, and rank 0 writes.

    Args:
        settings: All settings of the run. They have been checked (`recipes.run_settings`).
        resume: Continue the run in `settings.output`.
        overwrite: Delete the run in `settings.output`.
        waits: Wait for an earlier writer of `settings.output` to end.
        progress: Called during the reference pass, training and sampling.

    Raises:
        TiltError: something is wrong. If it is found before the first step, nothing has been written.
    """
    with run_log() as messages:
        return train_logged(settings, messages, resume=resume, overwrite=overwrite, waits=waits, progress=progress)


def train_logged(
    settings: RunSettings, messages: RunLog, *, resume: bool, overwrite: bool, waits: bool, progress: ProgressCallback
) -> TrainedRun:
    """Train as `train` does; rank 0 writes the messages into the run directory as soon as there is one."""
    ranks = Ranks.join()
    sharding = Sharding.of(settings.training.parallelism, ranks)
    progress("load model and data", 0, 0)
    with explained_stop("nothing is written yet. Start again with the same command"):
        ready = prepare(at_recorded_commits(settings) if resume else settings, ranks, sharding)
    settings.training.check_held_out(len(ready.data.held_out))
    if ranks.size > 1:
        refuse_different(digests(ready), ranks)
        log.info(
            "%d processes, training.parallel=%s",
            ranks.size,
            settings.training.parallel,
            extra={"event": "processes", "num_processes": ranks.size, "parallel": settings.training.parallel},
        )
    with (
        explained_stop("what is done is kept. Continue with --resume"),
        RunDirectory.open(settings.output, resume=resume, overwrite=overwrite, ranks=ranks, waits=waits) as run,
    ):
        if ranks.is_first:
            messages.write_to(run.path)
        return carry_out(run, ready, settings, ranks, resume=resume, progress=progress)


def refuse_different(digests: Mapping[str, str], ranks: Ranks) -> None:
    """Require that all processes loaded the same: each loads its own copy, perhaps on another machine.

    Args:
        digests: What must be equal, by what it is: data, model, reference, numeric path.
        ranks: The processes.

    Raises:
        RunError: one of them differs.
    """
    for what, own in digests.items():
        found = ranks.gather(own)
        for rank, other in enumerate(found):
            if other != found[0]:
                raise RunError(
                    f"rank {rank} has another {what} ({other}) than rank 0 ({found[0]}). Give every machine the same "
                    "files and packages, and set model.precision if their processors differ",
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
    command: str | None = None,
    gold: GoldMeasure | None = None,
) -> TrainedRun:
    """Run the training and the measurements around it. All processes train and measure; rank 0 writes.

    Args:
        run: The open run directory.
        ready: Model, data and reference.
        settings: All settings of the run.
        ranks: The processes of the run.
        resume: Continue from the newest checkpoint.
        progress: Called during the reference pass, training and sampling.
        title: Title of the report; None means method and model.
        command: The command that repeats the run; None means `tiltlm train` with the run's configuration.
        gold: Computes the gold reward of samples; None if there is no known reward.
    """
    describe_run(run, ready, settings)
    ensure_reference(ready.reference, ready.examples, progress, ranks)
    server = open_server(run.path, ready, settings, ranks)
    ready = with_draws(ready, server, BEFORE)
    before = measure_policy(ready, settings, "tokens sampled, before", progress, ranks, trained=False)
    start = measure_start(ready, settings, before, ranks)
    result = train_loop(
        ready.policy.module,
        ready.data.train,
        ready.data.held_out,
        ready.objective,
        ready.reference if ready.objective.needs_reference else None,
        settings.training,
        run,
        ready.data.fingerprint,
        resume=resume,
        sources=ready.sources,
        origin=origin_of(ready.policy, ready.model_digest),
        ranks=ranks,
        listener=listener(progress),
    )
    progress("save", 0, 0)
    save(ready, run.path, ranks)  # before anything that may fail, so that nothing can lose the policy
    report = make_report(run, ready, settings, result)
    report = replace(report, title=title or report.title, command=command or report.command)
    rows: list[dict[str, Any]] = []
    ready = with_draws(ready, server, AFTER)
    try:
        report, rows = measured(report, ready, settings, (before, start), progress, gold, ranks)
    except NumericsError as error:
        log.error("the trained policy could not be measured: %s", error, extra={"event": "not_measured"})
        report = replace(report, failure=str(error))
    return ranks.first(lambda: conclude(run, report, result, rows))


def measured(
    report: RunReport,
    ready: Prepared,
    settings: RunSettings,
    earlier: tuple[Measurement, Start | None],
    progress: ProgressCallback,
    gold: GoldMeasure | None,
    ranks: Ranks,
) -> tuple[RunReport, list[dict[str, Any]]]:
    """Measure the trained policy, and return the report with what was found, and the rows of `held_out_rows`.

    All processes call it together and return the same. Arguments: see `carry_out`.

    Raises:
        NumericsError: the policy gives numbers that are not finite.
    """
    before, start = earlier
    after = measure_policy(ready, settings, "tokens sampled, after", progress, ranks, trained=True)
    progress("measure some of the training data", 0, 0)
    found, rewards = None, None
    if gold is not None and before.draws is not None and after.draws is not None:
        of_gold, draws = gold, (before.draws, after.draws)
        found, rewards = ranks.first(lambda: of_gold(*draws))
    report = replace(
        report,
        held_out=held_out_change(ready, before, after),
        training_accuracy=training_accuracy(ready, settings, ranks),
        samples=sample_change(ready, before, after, rewards),
        gold=found,
        probability=compare_with_start(ready, settings, start, before, after, ranks),
    )
    return report, held_out_rows(ready, before, after)


def origin_of(policy: Policy | Scorer, digest: str) -> Origin:
    """Return what identifies a model that is about to be trained.

    Args:
        policy: The model as loaded.
        digest: Its `model_digest`.
    """
    rounding = {"model.layout": policy.module.layout, "model.compile": policy.settings.compile}
    return Origin(model_facts(policy.module, digest), rounding)


def conclude(run: RunDirectory, report: RunReport, result: TrainingResult, rows: list[dict[str, Any]]) -> TrainedRun:
    """Write the model card and the report, and return the run. Only rank 0 calls it."""
    run.write_text("model/README.md", model_card(report))
    write_report(run.path, report)
    return TrainedRun(run.path, result, report, rows)


def describe_run(run: RunDirectory, ready: Prepared, settings: RunSettings) -> None:
    """Write configuration, versions, data accounting and digests before the run: enough to run it again.

    What a resumed run has of these files stays as it is: the loop refuses settings that would change it. A run that was
    killed before it had all of them gets the missing ones.
    """
    data = ready.data
    account = {"fingerprint": data.fingerprint, "content": dict(data.content), "sources": dict(data.sources)}
    files = {
        "versions.json": versions(),
        "data.json": {**data.accounting.as_dict(), **account},
        "digests.json": digests(ready),
        COMMITS: commits_of(ready.policy, data),
    }
    if not (run.path / "config.yaml").exists():
        run.write_text("config.yaml", yaml.safe_dump(to_plain(settings), sort_keys=False, allow_unicode=True))
    for name, content in files.items():
        if not (run.path / name).exists():
            run.write_json(name, content)
    Chat(data.encoder.given_template, data.end_token_id).write(run)


def make_report(run: RunDirectory, ready: Prepared, settings: RunSettings, result: TrainingResult) -> RunReport:
    """Return the report of the run, without its measurements."""
    facts = {
        "Model": short(settings.model.path) + (" with a new LoRA adapter" if settings.model.lora else ""),
        "Data": ", ".join(map(short, paths_of(settings.data.train))),
        "Objective": settings.objective_text,
        "Reference": reference_fact(ready.reference),
        "Training": f"{result.num_steps} steps of {settings.training.batch_size} examples, "
        + (f"{result.num_bad_steps} of them skipped, " if result.num_bad_steps else "")
        + f"peak learning rate {result.learning_rate:g}",
        "Examples": f"{len(ready.data.train):,} trained on, {len(ready.data.held_out):,} held out",
    }
    return RunReport(
        title=f"{settings.objective_title} on {short(settings.model.path)}",
        facts=facts,
        skipped=result.num_bad_steps,
        series=series_of(result.history),
        data=ready.data.accounting.as_dict(),
        config=to_plain(settings),
        versions=versions(),
        digests=digests(ready),
        notes=(*settings.objective_notes, *ready.policy.notes, *ready.data.notes),
        command=f"tiltlm train {shlex.quote(str(run.path / 'config.yaml'))} output=NEW_FOLDER",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def reference_fact(reference: Reference) -> str:
    """Return the name of the reference, and which model is measured against if the reference moves."""
    named = " ".join([short(reference.name), reference.digest[:8]]).strip()
    return f"{named}; held-out margins and KL are to the untrained policy" if reference.moves else named


def short(name: str) -> str:
    """Return the last part of a local path, because others will read the page; a name on the hub stays as it is."""
    return Path(name).name if Path(name).exists() else name


def save(ready: Prepared, folder: Path, ranks: Ranks) -> None:
    """Write the trained policy of a run; see `save_model`."""
    save_together(ready.policy, ready.data.encoder, ready.data.end_token_id, folder, ranks)


def save_together(policy: Policy | Scorer, encoder: Encoder, end: int, folder: Path, ranks: Ranks) -> None:
    """Write a trained policy as `save_model` does: rank 0 a whole one, all a sharded one. All processes call it."""

    def act() -> None:
        save_model(policy, encoder, end, folder)

    if policy.sharding is None:
        ranks.first(act)
    else:
        act()


def save_model(policy: Policy | Scorer, encoder: Encoder, end: int, folder: Path) -> None:
    """Write a trained policy as an ordinary model folder, `model/`, and an adapter also on its own, `adapter/`.

    The processes that share a sharded policy call this together.

    Args:
        policy: The policy or reward model.
        encoder: Has the chat template that was given, if any.
        end: The token that ends responses.
        folder: The run directory.

    Raises:
        RunError: the disk is full, or a file cannot be written.
    """
    template = encoder.given_template
    ranks = Ranks() if policy.sharding is None else policy.sharding.ranks
    for name in ("model", "adapter"):
        ranks.first(partial(shutil.rmtree, folder / name, ignore_errors=True))  # this run may have ended before
    try:
        if policy.has_adapter:
            save_policy(policy, folder / "adapter", chat_template=template, response_end=end)
        save_policy(policy, folder / "model", merge=True, chat_template=template, response_end=end)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{folder / 'model'}: the trained model could not be written ({error}). Training is done and its last "
            "checkpoint is kept: free space there, then continue with --resume",
            code="not_writable",
            key="output",
        ) from error


def model_card(report: RunReport) -> str:
    """Return README.md of the model folder: what the model is, how it was made, whether training helped."""
    facts = "\n".join(f"- **{label}**: {text}" for label, text in report.facts.items())
    return (
        "---\nlibrary_name: transformers\ntags: [tiltlm, preference-alignment]\n---\n\n"
        f"# {report.title}\n\n{verdict_of(report).sentence}\n\n{facts}\n\n"
        f"Made with tiltlm {report.versions['tiltlm']}. The full account is `report.html` beside this folder.\n"
    )


def listener(progress: ProgressCallback) -> Listener:
    """Return a listener that logs notes and passes steps on, with the last metrics as figures."""
    if progress is silent:  # nobody reads the figures
        return Listener(note=log.info)
    figures: dict[str, float] = {}

    def record(line: MetricsRecord) -> None:
        figures.update({name.removeprefix("rewards/"): line[name] for name in SHOWN if name in line})

    return Listener(note=log.info, record=record, step=lambda done, total: progress("train", done, total, **figures))


def versions() -> dict[str, str]:
    """Return the versions of the platform, Python and packages that computed the run."""
    return {"platform": platform.platform(), "tiltlm": __version__, **python_and_packages(*PACKAGES)}


def digests(ready: Prepared) -> dict[str, str]:
    """Return digests of model, reference and data, and what else decides a log-probability: precision, versions."""
    return {
        "model": ready.model_digest,
        "reference": f"{ready.reference.name} {ready.reference.digest}".strip(),
        "data": ready.data.fingerprint,
        "numeric path": numeric_path(ready.policy.module),
    }
