"""What a loop refuses because of its engine, its judges, a recorded loop, or the run that it goes on with."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tiltlm.core import ConfigError
from tiltlm.judging import Comparer, JudgeSettings, Scorer, check_roles
from tiltlm.objectives import Objective
from tiltlm.objectives.shapes.rollouts import PolicyGradient
from tiltlm.online.rounds import RoundFolder
from tiltlm.recipes.answers.systems import open_judge
from tiltlm.recipes.online.loop_run import LoopRequest, LoopRunSettings
from tiltlm.recipes.train import versions
from tiltlm.runs import RunDirectory

log = logging.getLogger(__name__)

FREE = frozenset(
    {
        *("loop.save_every", "output", "training.log_every", "training.keep_checkpoints", "training.trackers"),
        *("engine.key_variable", "engine.timeout"),
    }
)
"""Settings that may change when a loop goes on, as those of `stop` may; `loop.rounds` too, if the learning rate does
not depend on it, and the URL of a server."""


def check_engine(settings: LoopRunSettings, request: LoopRequest) -> None:
    """Refuse an engine that cannot draw the samples of a loop.

    Raises:
        ConfigError: it cannot.
    """
    engine, num_rivals, rounds = settings.engine, settings.rivals.n, settings.loop.rounds
    if num_rivals and not engine.is_exact:
        raise ConfigError(
            f"engine is {engine.name}, and rivals.n is {num_rivals}: samples of the reference, or of its mixture with "
            "the policy, need engine=own",
            code="needs_own_engine",
            key="engine.name",
        )
    if engine.name == "generate_batch" and settings.training.parallelism.is_sharded:
        raise ConfigError(
            f"engine is generate_batch, and training.parallel is {settings.training.parallel}: in each process the "
            "library decides how often it runs the model, and processes that share a model must run it equally often. "
            "Use engine=own or a server (engine=URL), or set training.parallel=replicate",
            code="not_supported",
            key="engine.name",
        )
    if engine.is_server and engine.sync == "none" and rounds > 1 and request.replay is None:
        raise ConfigError(
            f"engine.sync is none, and loop.rounds is {rounds}: after the first round the server would draw with old "
            "weights. Set engine.sync to lora or full",
            code="missing_setting",
            key="engine.sync",
        )


def warn_uncorrected(settings: LoopRunSettings) -> None:
    """Warn of a policy gradient whose samples another numeric path draws, if they are not corrected."""
    if settings.engine.is_exact or settings.correction.kind != "none":
        return
    log.warning(
        "engine %s computes with other numerics than the policy, and its samples count as if the policy had drawn "
        "them. Set correction.kind=token_truncate",
        settings.engine.name,
        extra={"event": "no_correction"},
    )


def check_request(settings: LoopRunSettings, request: LoopRequest, objective: Objective, judge: object) -> None:
    """Refuse what judge or replay rule out.

    Raises:
        ConfigError: they do not fit.
    """
    learns = bool(settings.learned_judge.labels)
    if request.replay is not None:
        recorded_rounds(request.replay)
        if learns:
            check_recorded_labels(settings, request.replay)
        if isinstance(objective, PolicyGradient):
            raise ConfigError(
                "replay: a policy gradient needs samples of the policy that it trains, and these are of another; "
                "replay with an objective of pairs, or draw again",
                code="not_supported",
                key="replay",
            )
    reads_scores = bool(objective.needs) and not settings.examples.win_rates  # ranks are made of scores
    gives_scores = learns or isinstance(judge, Scorer)
    if (reads_scores or settings.examples.kind.needs_scores) and not gives_scores:
        what = f"examples.rule={settings.examples.rule}" if settings.examples.kind.needs_scores else "the objective"
        raise ConfigError(
            f"{what} needs scores, and no judge gives them; use a judge that scores"
            + (", or set examples.win_rates=true" if reads_scores and not settings.examples.kind.needs_scores else ""),
            code="needs_scores",
            key="judge",
        )
    if request.is_own_judge and learns:
        raise ConfigError(
            "judge.model is self, so a learned judge would learn the opinion of the policy that it labels for; remove "
            "learned_judge.labels, or name another judge",
            code="conflict",
            key="learned_judge.labels",
        )
    if request.is_own_judge and request.held_out_judge is None:
        raise ConfigError(
            "judge.model is self, so the judge changes with the policy, and its scores cannot show whether answers got "
            "better; give a judge that does not train: --held-out-judge",
            code="needs_held_out",
            key="held_out_judge",
        )
    if settings.stop.held_out_falls and request.held_out_judge is None:
        raise ConfigError(
            "stop.held_out_falls has no effect: there is no judge that does not train; give --held-out-judge",
            code="no_effect",
            key="stop.held_out_falls",
        )
    if not settings.shaping.is_off and not gives_scores:
        raise ConfigError("shaping has no effect: no judge gives scores; remove it", code="no_effect", key="shaping")


def check_recorded_labels(settings: LoopRunSettings, replay: Path) -> None:
    """Require that a recorded loop has the labels that a learned judge would learn from.

    Raises:
        ConfigError: it had no learned judge, or chose other pairs.
    """
    if RoundFolder.of(replay, 0).gold is None:
        raise ConfigError(
            f"replay: {replay} has no labels for a learned judge, because it had none; set learned_judge.labels=0 to "
            "train on its judgements, or draw again",
            code="no_labels",
            key="replay",
        )
    recorded = yaml.safe_load((replay / "config.yaml").read_text(encoding="utf-8"))["learned_judge"]
    for name in ("labels", "choose"):
        if recorded[name] != getattr(settings.learned_judge, name):
            raise ConfigError(
                f"learned_judge.{name} has no effect: the recorded labels are used, which were bought with "
                f"{name}={recorded[name]}; remove it",
                code="no_effect",
                key=f"learned_judge.{name}",
            )


def open_held_out(settings: JudgeSettings | None, judge: Scorer | Comparer | None) -> Scorer | None:
    """Return the judge that measures; None without settings.

    Raises:
        ConfigError: it compares, or is the judge that trains.
    """
    if settings is None:
        return None
    found = open_judge(settings)
    if not isinstance(found, Scorer):
        raise ConfigError(
            f"held_out_judge: {found.name} compares, and the samples of a round have no rival; use one that scores",
            code="not_supported",
            key="held_out_judge",
        )
    check_roles([found] if judge is None else [judge, found])
    return found


def describe(run: RunDirectory, settings: dict[str, Any]) -> None:
    """Write configuration and versions; of a loop that goes on, require the configuration that it began with.

    Raises:
        ConfigError: a setting differs that decides what is drawn, judged or trained.
    """
    path = run.path / "config.yaml"
    if path.exists():
        known, now = (flat(plain) for plain in (yaml.safe_load(path.read_text(encoding="utf-8")), settings))
        is_constant = now.get("training.schedule") == "constant" and now.get("training.warmup_ratio") == 0
        free = FREE | ({"loop.rounds"} if is_constant or now.get("loop.restarts") else set())
        if all(str(plain.get("engine.name")).startswith("http") for plain in (known, now)):
            free |= {"engine.name", "engine.model"}  # the same weights at another place, as the probe proves
        for key in sorted(known.keys() | now.keys()):
            if known.get(key) != now.get(key) and key not in free and not key.startswith("stop."):
                raise ConfigError(
                    f"--resume: {key} was {known.get(key)} and is {now.get(key)}. Restore the setting, or start again "
                    "with --overwrite",
                    code="other_run",
                    key=key,
                )
    run.write_text("config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    run.write_json("versions.json", versions())


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found


def recorded_rounds(folder: Path) -> int:
    """Return how many rounds of a loop are done.

    Raises:
        ConfigError: there is none.
    """
    found = sorted((folder / "rounds").glob("[0-9]*"))
    number = 0
    while number < len(found) and RoundFolder(found[number]).last_step is not None:
        number += 1
    if number == 0:
        raise ConfigError(f"replay: {folder} holds no finished round of a loop", code="no_rounds", key="replay")
    return number
