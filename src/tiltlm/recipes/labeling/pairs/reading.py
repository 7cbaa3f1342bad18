"""Pairs from sources: a data file, a model, or several systems."""

from pathlib import Path

from tiltlm.core.errors import ConfigError
from tiltlm.recipes.labeling.pairs.candidates import Candidate, candidates_of_data
from tiltlm.recipes.labeling.pairs.requests import SourceRequest
from tiltlm.recipes.progress import ProgressCallback


def read_candidates(request: SourceRequest, database: str, progress: ProgressCallback) -> list[Candidate]:
    """Return all pairs of the sources, in order. Libraries of models are loaded only where a source is not one file.

    Args:
        request: Where pairs come from.
        database: The project; answers that are drawn are kept in a folder beside it.
        progress: Called as work proceeds.

    Raises:
        ConfigError: Prompts are missing, or an option has no effect.
        TiltError: A source cannot be read, or a model cannot be used.
    """
    if request.comparisons is not None and request.comparisons.rule == "best_worst":
        raise ConfigError(
            "--comparisons is best_worst; pairs for people are all or random:K, because nobody has judged them yet",
            code="unknown_name",
            key="--comparisons",
        )
    if len(request.sources) == 1 and Path(request.sources[0]).is_file():
        return list(candidates_of_data(request.sources[0], request))
    from tiltlm.recipes.labeling.pairs.systems import candidates_of_systems

    return candidates_of_systems(request, database, progress)
