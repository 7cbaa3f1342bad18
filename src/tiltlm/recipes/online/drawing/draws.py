"""Who speaks in the rounds of a loop: the policy, rivals, and the policy about its own samples.

Answers that are on the disk are read, and the others are drawn. Several processes draw together: each answers a share
of the prompts, or the first one asks a server, and all of them get all answers. Only the first process touches files.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from tiltlm.core.example import Response
from tiltlm.data.dataset import load_data
from tiltlm.data.distinct_prompts import Prompt, PromptSet
from tiltlm.distributed import Ranks
from tiltlm.models import Policy
from tiltlm.online.constitution import DEFAULT, read_constitution
from tiltlm.online.rounds import RoundFolder, seed_of
from tiltlm.recipes.answers.sample import Call, Speaker, draw_answers
from tiltlm.recipes.answers.sample_settings import SampleRequest, SampleSettings
from tiltlm.recipes.answers.samples import Samples
from tiltlm.recipes.online.drawing.loop_engines import LoopEngine
from tiltlm.recipes.online.drawing.revising import Reviser
from tiltlm.recipes.online.loop_run import LoopRunSettings
from tiltlm.recipes.prepare import encoder_of
from tiltlm.recipes.progress import ProgressCallback
from tiltlm.reference import Reference
from tiltlm.reference.model import ModelReference
from tiltlm.sampling.answers import AnswerRow
from tiltlm.sampling.decoding import Mixture

Item = TypeVar("Item")


@dataclass(eq=False)
class Draws:
    """What draws the answers of a loop."""

    settings: LoopRunSettings
    prompts: PromptSet
    policy: Policy
    engine: LoopEngine
    reference: Reference
    """What draws rivals, alone or in a mixture."""
    reviser: Reviser | None
    """What revises samples; None: nothing does."""
    ranks: Ranks
    progress: ProgressCallback

    def samples(self, number: int, refill: int, prompts: Sequence[Prompt], folder: RoundFolder) -> Samples:
        """Return the samples of the policy in a round, or in a refill of it."""
        name = f"round {number}" + (f", refill {refill}" if refill else "")
        return self.answers(number, prompts, self.settings.loop.n, folder.samples_of(refill), name)

    def rivals(
        self, number: int, prompts: Sequence[Prompt], folder: RoundFolder, rows: Sequence[AnswerRow]
    ) -> Sequence[AnswerRow]:
        """Return the samples of a round that somebody else than the policy draws, or its revisions.

        Args:
            number: The round.
            prompts: Its prompts.
            folder: Its files.
            rows: The samples of the policy, which are revised.
        """
        rivals = self.settings.rivals
        if self.reviser is not None:
            return self.reviser.revise(rows, folder.path, partial(self.ask, number))
        if not rivals.n:
            return ()
        assert isinstance(self.reference, ModelReference), "a reference is built where rivals are drawn"
        mixture = Mixture(self.reference.weights.policy, self.reference.in_place, rivals.mix)
        return self.answers(number, prompts, rivals.n, folder.rivals, f"{rivals.who} of round {number}", mixture).rows

    def ask(self, number: int, prompts: Sequence[Prompt], path: Path) -> Sequence[AnswerRow]:
        """Return one answer of the policy to each of these prompts."""
        return self.answers(number, prompts, 1, path, f"{path.name} of round {number}").rows

    def answers(
        self, number: int, prompts: Sequence[Prompt], n: int, path: Path, name: str, mixture: Mixture | None = None
    ) -> Samples:
        """Return answers: those on the disk, and the others drawn by all processes together.

        Args:
            number: The round.
            prompts: What is answered.
            n: Answers to each prompt.
            path: Their file.
            name: What is drawn and when; another name has another seed.
            mixture: The reference, and its share in what draws; None: the policy alone.
        """
        sampling = self.settings.sampling
        chosen = replace(self.prompts, prompts=tuple(prompts))
        seed = seed_of(name, self.settings.loop.seed)
        request = SampleRequest(n=n, temperatures=(sampling.temperature,), seed=seed, output=path, resume=True)
        engine = self.engine.of(number, f"{self.prompts.digest} {name}", mixture)
        speaker = Speaker(engine, self.prompts.encoder, self.policy.end_token_ids)
        settings = SampleSettings(self.settings.model, self.settings.data, sampling)
        call = Call(settings, request, chosen, speaker, {sampling.temperature: sampling})
        return draw_answers(call, self.progress, self.ranks)


def share(items: Sequence[Item], ranks: Ranks) -> list[Item]:
    """Return what this process takes of a list that all processes have."""
    return list(items[ranks.rank :: ranks.size])


def interleaved(parts: Sequence[Sequence[Item]], num_items: int) -> list[Item]:
    """Return the list of whose items `share` gave each process its part, or what came out for them.

    Args:
        parts: What each process has, by rank.
        num_items: Items of the list.
    """
    assert sum(map(len, parts)) == num_items, "every item was taken once"
    return [parts[k % len(parts)][k // len(parts)] for k in range(num_items)]


def responses_of_data(settings: LoopRunSettings, policy: Policy) -> dict[bytes, tuple[Response, str]]:
    """Return the response that the data has to each prompt, the first of several, by the tokens of the prompt."""
    whole, encoder = replace(settings.data, eval_fraction=0.0), encoder_of(policy)
    found: dict[bytes, tuple[Response, str]] = {}
    for example in load_data(whole, encoder, "demonstrations").train:
        response = example.responses[0]
        text = str(encoder.tokenizer.decode(response.token_ids.tolist(), skip_special_tokens=True))
        found.setdefault(example.prompt_ids.tobytes(), (response, text))
    return found


def reviser_of(settings: LoopRunSettings, policy: Policy, prompts: PromptSet) -> Reviser:
    """Return what revises the samples of a loop."""
    limit, sampling = policy.module.max_positions, settings.sampling
    return Reviser(
        prompts,
        read_constitution(settings.rivals.constitution or DEFAULT),
        settings.rivals.revisions,
        settings.loop.seed,
        window=sys.maxsize if limit is None else limit - sampling.max_new_tokens,
        wraps=settings.data.as_chat is not False and prompts.encoder.has_template,
    )
