"""The call that trains on fresh samples, round by round. What is heavy is imported inside the function."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.config.calls.training import announce_imports
from tiltlm.config.command import command
from tiltlm.recipes.progress import ProgressCallback, display, quiet_libraries

if TYPE_CHECKING:
    from tiltlm.config.resolve import Config
    from tiltlm.recipes.online.looped import LoopedRun
    from tiltlm.recipes.online.presets import PresetList

__all__ = ["loop"]

READS = (
    *("data.max_row_mb", "data.damaged_files"),
    *(f"data.{name}" for name in ("train", "split", "subset", "revision", "columns", "ignore", "on_bad", "max_bad")),
    *(f"data.{name}" for name in ("limit", "as_chat", "transcripts", "chat_template", "chat_template_kwargs")),
    *("model", "output", "objective", "loop", "rivals", "examples", "shaping", "correction", "critic"),
    *("learned_judge", "stop", "sampling", "training", "reference.name", "reference.revision", "engine.name"),
    *("engine.server", "engine.sync", "engine.model", "engine.logprobs", "engine.key_variable", "engine.timeout"),
)
"""Settings that a loop reads."""


@command("model", "data", "output")
def loop(
    config: "Config" = None,
    /,
    *,
    preset: str | None = None,
    judge: Any = None,
    held_out_judge: Any = None,
    unaudited: bool = False,
    accept_errors: bool = False,
    replay: str | Path | None = None,
    resume: bool = False,
    resume_if_exists: bool = False,
    overwrite: bool = False,
    list: bool = False,
    progress: ProgressCallback | bool | None = True,
    **settings: Any,
) -> "LoopedRun | PresetList":
    """Train on fresh samples of the policy, round by round.

    In each round the policy answers some prompts, a judge says which answers are better, and the policy is trained on
    that. A preset is one method of the literature: online DPO, iterative DPO, RAFT and others.

    Args:
        config: A YAML file, or its content.
        preset: Defaults of a method, which file and overrides may change; --list shows them all.
        judge: What judges: KIND:ARGUMENT, such as reward_model:FOLDER or gold, or a YAML file with its settings.
        held_out_judge: A judge that scores the samples of each round and does not train, in the same forms.
        unaudited: Train by a judge that has no audit.
        accept_errors: Go on if more than 5 % of the judgements of a round failed; these samples are left out.
        replay: Folder of a finished loop, whose samples and judgements are used: nothing is drawn or judged, and only
            examples, objective and training may be others.
        resume: Go on with the loop in the output folder; nothing that is there is drawn or judged again.
        resume_if_exists: Go on with the loop if the output folder holds one, else start it: one command for the first
            start and for every restart by torchrun, Slurm or Kubernetes. It waits for an earlier writer to end.
        overwrite: Delete the loop in the output folder and start again.
        list: Show the presets and run nothing.
        progress: True shows it: as a bar, in a notebook as a line. False: nothing is shown. A function is called with
            label, units done, units in all, and figures to show.
        **settings: Overrides of `config`. Model, data (the prompts) and output must be given in one of the two.

    Returns:
        The rounds: `cards`, `to_pandas()`, and `path` of the run with the model. With `list`, the presets.

    Raises:
        TiltError: Something is wrong; the message says what to change. What was drawn and judged is kept.
    """
    from tiltlm.config.resolve import resolve
    from tiltlm.core import ConfigError
    from tiltlm.online.presets import preset_of

    if list:
        from tiltlm.recipes.online.presets import PresetList

        return PresetList()
    chosen = None if preset is None else preset_of(preset)
    content, (given, measuring) = split_judges(config, judge, held_out_judge)
    if given is None and chosen is not None and chosen.judge:
        given = chosen.judge
    from tiltlm.config.judges import read_judge
    from tiltlm.distributed.launched import in_first_process
    from tiltlm.recipes.online.loop_run import LoopRequest, LoopRunSettings
    from tiltlm.runs import check_start

    defaults = {} if chosen is None else dict(chosen.settings)
    resolved = resolve(LoopRunSettings, content, defaults, READS, **settings)
    if given is None and resolved.examples.kind.needs_judge:
        raise ConfigError(
            "no judge is named; give --judge, such as reward_model:FOLDER or gold", code="missing_setting", key="judge"
        )
    if given is not None and not resolved.examples.kind.needs_judge:
        raise ConfigError(
            f"judge has no effect: examples.rule={resolved.examples.rule} needs none; remove it, or give it as "
            "--held-out-judge",
            code="no_effect",
            key="judge",
        )
    request = LoopRequest(
        judge=None if given is None else read_judge(given),
        held_out_judge=None if measuring is None else read_judge(measuring),
        preset=preset or "",
        unaudited=unaudited,
        accept_errors=accept_errors,
        replay=None if replay is None else Path(replay),
        resume=in_first_process(lambda: check_start(resolved.output, resume, overwrite, resume_if_exists)),
        overwrite=overwrite,
        waits=resume_if_exists,
    )
    with display(progress) as draw:
        announce_imports(draw)
        from tiltlm.recipes.online.loop import loop as recipe

        with quiet_libraries():
            return recipe(resolved, request, progress=draw)


def split_judges(config: "Config", *judges: Any) -> tuple["Config", tuple[Any, ...]]:
    """Return a configuration without its judges, and the judges: those that are given, else those of the configuration.

    Args:
        config: A YAML file, or its content, with the keys `judge` and `held_out_judge` or without.
        *judges: The two judges; None where none is given.

    Raises:
        ConfigError: The file cannot be read.
    """
    from tiltlm.config.documents import read_document

    if config is None:
        return None, judges
    content = dict(config) if isinstance(config, Mapping) else read_document(Path(config))[0]
    own = [content.pop(name, None) for name in ("judge", "held_out_judge")]
    found = tuple(known if given is None else given for given, known in zip(judges, own, strict=True))
    return (config if own == [None, None] else content), found
