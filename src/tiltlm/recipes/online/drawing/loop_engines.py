"""What draws the samples of a loop. A server gets the weights of a round before it first draws in it.

It proves that it has them, then and after each batch (`recipes/engines/synced_server.py`). In process nothing has to be
told. Samples that are on the disk ask nobody.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tiltlm.core.example import Example, Response, TokenIds
from tiltlm.distributed import Ranks
from tiltlm.models import Policy
from tiltlm.online.rounds import RoundFolder
from tiltlm.recipes.answers.samples import Samples
from tiltlm.recipes.engines.synced_server import RESTART, SyncedServer
from tiltlm.sampling import SamplingSettings
from tiltlm.sampling.answers import AnswerRow
from tiltlm.sampling.decoding import Mixture
from tiltlm.sampling.engines import Batch, Engine, EngineSettings
from tiltlm.sampling.engines.agreement import Agreement
from tiltlm.sampling.engines.engine import Floats32, Progress
from tiltlm.sampling.engines.generate_batch import GenerateBatchEngine
from tiltlm.sampling.engines.own import OwnEngine
from tiltlm.sampling.engines.rescoring import token_logps, with_logps
from tiltlm.sampling.engines.server import ServerEngine

STARTED = 64
"""Samples of a round whose log-probabilities are compared with the policy's."""


@dataclass(eq=False)
class LoopEngine:
    """The engine of a loop."""

    settings: EngineSettings
    policy: Policy
    server: SyncedServer
    """Used only if the engine is a server."""
    run: Path
    """The run directory."""
    ranks: Ranks
    """The processes of the run. They call all methods together."""

    def of(self, number: int, digest: str, mixture: Mixture | None) -> Engine:
        """Return what draws in a round; nothing is sent before it draws.

        Args:
            number: The round.
            digest: What the column `model_digest` says.
            mixture: The reference, and its share in what draws; None: the policy alone.
        """
        if self.settings.is_exact or mixture is not None:
            return OwnEngine(self.policy.module, digest, mixture, self.ranks)
        if self.settings.is_server:
            return _Served(self, number, digest)
        return GenerateBatchEngine(self.policy.module, digest, self.ranks)

    def ready(self, number: int) -> ServerEngine:
        """Return the server with the weights of a round, which it has proved to have.

        Raises:
            RunError: It refuses them, or has others.
        """
        engine, found = self.server.engine(number, f"round {number}")
        if found is not None:
            self._note(number, engine, found)
        return engine

    def prove(self, number: int, engine: ServerEngine) -> None:
        """Require that the server still has the weights of a round, and note the difference.

        Raises:
            RunError: It has others.
        """
        self._note(number, engine, self.server.prove(engine, f"round {number}"))

    def _note(self, number: int, engine: ServerEngine, found: Agreement) -> None:
        folder = RoundFolder.of(self.run, number)
        self.ranks.first(lambda: folder.note_engine(version=engine.salt, probe=asdict(found)))

    def account(
        self, folder: RoundFolder, refill: int, drawn: Samples, num_asked: int, sampling: SamplingSettings
    ) -> None:
        """Note what an engine that is not exact drew in a round, and compare its log-probabilities with the policy's.

        Call it before the round trains. Once noted, it is not compared again.

        Args:
            folder: The folder of the round.
            refill: Which part of the round it is, from 0; the first samples of part 0 are compared.
            drawn: The samples.
            num_asked: How many were asked for.
            sampling: How they were drawn.

        Raises:
            RunError: The log-probabilities differ by more than rounding explains.
        """
        if self.settings.is_exact:
            return
        noted = self.ranks.first(lambda: folder.engine.get("missing", []))
        if len(noted) > refill:
            return
        facts: dict[str, Any] = {"engine": drawn.rows[0].engine, "exact": False}
        if sampling.is_exact and refill == 0:
            found = self._compared(drawn.rows)
            way_out = RESTART if self.settings.is_server else "Use engine=own"
            self.ranks.first(lambda: found.check("on the first samples of the round", self.settings.name, way_out))
            facts["start"] = asdict(found)
        missing = dict(drawn.dropped)
        unknown = num_asked - sum(len(row.answers) for row in drawn.rows) - sum(missing.values())
        facts["missing"] = [*noted, missing | ({"not_known": unknown} if unknown else {})]
        self.ranks.first(lambda: folder.note_engine(**facts))

    def _compared(self, rows: Sequence[AnswerRow]) -> Agreement:
        """Compare the log-probabilities of the first samples with those of the policy."""
        theirs: list[Floats32] = []
        prompts: list[TokenIds] = []
        responses: list[list[Response]] = []
        for row in rows:
            if len(theirs) < STARTED:
                assert row.prompt_ids is not None, "engines give tokens"
                assert row.token_ids is not None, "engines give tokens"
                assert row.behaviour_token_logps is not None, "at temperature 1 they are known"
                theirs += row.behaviour_token_logps
                prompts.append(row.prompt_ids)
                responses.append([Response(ids) for ids in row.token_ids])
        ours = token_logps(self.policy.module, prompts, responses, self.ranks)
        return Agreement.of(theirs, [logps for own in ours for logps in own])


@dataclass(frozen=True, eq=False)
class _Served:
    """A server that gets the weights of its round before it first draws."""

    loop: LoopEngine
    number: int
    digest: str
    name: str = "server"
    is_exact: bool = False

    def draw(
        self,
        prompts: Sequence[TokenIds],
        n: int,
        settings: SamplingSettings,
        *,
        seed: int,
        end_token_ids: Sequence[int],
        progress: Progress | None = None,
    ) -> Batch:
        """Draw n answers to each prompt; see `Engine.draw`.

        Raises:
            RunError: Also if the server has other weights than those of the round, before or after it drew.
        """
        loop, engine = self.loop, self.loop.ready(self.number)
        asked: dict[str, Any] = {"seed": seed, "end_token_ids": end_token_ids, "progress": progress}
        batch = loop.ranks.first(partial(engine.draw, prompts, n, settings, **asked))
        answers = with_logps(loop.policy.module, prompts, batch.answers, loop.ranks)
        loop.prove(self.number, engine)  # one that started anew meanwhile has other weights
        return replace(batch, answers=answers)


def behaviours_of(examples: Sequence[Example], rows: Sequence[AnswerRow]) -> list[list[Floats32 | None]]:
    """Return the log-probabilities that the tokens of each sample had when an engine drew them.

    Of samples with the same tokens the first one says them.

    Args:
        examples: The examples of a round.
        rows: Its samples.
    """
    known: dict[tuple[bytes, bytes], Floats32] = {}
    for row in rows:
        assert row.prompt_ids is not None, "engines give tokens"
        for ids, logps in zip(row.token_ids or (), row.behaviour_token_logps or (), strict=True):
            known.setdefault((row.prompt_ids.tobytes(), ids.tobytes()), logps)
    return [
        [known[example.prompt_ids.tobytes(), response.token_ids.tobytes()] for response in example.responses]
        for example in examples
    ]


def facts_of(engine: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a card says about the engine of a round, by the names of its fields; nothing for the own sampler."""
    if not engine:
        return {}
    probe, start = engine.get("probe") or {}, engine.get("start") or {}
    return {
        "engine": engine["engine"],
        "exact": engine["exact"],
        "missing": dict(sum(map(Counter, engine["missing"]), Counter[str]())),
        "probe": probe.get("mean"),
        "mismatch": start.get("mean"),
        "mismatch_max": start.get("max"),
    }
