"""The call that serves the labelling app. What is heavy is imported inside the function."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiltlm.config.command import command
from tiltlm.recipes.progress import ProgressCallback

if TYPE_CHECKING:
    from tiltlm.recipes.labeling.serving import Served

__all__ = ["label_serve"]


@command(group="label", arguments="sources", has_bar=False)
def label_serve(
    sources: Sequence[str | Path] = (),
    /,
    *,
    database: str = "label.db",
    names: str | Sequence[str] | None = None,
    prompts: str | Path | None = None,
    n: int = 2,
    temperatures: str | float | Sequence[float] = 1.0,
    max_new_tokens: int = 256,
    limit: int | None = None,
    comparisons: str | None = None,
    gold: str | Path | None = None,
    calibration: int | None = None,
    guidelines: str | Path | None = None,
    title: str | None = None,
    overlap: int | None = None,
    extra: int | None = None,
    select: str | None = None,
    random_share: float | None = None,
    model: str | None = None,
    reference: str | None = None,
    beta: float = 1.0,
    ties: bool | None = None,
    strength: bool | None = None,
    gold_share: float | None = None,
    repeat_share: float | None = None,
    repeat_gap: int | None = None,
    lease_minutes: float | None = None,
    skip_reasons: str | Sequence[str] | None = None,
    seed: int | None = None,
    keep_all: bool = False,
    host: str = "127.0.0.1",
    port: int = 8765,
    address: str | None = None,
    proxies: str | Sequence[str] | None = None,
    progress: ProgressCallback | bool | None = True,
) -> "Served":
    """Serve the labelling app: people compare pairs in a browser.

    Prints one private link for each person. The sources are a file of pairs or of lists of responses; a model or run,
    whose answers to --prompts are compared with each other; or two and more systems, as `tiltlm compare` takes them,
    whose answers are compared side by side. Without a source it goes on with the project of the database. Options of
    the project that are given change it; all others stay. Ctrl-C stops the app, and no vote is lost.

    Args:
        sources: A data file; a model folder, run or name on the Hugging Face Hub; or several systems. Write NAME=PATH
            to give one a name.
        database: The labelling project: a file, which is made if it is new, or postgresql://USER@HOST/NAME.
        names: People who get a link, with commas between. Who has one already keeps it.
        prompts: Data of any shape whose prompts are answered by the systems that are models.
        n: Answers of each model to each prompt.
        temperatures: Temperatures of the models, such as 0.7,1.
        max_new_tokens: An answer that has not ended is cut after this many tokens.
        limit: Most prompts, or rows of a data file.
        comparisons: Pairs of each list of responses: all (the default), or random:K.
        gold: Data with pairs whose chosen response is right: some of them are asked, and measure each person.
        calibration: How many pairs of gold each person votes on first, with feedback and the column `explanation`.
        guidelines: File with the guidelines in Markdown; another text is a new version.
        title: Title above every pair.
        overlap: Votes that each pair gets, by as many people (default 2).
        extra: Votes more for a pair whose first votes disagree (default 1).
        select: Which pairs come first: random, uncertain (least margin of a policy), diverse (prompts unlike those
            before) or disputed (default random).
        random_share: Share of pairs in random order whatever --select is, for estimates without bias (default 0.1).
        model: Policy of --select uncertain; without it, the data has a column `margin`.
        reference: Reference model of --select uncertain.
        beta: Factor of the implicit reward of --select uncertain.
        ties: Offer a tie and "both bad" (on by default).
        strength: Ask how much better, 1 to 3 (off by default).
        gold_share: Share of gold among what a person sees (default 0.07).
        repeat_share: Share of pairs that a person sees twice, with the sides exchanged (default 0.05).
        repeat_gap: Own votes between a pair and its repeat (default 20).
        lease_minutes: A pair that somebody was shown and left may be given to others after this time (default 15).
        skip_reasons: Reasons of a skip that are offered, with commas between.
        seed: Seed of answers and of the random order (default 0).
        keep_all: Keep pairs that are nearly equal, empty, cut, or name a model or its maker.
        host: Address to listen at. Any other than 127.0.0.1 lets other machines reach the app.
        port: Port to listen at; 0 takes a free one.
        address: Address at which people reach the app, such as https://label.example.org; links begin with it.
        proxies: Addresses of proxies whose X-Forwarded headers are believed, with commas between.
        progress: True shows the progress of preparing the pairs.

    Returns:
        The number of votes, after the app was stopped.

    Raises:
        TiltError: Something is wrong; the message says what to change.
    """
    from tiltlm.recipes.labeling.extra import require_label

    require_label()
    from tiltlm.recipes.answers.judged import Pairing
    from tiltlm.recipes.labeling.pairs.requests import MarginSettings, PrepareRequest, SourceRequest
    from tiltlm.recipes.labeling.serving import Place, ServeRequest, label

    found = SourceRequest(
        sources=tuple(map(str, sources)),
        prompts=None if prompts is None else str(prompts),
        n=n,
        temperatures=temperatures,
        max_new_tokens=max_new_tokens,
        limit=limit,
        comparisons=None if comparisons is None else Pairing.of(comparisons),
        seed=seed or 0,
    )
    project: dict[str, Any] = {"title": title, "overlap": overlap, "extra": extra, "select": select, "ties": ties}
    project |= {"random_share": random_share, "strength": strength, "gold_share": gold_share, "seed": seed}
    project |= {"skip_reasons": None if skip_reasons is None else split_names(skip_reasons), "repeat_gap": repeat_gap}
    project |= {"repeat_share": repeat_share, "lease_minutes": lease_minutes, "calibration": calibration}
    request = PrepareRequest(
        database,
        found,
        {name: value for name, value in project.items() if value is not None},
        gold=None if gold is None else Path(gold),
        guidelines=None if guidelines is None else Path(guidelines),
        margins=MarginSettings(model, reference, beta),
        keep_all=keep_all,
    )
    place = Place(host, port, address, split_names(proxies))
    return label(ServeRequest(request, place, split_names(names)), progress=progress, show=partial(print, flush=True))


def split_names(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return names from a list, or from a text with commas between."""
    parts = given.split(",") if isinstance(given, str) else given or ()
    return tuple(part.strip() for part in parts if part.strip())
