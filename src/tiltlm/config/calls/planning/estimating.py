"""The call that estimates a run. What is heavy is imported inside the function."""

from typing import TYPE_CHECKING, Any

from tiltlm.config.command import command
from tiltlm.recipes.progress import ProgressCallback, display, quiet_libraries

if TYPE_CHECKING:
    from tiltlm.config.resolve import Config
    from tiltlm.recipes.estimating.estimated import Estimate

__all__ = ["estimate"]


@command("model", "data", "objective")
def estimate(
    config: "Config" = None,
    /,
    *,
    gpus: str = "cpu",
    tokens: str | None = None,
    json: bool = False,
    progress: ProgressCallback | bool | None = True,
    **settings: Any,
) -> "Estimate":
    """Estimate memory and time of a training run.

    The configuration is that of `tiltlm train`. Only config.json, the tokenizer and the data are read, no weights:
    operations and memory are counted for the packs that the trainer will cut. Times are estimates.

    Args:
        config: A YAML file, or its content.
        gpus: Devices, one for each process, such as 8xH100; cpu is this machine. Known: A100-40GB, A100, H100, H200,
            B200, L40S, RTX4090, A10G, L4.
        tokens: Without data: tokens of the prompt and of each response, such as 256,192,192.
        json: Print JSON in place of the text.
        progress: True shows it: as a bar, in a notebook as a line. False: nothing is shown. A function is called with
            label, units done, units in all, and figures to show.
        **settings: Overrides of `config`. The model must be given in one of the two. The objective is `dpo` unless it
            is given, and without data typical lengths are taken.

    Returns:
        The estimate: `fits`, `to_dict()` with all numbers, and `costs`.

    Raises:
        TiltError: Something is wrong; the message says what to change.
    """
    from tiltlm.config.calls.training import NO_OUTPUT, announce_imports
    from tiltlm.config.resolve import draft
    from tiltlm.core import ConfigError
    from tiltlm.recipes import run_settings as run

    no_data = "no-data"
    with display(progress) as draw:
        defaults = {**NO_OUTPUT, "objective": "dpo", "data": {"train": no_data}}
        given = draft(run.RunSettings, config, defaults, **settings)
        has_data = given.settings.data.train != no_data
        if has_data and tokens is not None:
            raise ConfigError(
                "--tokens has no effect: the lengths are those of the data; remove one of them",
                code="no_effect",
                key="tokens",
            )
        run.check_before_training(given.settings)
        columns = run.check_inputs(given.settings) if has_data else None
        announce_imports(draw)
        resolved = given.complete()
        objective = resolved.build_objective()
        run.check_training(resolved, objective)
        if columns is not None:
            run.check_data(objective, columns)
        from tiltlm.recipes.estimating.estimate import estimate as recipe

        with quiet_libraries():
            return recipe(resolved, gpus=gpus, tokens=tokens, prints_json=json, progress=draw)
