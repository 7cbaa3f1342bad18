"""The call that says what is in some data. What is heavy is imported inside the function."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.config.command import command
from tiltlm.recipes.progress import ProgressCallback, display, quiet_libraries

if TYPE_CHECKING:
    from tiltlm.recipes.data.described import Described

__all__ = ["stats"]


@command("model", argument="data")
def stats(
    data: Any,
    *,
    html: str | Path | None = None,
    needed: bool = False,
    languages: bool = False,
    json: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    progress: ProgressCallback | bool | None = True,
    **settings: Any,
) -> "Described | dict[str, Any]":
    """Say what is in preference data.

    Lengths, length bias, labels, sources, turns, diversity of prompts. With --model, lengths are in tokens of its
    tokenizer too; no weights are loaded.

    Args:
        data: A file, a folder, or a name on the Hugging Face Hub.
        html: Write one page with all numbers and plots to this file, and the numbers as JSON beside it.
        needed: Estimate what more labels would bring, from a learning curve of a small probe, and print how many
            prompts a comparison of two systems needs.
        languages: Find the languages of the first rows too; it is slow, and needs the extra `languages`.
        json: Print all numbers as JSON.
        seed: Seed of the learning curve.
        overwrite: Replace the page.
        progress: True shows it: as a bar, in a notebook as a line. False: nothing is shown. A function is called with
            label, units done, units in all, and figures to show.
        **settings: Settings of the sections data and model, such as data.limit=1000.

    Returns:
        The statistics: `statistics`, `curve`, `to_pandas()`, and `page` of the file. With `json` plain values.

    Raises:
        TiltError: Something is wrong; the message says what to change.
    """
    from tiltlm.config.resolve import resolve
    from tiltlm.recipes.data.check import NO_MODEL
    from tiltlm.recipes.data.stats import STATS_READ, StatsRequest, StatsSettings
    from tiltlm.recipes.data.stats import stats as recipe

    request = StatsRequest(
        html=None if html is None else Path(html),
        needed=needed,
        languages=languages,
        seed=seed,
        overwrite=overwrite,
    )
    resolved = resolve(StatsSettings, None, {"model": {"path": NO_MODEL}}, STATS_READ, data=data, **settings)
    with display(progress) as draw, quiet_libraries():
        found = recipe(resolved, request, progress=draw)
    return found.as_dict() if json else found
