"""The call that compares methods. What is heavy is imported inside the function."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.config.calls.grids import runs_of_grid
from tiltlm.config.command import command
from tiltlm.recipes.progress import ProgressCallback, display, quiet_libraries

if TYPE_CHECKING:
    from tiltlm.config.resolve import Config
    from tiltlm.recipes.studies.compare_methods import ComparedMethods

__all__ = ["compare_methods"]


@command("model", "data", "store")
def compare_methods(
    config: "Config" = None,
    /,
    *,
    methods: str | Sequence[str] = "dpo,ipo,simpo",
    trials: int | None = None,
    seeds: int = 3,
    budget: int | None = None,
    learning_rates: str | float | Sequence[float] | None = None,
    max_kl: float | None = None,
    judge: Any = None,
    prompts: str | Path | None = None,
    n: int | None = None,
    max_new_tokens: int | None = None,
    limit: int | None = None,
    output: str | Path = "methods",
    markdown: bool = False,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback | bool | None = True,
    **settings: Any,
) -> "ComparedMethods":
    """Compare methods with equal tuning on your data.

    Every method has the same number of trials over its own range of settings (`tiltlm objectives NAME` shows it). The
    best is chosen on one half of the held-out prompts, trained again with new seeds, and compared on the other half.

    Args:
        config: A YAML file, or its content; its objective is replaced.
        methods: Names of methods.
        trials: Settings that are tried for each method (default 4).
        seeds: Runs of each chosen setting, which are compared.
        budget: Number of runs in all, in place of trials: each method gets the same part of it.
        learning_rates: Learning rates that are tried; without it the configured one (or that of the model's size), a
            third of it, and three times it.
        max_kl: Choose only settings whose KL is at most this, nats per response.
        judge: What judges answers: KIND:ARGUMENT, or a YAML file with its settings; without it, methods are compared by
            how they rank held-out pairs.
        prompts: With a judge, data whose prompts are answered; without it, the prompts that the runs hold out.
        n: With a judge, answers of each policy to each prompt; without it evaluation.num_samples.
        max_new_tokens: With a judge, an answer is cut after this many tokens; without it evaluation.max_new_tokens.
        limit: With a judge, most prompts; without it evaluation.num_prompts, if the prompts are held-out ones.
        output: Folder of the results; it must be new or empty.
        markdown: Write methods.md too, a summary for a pull request or a model card.
        seed: Seed of the halves, the order of trials, answers and intervals.
        resume: Keep the runs and the answers that are in the output folder, and go on.
        overwrite: Train and draw again.
        progress: True shows it: as a bar, in a notebook as a line. False: nothing is shown. A function is called with
            label, units done, units in all, and figures to show.
        **settings: Overrides of `config`, the same for all runs.

    Returns:
        The comparison: `comparison`, `to_pandas()`, and `path` of the folder with methods.html.

    Raises:
        TiltError: Something is wrong; the message says what to change.
    """
    from tiltlm.config.calls.comparing import judge_of
    from tiltlm.core import ConfigError
    from tiltlm.recipes.study_checks import check_folder

    with display(progress) as draw:
        made, folder = judge_of(judge), Path(output)
        names = [name.strip() for name in methods.split(",")] if isinstance(methods, str) else list(methods)
        answering = {"prompts": prompts, "n": n, "max_new_tokens": max_new_tokens, "limit": limit}
        for name, value in answering.items():
            if made is None and value is not None:
                raise ConfigError(
                    f"{name} has no effect without a judge; add --judge, or remove it", code="no_effect", key=name
                )
        points = points_of_methods(names)
        runs = runs_of_grid(
            config,
            {},
            points,
            {**settings, "output": str(folder / "runs")},
            draw,
            lambda _: check_folder(folder, resume=resume, overwrite=overwrite),
            allows_one=True,
        )
        from tiltlm.recipes.studies.compare_methods import MethodSetting, MethodsRequest
        from tiltlm.recipes.studies.compare_methods import compare_methods as recipe
        from tiltlm.recipes.studies.trained_policies import AnswerPlan

        candidates: dict[str, list[MethodSetting]] = {}
        for (name, point), run in zip(points.items(), runs, strict=True):
            method, _, _ = name.rpartition("/")
            knobs = {key: value for key, value in point["objective"].items() if key != "name"}
            candidates.setdefault(method, []).append(MethodSetting(method, knobs, run.settings))
        plan = AnswerPlan(
            base=runs[0].settings,
            output=folder,
            prompts=None if prompts is None else str(prompts),
            n=n,
            pool=max(2, n or runs[0].settings.evaluation.num_samples),
            max_new_tokens=max_new_tokens,
            limit=limit,
            seed=seed,
            resume=resume,
        )
        request = MethodsRequest(
            candidates=candidates,
            trials=trials_of(trials, budget, len(candidates), seeds),
            seeds=seeds,
            learning_rates=rates_of(learning_rates),
            judge=made,
            plan=plan,
            max_kl=max_kl,
            markdown=markdown,
            overwrite=overwrite,
        )
        with quiet_libraries():
            return recipe(request, progress=draw)


TRIALS = 4


def points_of_methods(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return every setting of the range of each method, by `METHOD/NUMBER`.

    Raises:
        ConfigError: a name is unknown, is given twice, or stands for a reward model.
    """
    from tiltlm.core import ConfigError
    from tiltlm.objectives.sweep_ranges import sweep_range

    if len(set(names)) < len(names):
        raise ConfigError(f"methods {', '.join(names)}: one is named twice", code="duplicate", key="methods")
    if "reward_model" in names:
        raise ConfigError(
            "reward_model trains a judge, not a policy; leave it out of methods", code="not_a_policy", key="methods"
        )
    return {
        f"{name}/{k}": {"objective": {"name": name, **knobs}}
        for name in names
        for k, knobs in enumerate(sweep_range(name).settings)
    }


def trials_of(trials: int | None, budget: int | None, num_methods: int, seeds: int) -> int:
    """Return the number of trials a method.

    Raises:
        ConfigError: both are given, or the budget is too small for one trial.
    """
    from tiltlm.core import ConfigError

    if budget is None:
        return TRIALS if trials is None else trials
    if trials is not None:
        raise ConfigError("trials and budget say the same; give one of the two", code="conflict", key="budget")
    found = budget // num_methods - seeds
    if found < 1:
        raise ConfigError(
            f"a budget of {budget} runs leaves no trial: {num_methods} methods need {num_methods * (seeds + 1)} runs "
            f"with {seeds} seeds each",
            code="out_of_range",
            key="budget",
        )
    return found


def rates_of(given: str | float | Sequence[float] | None) -> tuple[float, ...] | None:
    """Return learning rates from a number, a list, or a text such as `1e-4,3e-4`.

    Raises:
        ConfigError: one is no number above 0, or two are equal.
    """
    from tiltlm.core import ConfigError

    if given is None:
        return None
    single = [given] if isinstance(given, int | float) else given
    parts: Sequence[str | float] = single.split(",") if isinstance(single, str) else single
    try:
        found = tuple(float(part) for part in parts)
    except ValueError:
        found = ()
    if not found or min(found) <= 0 or len(set(found)) < len(found):
        raise ConfigError(
            f"learning_rates are {given!r}; write different numbers above 0 with commas: 1e-4,3e-4",
            code="wrong_type",
            key="learning_rates",
        )
    return found
