"""The calls that draw and judge answers. What is heavy is imported inside the functions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.config.command import command
from tiltlm.recipes.progress import ProgressCallback, display, quiet_libraries

if TYPE_CHECKING:
    from tiltlm.data.files.text_files import Row
    from tiltlm.recipes.answers.sample_settings import SampleSettings
    from tiltlm.recipes.answers.samples import Samples

__all__ = ["sample"]


@command("prompts", argument="model")
def sample(
    model: Any,
    prompts: Any = None,
    n: int = 1,
    *,
    output: str | Path | None = None,
    temperatures: str | float | Sequence[float] | None = None,
    seed: int = 0,
    limit: int | None = None,
    too_long: str = "drop",
    resume: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback | bool | None = True,
    **settings: Any,
) -> "Samples":
    """Draw answers of a model to prompts.

    The file has one row a prompt, with log-probabilities. Judges add scores to it, and training reads it: it uses
    exactly the tokens that were drawn.

    Args:
        model: A folder, a name on the Hugging Face Hub, or a loaded policy.
        prompts: A file, a folder or a name on the Hub, with data of any shape: its distinct prompts are answered. Or
            texts; or rows: a list of mappings, a pandas frame, a `datasets.Dataset`.
        n: Answers to each prompt, at each temperature above 0.
        output: File to write: .jsonl, .jsonl.gz, .jsonl.zst or .parquet.
        temperatures: Several temperatures in one call, such as 0,0.7,1; 0 takes the most probable token.
        seed: The same seed gives the same answers.
        limit: Most prompts.
        too_long: What to do with a prompt that leaves no room in the model's window: drop (and count it) or error.
        resume: Continue a call that was stopped; the file becomes that of an unbroken call.
        overwrite: Replace the output file.
        progress: True shows it: as a bar, in a notebook as a line. False: nothing is shown. A function is called with
            label, units done, units in all, and figures to show.
        **settings: Settings of the sections sampling, engine, model and data, such as `max_new_tokens=256`,
            `top_p=0.9`, `engine="http://127.0.0.1:8000/v1"` or `as_chat=False`.

    Returns:
        The answers: `rows`, `texts`, `diversity`, `to_pandas()`.

    Raises:
        TiltError: Something is wrong; the message says what to change.
    """
    from tiltlm.core import ConfigError
    from tiltlm.models import Policy
    from tiltlm.recipes.answers.sample import sample as recipe
    from tiltlm.recipes.answers.sample_settings import SampleRequest, read_temperatures

    if temperatures is not None and {"temperature", "sampling.temperature"} & settings.keys():
        raise ConfigError(
            "temperature and temperatures are both given; give one of the two", code="conflict", key="temperatures"
        )
    resolved, rows = _read(model, prompts, settings)
    request = SampleRequest(
        n=n,
        temperatures=read_temperatures(temperatures, resolved.sampling.temperature),
        seed=seed,
        limit=limit,
        too_long=too_long,  # type: ignore[arg-type]
        output=None if output is None else Path(output),
        resume=resume,
        overwrite=overwrite,
    )
    policy = model if isinstance(model, Policy) else None
    with display(progress) as draw, quiet_libraries():
        return recipe(resolved, request, rows=rows, policy=policy, progress=draw)


def _read(model: Any, prompts: Any, settings: Mapping[str, Any]) -> "tuple[SampleSettings, tuple[Row, ...] | None]":
    """Return the settings of a call, and its prompts as rows if they are in memory.

    Raises:
        ConfigError: Prompts are missing, or settings of a model are given that is loaded already.
    """
    from tiltlm.config.in_memory import rows_of
    from tiltlm.config.resolve import resolve
    from tiltlm.core import ConfigError
    from tiltlm.data.distinct_prompts import rows_in_memory
    from tiltlm.models import ModelSettings, Policy
    from tiltlm.recipes.answers.sample_settings import DEFAULTS, SAMPLE_READS, SampleSettings

    if prompts is None:
        raise ConfigError("prompts are missing; give --prompts FILE", code="missing_setting", key="prompts")
    values = rows_of(prompts)
    if values is None and isinstance(prompts, list | tuple) and all(isinstance(text, str) for text in prompts):
        values = prompts
    given = {
        "model": model.settings.path if isinstance(model, Policy) else model,
        "data": prompts if values is None else "prompts",
        **settings,
    }
    resolved = resolve(SampleSettings, None, DEFAULTS, SAMPLE_READS, **given)
    if isinstance(model, Policy):
        if resolved.model != ModelSettings(resolved.model.path):
            raise ConfigError(
                "settings of the model have no effect: it is loaded already; remove them", code="no_effect", key="model"
            )
        resolved = replace(resolved, model=model.settings)
    return resolved, None if values is None else rows_in_memory(values)
