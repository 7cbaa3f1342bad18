"""Scorers that need no model and no settings: the gold reward of the text world, a lexicon of sentiment, length."""

from collections.abc import Iterable, Iterator

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.judging.digests import digest_of
from tiltlm.judging.judge import Item, Role, Score, Scorer
from tiltlm.judging.judge_settings import JudgeSettings
from tiltlm.storage.versions import is_installed, python_and_packages
from tiltlm.worlds import TextWorld

PACKAGE = "vaderSentiment"


class Gold(Scorer):
    """The reward of `TextWorld`, which is known by construction: the number of courtesies in a reply, 0 to 4."""

    name = "gold"

    def __init__(self, role: Role) -> None:
        """Make the scorer."""
        self.role = role
        self.digest = digest_of("gold", world="TextWorld", version=1)
        self._world = TextWorld()

    def score(self, items: Iterable[Item]) -> Iterator[Score]:
        """Yield a score for each item, in order; an error for a prompt of another world."""
        for item in items:
            try:
                prompt = item.prompt if isinstance(item.prompt, str) else str(item.prompt[-1].get("content", ""))
                yield Score(self._world.reward(prompt, item.response))
            except DataError as error:
                yield Score(None, error=str(error))


class Length(Scorer):
    """The number of characters: a baseline that shows how far length alone explains a judgement."""

    name = "length"

    def __init__(self, role: Role) -> None:
        """Make the scorer."""
        self.role = role
        self.digest = digest_of("length", version=1)

    def score(self, items: Iterable[Item]) -> Iterator[Score]:
        """Yield a score for each item, in order."""
        for item in items:
            yield Score(float(len(item.response)))


class Lexicon(Scorer):
    """Sentiment by the lexicon of VADER: its compound score in [−1, 1], from negative to positive.

    Only the response is read. Source: Hutto and Gilbert 2014.
    """

    name = "lexicon"

    def __init__(self, role: Role) -> None:
        """Load the lexicon.

        Raises:
            ConfigError: The package is not installed.
        """
        if not is_installed(PACKAGE):
            raise ConfigError(
                f"judge.kind=lexicon needs the package {PACKAGE}: pip install 'tiltlm[sentiment]'",
                code="missing_package",
                key="judge.kind",
            )
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        self._analyzer = SentimentIntensityAnalyzer()
        self.role = role
        self.digest = digest_of("lexicon", version=python_and_packages(PACKAGE)[PACKAGE])

    def score(self, items: Iterable[Item]) -> Iterator[Score]:
        """Yield a score for each item, in order."""
        for item in items:
            yield Score(float(self._analyzer.polarity_scores(item.response)["compound"]))


def gold(_: JudgeSettings, role: Role) -> Gold:
    """Make the scorer of the text world's reward."""
    return Gold(role)


def length(_: JudgeSettings, role: Role) -> Length:
    """Make the scorer of length."""
    return Length(role)


def lexicon(_: JudgeSettings, role: Role) -> Lexicon:
    """Make the scorer of sentiment."""
    return Lexicon(role)
