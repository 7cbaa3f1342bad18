"""What draws the samples of a loop, and how an engine of another process gets the weights of each round.

A server is told to load the weights before it first draws in a round, and must prove that it has them, then and after
each batch: it scores a few fixed sequences, which the policy scores too. In process nothing has to be told. Samples
that are on the disk ask nobody.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tiltlm.core import ConfigError, RunError
from tiltlm.core.example import Example, Response, TokenIds, token_ids
from tiltlm.models import Policy
from tiltlm.online.rounds import RoundFolder, seed_of
from tiltlm.recipes.answers.samples import Samples
from tiltlm.recipes.online.drawing.policy_folders import PolicyFolders
from tiltlm.sampling import SamplingSettings
from tiltlm.sampling.answers import AnswerRow
from tiltlm.sampling.decoding import Mixture
from tiltlm.sampling.engines import Batch, Engine, EngineSettings
from tiltlm.sampling.engines.agreement import Agreement, check_not_stale
from tiltlm.sampling.engines.engine import Floats32, Progress
from tiltlm.sampling.engines.generate_batch import GenerateBatchEngine
from tiltlm.sampling.engines.own import OwnEngine
from tiltlm.sampling.engines.rescoring import token_logps
from tiltlm.sampling.engines.server import ServerEngine, dialect_of, served_model
from tiltlm.sampling.sampler import sample
from tiltlm.storage.files import read_json, write_json

log = logging.getLogger(__name__)

PROBES = 4
"""Sequences that a server scores after it got weights."""
PROBE_TOKENS = 32
"""Most tokens of each that are compared."""
STARTED = 64
"""Samples of a round whose log-probabilities are compared with the policy's."""
RESTART = "Restart the server with the weights and the dtype of the policy, and go on with --resume"


@dataclass(eq=False)
class LoopEngine:
    """The engine of a loop."""

    settings: EngineSettings
    policy: Policy
    weights: PolicyFolders
    run: Path
    """The run directory."""
    prompts: Sequence[TokenIds]
    """Prompts of the probe."""
    max_new_tokens: int
    seed: int
    served: dict[int, ServerEngine] = field(default_factory=dict)
    """Round → the server with the weights of this round; one entry at most."""

    def __post_init__(self) -> None:
        if self.settings.sync == "lora" and not self.policy.has_adapter:
            raise ConfigError(
                "engine.sync is lora, and no adapter is trained; set engine.sync=full, or train one (model.lora)",
                code="no_adapter",
                key="engine.sync",
            )

    def of(self, number: int, digest: str, mixture: Mixture | None) -> Engine:
        """Return what draws in a round; nothing is sent before it draws.

        Args:
            number: The round.
            digest: What the column `model_digest` says.
            mixture: The reference, and its share in what draws; None: the policy alone.
        """
        if self.settings.is_exact or mixture is not None:
            return OwnEngine(self.policy.module, digest, mixture)
        if self.settings.is_server:
            return _Served(self, number, digest)
        return GenerateBatchEngine(self.policy.module, digest)

    def ready(self, number: int) -> ServerEngine:
        """Return the server with the weights of a round, which it has proved to have.

        Raises:
            RunError: It refuses them, or has others.
        """
        if number not in self.served:
            engine = self._synced(self.weights.version(number))
            self.prove(number, engine)
            self.served = {number: engine}
        return self.served[number]

    def _synced(self, version: str) -> ServerEngine:
        """Write the weights, have the server load them, and return it."""
        settings, policy = self.settings, self.policy.module
        dialect = dialect_of(settings)
        if settings.sync == "none":
            return ServerEngine(settings, dialect, served_model(dialect), policy, salt=version)
        folder = self.weights.write(version)
        log.info("engine %s: load %s", settings.name, folder, extra={"event": "weights_synced", "version": version})
        if settings.sync == "full":
            dialect.load_weights(folder)
            model = served_model(dialect)
        else:
            loaded, model = dialect.connection.models(), version
            if version not in loaded:
                dialect.load_adapter(folder, version)
            for other in self.weights.others(version):
                if other.name in loaded:
                    dialect.unload_adapter(other.name)
        self.weights.delete_old(version)
        return ServerEngine(settings, dialect, model, policy, salt=version)

    def prove(self, number: int, engine: ServerEngine) -> None:
        """Compare the server's scores of the probe with those of the policy, and note the difference.

        Raises:
            RunError: They differ by more than rounding explains.
        """
        prompts, responses, older = self._probe()
        theirs = [_scored(engine, *one) for one in zip(prompts, responses, strict=True)]
        ours = [own for (own,) in token_logps(self.policy.module, prompts, [[Response(ids)] for ids in responses])]
        found, name = Agreement.of(theirs, ours), self.settings.name
        earlier = {which: scores for which, scores in older.items() if which != f"round {number}"}
        check_not_stale(theirs, found, earlier, name, RESTART)
        found.check("on the probe", name, RESTART)
        kept = [*earlier][:1] + [*earlier][1:][-1:]  # the first weights and those of the round before
        scores = {which: earlier[which] for which in kept} | {f"round {number}": ours}
        RoundFolder.of(self.run, number).note_engine(version=engine.salt, probe=asdict(found))
        write_json(
            self.weights.folder / "probe.json",
            {
                "prompts": [ids.tolist() for ids in prompts],
                "responses": [ids.tolist() for ids in responses],
                "scores": {which: [own.tolist() for own in values] for which, values in scores.items()},
            },
        )

    def _probe(self) -> tuple[list[TokenIds], list[TokenIds], dict[str, list[Floats32]]]:
        """Return the sequences of the probe, and the scores of earlier rounds under their weights.

        The responses are samples of the policy before the first round that it draws: tokens as it writes them.
        """
        known = read_json(self.weights.folder / "probe.json")
        if known is None:
            self.weights.folder.mkdir(exist_ok=True)
            settings = SamplingSettings(min(PROBE_TOKENS, self.max_new_tokens))
            seed, ends = seed_of("probe", self.seed), self.policy.end_token_ids
            drawn = sample(self.policy.module, self.prompts, 1, settings, seed=seed, end_token_ids=ends)
            return list(self.prompts), [own.token_ids for (own,) in drawn], {}
        prompts, responses = ([token_ids(ids) for ids in known[name]] for name in ("prompts", "responses"))
        older = {
            which: [np.array(own, dtype=np.float32) for own in values] for which, values in known["scores"].items()
        }
        return prompts, responses, older

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
        noted = folder.engine.get("missing", [])
        if self.settings.is_exact or len(noted) > refill:
            return
        facts: dict[str, Any] = {"engine": drawn.rows[0].engine, "exact": False}
        if sampling.is_exact and refill == 0:
            found = self._compared(drawn.rows)
            way_out = RESTART if self.settings.is_server else "Use engine=own"
            found.check("on the first samples of the round", self.settings.name, way_out)
            facts["start"] = asdict(found)
        missing = dict(drawn.dropped)
        unknown = num_asked - sum(len(row.answers) for row in drawn.rows) - sum(missing.values())
        folder.note_engine(**facts, missing=[*noted, missing | ({"not_known": unknown} if unknown else {})])

    def _compared(self, rows: Sequence[AnswerRow]) -> Agreement:
        """Compare the log-probabilities of the first samples with those of the policy."""
        theirs: list[Floats32] = []
        ours: list[Floats32] = []
        for row in rows:
            if len(theirs) < STARTED:
                assert row.prompt_ids is not None, "engines give tokens"
                assert row.token_ids is not None, "engines give tokens"
                assert row.behaviour_token_logps is not None, "at temperature 1 they are known"
                theirs += row.behaviour_token_logps
                ours += token_logps(self.policy.module, [row.prompt_ids], [[Response(ids) for ids in row.token_ids]])[0]
        return Agreement.of(theirs, ours)


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
        engine = self.loop.ready(self.number)
        batch = engine.draw(prompts, n, settings, seed=seed, end_token_ids=end_token_ids, progress=progress)
        self.loop.prove(self.number, engine)  # one that started anew meanwhile has other weights
        return batch


def _scored(engine: ServerEngine, prompt: TokenIds, response: TokenIds) -> Floats32:
    """Return the server's log-probabilities of a response.

    Raises:
        RunError: One is missing or no number.
    """
    ids = token_ids([*prompt.tolist(), *response.tolist()])
    scores = np.array(engine.dialect.score(ids, engine.model, engine.salt)[len(prompt) - 1 :], dtype=np.float32)
    if not np.isfinite(scores).all():
        raise RunError(
            f"engine {engine.settings.name}: {int((~np.isfinite(scores)).sum())} of {len(scores)} log-probabilities of "
            f"the probe are missing or no numbers. {RESTART}",
            code="no_prompt_logps",
            key="engine.name",
        )
    return scores


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
