"""A server that draws samples of a policy: it gets the weights through files, and proves that it has them.

The proof: the server scores a few fixed sequences, which the policy scores too. It is given after the server got
weights, and again after it drew, because a server that started anew meanwhile has other weights.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tiltlm.core import ConfigError, RunError
from tiltlm.core.example import Response, TokenIds, token_ids
from tiltlm.distributed import Ranks
from tiltlm.models import Policy
from tiltlm.recipes.engines.policy_folders import PolicyFolders
from tiltlm.sampling import SamplingSettings
from tiltlm.sampling.engines import EngineSettings
from tiltlm.sampling.engines.agreement import Agreement, check_not_stale
from tiltlm.sampling.engines.connection import Dialect
from tiltlm.sampling.engines.engine import Floats32
from tiltlm.sampling.engines.rescoring import token_logps
from tiltlm.sampling.engines.server import ServerEngine, dialect_of, served_model
from tiltlm.sampling.sampler import sample
from tiltlm.storage.files import read_json, write_json

log = logging.getLogger(__name__)

PROBES = 4
"""Sequences that a server scores after it got weights."""
PROBE_TOKENS = 32
"""Most tokens of each that are compared."""
RESTART = "Restart the server with the weights and the dtype of the policy, and go on with --resume"


def check_sync(settings: EngineSettings, policy: Policy) -> None:
    """Refuse to sync an adapter where none is trained.

    Raises:
        ConfigError: There is none.
    """
    if settings.sync == "lora" and not policy.has_adapter:
        raise ConfigError(
            "engine.sync is lora, and no adapter is trained; set engine.sync=full, or train one (model.lora)",
            code="no_adapter",
            key="engine.sync",
        )


@dataclass(eq=False)
class SyncedServer:
    """A server with the weights of a policy. The processes of the run call its methods together."""

    settings: EngineSettings
    policy: Policy
    weights: PolicyFolders
    prompts: Sequence[TokenIds]
    """Prompts of the probe."""
    max_new_tokens: int
    seed: int
    """Seed of the probe's responses."""
    ranks: Ranks = field(default_factory=Ranks)
    """The processes of the run; rank 0 asks the server."""
    ready: dict[str, ServerEngine] = field(default_factory=dict)
    """Name of the weights → the server that has them; one entry at most."""

    def __post_init__(self) -> None:
        check_sync(self.settings, self.policy)

    def engine(self, number: int, name: str) -> tuple[ServerEngine, Agreement | None]:
        """Return the server with the weights of now, and how far its scores of the probe are from the policy's.

        Args:
            number: Counts the weights: of a loop, the round.
            name: Names them for messages, `round 3`.

        Returns:
            None as the second if the server had these weights already.

        Raises:
            RunError: It refuses them, or has others.
        """
        if name in self.ready:
            return self.ready[name], None
        engine = self._sync(self.weights.version(number))
        found = self.prove(engine, name)
        self.ready = {name: engine}
        return engine, found

    def _sync(self, version: str) -> ServerEngine:
        """Write the weights, have the server load them, and return it."""
        settings, dialect = self.settings, dialect_of(self.settings)
        if settings.sync == "none":
            model = self.ranks.first(lambda: served_model(dialect))
        else:
            folder = self.weights.write(version, self.ranks)
            model = self.ranks.first(lambda: self._load(dialect, version, folder))
        return ServerEngine(settings, dialect, model, salt=version)

    def _load(self, dialect: Dialect, version: str, folder: Path) -> str:
        """Have the server load a folder, and return the name that requests give as model. Only rank 0 calls it."""
        log.info(
            "engine %s: load %s", self.settings.name, folder, extra={"event": "weights_synced", "version": version}
        )
        if self.settings.sync == "full":
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
        return model

    def prove(self, engine: ServerEngine, name: str) -> Agreement:
        """Compare the server's scores of the probe with those of the policy.

        Args:
            engine: The server.
            name: Names the weights of now.

        Raises:
            RunError: They differ by more than rounding explains.
        """
        prompts, responses, older = self._probe()
        asked = [[Response(ids)] for ids in responses]
        ours = [own for (own,) in token_logps(self.policy.module, prompts, asked, self.ranks)]
        return self.ranks.first(lambda: self._compare(engine, name, prompts, responses, ours, older))

    def _compare(
        self,
        engine: ServerEngine,
        name: str,
        prompts: list[TokenIds],
        responses: list[TokenIds],
        ours: list[Floats32],
        older: dict[str, list[Floats32]],
    ) -> Agreement:
        """Compare the server's scores of the probe with those of the policy. Only rank 0 calls it; see `prove`."""
        theirs = [_scored(engine, *one) for one in zip(prompts, responses, strict=True)]
        found = Agreement.of(theirs, ours)
        earlier = {which: scores for which, scores in older.items() if which != name}
        check_not_stale(theirs, found, earlier, self.settings.name, RESTART)
        found.check("on the probe", self.settings.name, RESTART)
        kept = [*earlier][:1] + [*earlier][1:][-1:]  # the first weights and those before these
        scores = {which: earlier[which] for which in kept} | {name: ours}
        write_json(
            self.weights.folder / "probe.json",
            {
                "prompts": [ids.tolist() for ids in prompts],
                "responses": [ids.tolist() for ids in responses],
                "scores": {which: [own.tolist() for own in values] for which, values in scores.items()},
            },
        )
        return found

    def _probe(self) -> tuple[list[TokenIds], list[TokenIds], dict[str, list[Floats32]]]:
        """Return the sequences of the probe, and the scores that earlier weights gave them.

        The responses are samples of the policy before the first draw: tokens as it writes them.
        """
        known = self.ranks.first(lambda: read_json(self.weights.folder / "probe.json"))
        if known is None:
            self.ranks.first(lambda: self.weights.folder.mkdir(exist_ok=True))
            settings = SamplingSettings(min(PROBE_TOKENS, self.max_new_tokens))
            ends = self.policy.end_token_ids
            drawn = sample(
                self.policy.module, self.prompts, 1, settings, seed=self.seed, end_token_ids=ends, ranks=self.ranks
            )
            return list(self.prompts), [own.token_ids for (own,) in drawn], {}
        prompts, responses = ([token_ids(ids) for ids in known[name]] for name in ("prompts", "responses"))
        older = {
            which: [np.array(own, dtype=np.float32) for own in values] for which, values in known["scores"].items()
        }
        return prompts, responses, older


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
