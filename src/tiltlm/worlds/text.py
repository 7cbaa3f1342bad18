"""`TextWorld`: a lost-property desk, a text world whose gold reward is known by construction.

Guests ask where one of their things is. The desk replies in one line, and a good reply shows four courtesies. The
reward is their number, so the optimum π* ∝ π_ref · exp(r/β) and its frontier follow from the probabilities of five
reward levels. The reward is a function of the text: no model and no judge is involved.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np

from tiltlm.core.errors import ConfigError, DataError
from tiltlm.core.example import Comparison

NAMES = (
    *("Ada", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jonas"),
    *("Kira", "Leo", "Mia", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tara", "Viktor"),
)
COLOURS = (
    *("red", "blue", "green", "yellow", "black", "white"),
    *("brown", "grey", "orange", "pink", "purple", "silver"),
)
THINGS = (
    *("umbrella", "coat", "scarf", "hat", "bag", "book", "lamp", "cup"),
    *("ring", "phone", "wallet", "key", "camera", "bottle", "basket", "ball"),
    *("pencil", "glove", "watch", "ticket", "jacket", "boot", "mirror", "guitar"),
)
QUESTIONS = ("Where is", "Have you seen", "Who took")
PLACES = ("hall", "kitchen", "garden", "library", "office", "garage", "cellar", "attic")
REMARKS = ("", "", " I saw it today.", " It was there all week.", " Take the stairs.")
"""Remarks have no reward; they vary the length, so that length says little about the reward."""

GREETINGS = ("Hello", "Welcome", "Good morning")
GRUMBLES = ("Listen", "Look", "Not again")
NOBODIES = ("stranger", "whoever")
VAGUE = ("that old thing", "some lost thing")
FAREWELLS = ("Have a nice day!", "Glad to help!", "Take good care!")
DISMISSALS = ("Do not ask again!", "Stop asking me!", "Go away now!")

LEVELS = (0.0, 1.0, 2.0, 3.0, 4.0)
"""The five values of the gold reward: the number of courtesies in a reply."""

COURTESY_RATES = (0.57, 0.57, 0.57, 0.57)
"""Share of the corpus's replies with each courtesy; one reply in ten has all four."""

PromptSet = Literal["train", "heldout"]
"""Parts of the prompts."""


class DemonstrationRow(TypedDict):
    """One row of the corpus, in the column names of the data readers."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Request:
    """A guest's question about a thing."""

    name: str
    colour: str
    thing: str
    question: str

    @property
    def prompt(self) -> str:
        """The question as the model reads it."""
        return f"Guest {self.name}: {self.question} my {self.colour} {self.thing}?\nDesk:"


def _any_of(options: Sequence[str]) -> str:
    return "(?:" + "|".join(re.escape(option) for option in options) + ")"


_PROMPT = re.compile(
    rf"Guest (?P<name>{_any_of(NAMES)}): (?P<question>{_any_of(QUESTIONS)}) "
    rf"my (?P<colour>{_any_of(COLOURS)}) (?P<thing>{_any_of(THINGS)})\?\nDesk:"
)
_REPLY = re.compile(
    rf" (?P<opening>{_any_of(GREETINGS + GRUMBLES)}) (?P<who>{_any_of(NAMES + NOBODIES)}), "
    rf"(?P<what>{_any_of(VAGUE)}|your {_any_of(COLOURS)} {_any_of(THINGS)}) is in the {_any_of(PLACES)}\."
    rf"{_any_of(REMARKS)} (?P<closing>{_any_of(FAREWELLS + DISMISSALS)})"
)


@cache
def _requests() -> dict[PromptSet, tuple[Request, ...]]:
    """Return all requests of each split, in a fixed random order.

    One colour of each thing is held out: requests of the training split, and so the corpus, never combine the two.
    """
    rng = np.random.default_rng(2718)
    split: dict[PromptSet, list[Request]] = {"train": [], "heldout": []}
    for thing in THINGS:
        new = rng.choice(COLOURS)
        for colour in COLOURS:
            part: PromptSet = "heldout" if colour == new else "train"
            split[part] += [Request(name, colour, thing, q) for name in NAMES for q in QUESTIONS]
    return {part: tuple(rows[i] for i in rng.permutation(len(rows))) for part, rows in split.items()}


@dataclass(frozen=True)
class TextWorld:
    """Prompts, gold reward, corpus and bundled model of the lost-property desk."""

    num_train: int = 128
    """Prompts whose responses are compared for training."""
    num_heldout: int = 48
    """Prompts for measurement; each asks for a combination of colour and thing that training does not contain."""

    def prompts(self, split: PromptSet) -> list[str]:
        """Return the distinct prompts of `train` or `heldout`, always the same and in the same order.

        Raises:
            ConfigError: The split is unknown, or the world has fewer prompts.
        """
        sizes: dict[str, int] = {"train": self.num_train, "heldout": self.num_heldout}
        if split not in sizes:
            raise ConfigError(
                f"split is {split!r}; it must be one of {', '.join(sizes)}", code="unknown_name", key="split"
            )
        rows = _requests()[split]
        if not 0 < sizes[split] <= len(rows):
            raise ConfigError(
                f"num_{split} is {sizes[split]}; it must lie between 1 and {len(rows)}, the prompts of this world",
                code="out_of_range",
                key=f"num_{split}",
            )
        return [request.prompt for request in rows[: sizes[split]]]

    def reward(self, prompt: str, response: str) -> float:
        """Return the gold reward: how many of four courtesies the reply shows, one of `LEVELS`.

        The courtesies are: (1) it opens with a greeting, (2) it calls the guest by name, (3) it names the requested
        thing and its colour, (4) it closes kindly. A reply that is not a complete sentence of this world, because it is
        garbled, unfinished or continues, has the lowest level. White space around the reply is ignored.

        Raises:
            DataError: The prompt is not one of this world.
        """
        request = _PROMPT.fullmatch(prompt)
        if request is None:
            raise DataError(
                f"{prompt!r} is not a prompt of this world; an example of one is {_requests()['train'][0].prompt!r}",
                code="unknown_prompt",
                key="prompt",
            )
        reply = _REPLY.fullmatch(" " + response.strip())
        if reply is None:
            return LEVELS[0]
        courtesies = (
            reply["opening"] in GREETINGS,
            reply["who"] == request["name"],
            reply["what"] == f"your {request['colour']} {request['thing']}",
            reply["closing"] in FAREWELLS,
        )
        return LEVELS[sum(courtesies)]

    def label(self, prompt: str, responses: Sequence[str], rng: np.random.Generator) -> tuple[Comparison, ...]:
        """Return all K(K−1)/2 comparisons of the responses, drawn from Bradley–Terry on the gold reward.

        P(i ≻ j) = σ(r_i − r_j), which is ½ for equal rewards.
        """
        rewards = [self.reward(prompt, response) for response in responses]
        comparisons = []
        for i, j in combinations(range(len(responses)), 2):
            first_wins = rng.random() < 1 / (1 + math.exp(rewards[j] - rewards[i]))
            comparisons.append(Comparison(i, j) if first_wins else Comparison(j, i))
        return tuple(comparisons)

    def corpus(self, seed: int, size: int) -> list[DemonstrationRow]:
        """Return `size` requests of the training split with replies whose courtesies are drawn independently.

        A model trained on it by maximum likelihood is the reference; it shows each courtesy about half of the time.
        """
        rng = np.random.default_rng(seed)
        rows = _requests()["train"]
        picks = rng.integers(len(rows), size=size)
        return [{"prompt": rows[i].prompt, "completion": _reply(rows[i], rng)} for i in picks]

    def model_path(self) -> Path:
        """Return the folder of the bundled tiny model: configuration, safetensors weights, tokenizer."""
        return Path(str(resources.files("tiltlm.worlds") / "assets" / "tiny-lm"))


def _reply(request: Request, rng: np.random.Generator) -> str:
    """Return a random reply to the request; completions begin with a space, like words inside a sentence."""
    greets, names, knows, cares = rng.random(4) < COURTESY_RATES
    opening = rng.choice(GREETINGS if greets else GRUMBLES)
    who = request.name if names else rng.choice(NOBODIES)
    what = f"your {request.colour} {request.thing}" if knows else rng.choice(VAGUE)
    closing = rng.choice(FAREWELLS if cares else DISMISSALS)
    return f" {opening} {who}, {what} is in the {rng.choice(PLACES)}.{rng.choice(REMARKS)} {closing}"
