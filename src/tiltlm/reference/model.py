"""A reference with weights: log-probabilities read from the store where it has them, computed where it has not.

The forward is the policy's own, layout and precision included, so that a policy that has not moved has margin 0.
"""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from tiltlm.core.errors import NumericsError
from tiltlm.core.example import Response
from tiltlm.core.forest import Tree, pack_trees
from tiltlm.core.logps import ResponseLogps
from tiltlm.logprobs.head.states import States
from tiltlm.logprobs.modes import evaluating
from tiltlm.reference.digests import numeric_path
from tiltlm.reference.reference import Computed, CountCallback, Reference
from tiltlm.reference.reference_packs import ContextAndResponse, contexts_and_responses, reference_packs
from tiltlm.reference.store.shard import Entry, TokenLogps, sequence_digest
from tiltlm.reference.store.store import ReferenceStore
from tiltlm.reference.weights import Weights

SECONDS_BETWEEN_WRITES = 60.0
"""A killed run loses at most so much of the reference pass."""

TOKENS_BETWEEN_WRITES = 4_000_000
"""And no more than so many response tokens, some 32 MB, wait in memory to be written."""

FOR_AUDIT = 256
"""Of the sequences found, so many are kept for an audit to choose from."""


class ModelReference(Reference):
    """Log-probabilities of frozen weights: from the store where it has them, from a forward where it has not."""

    def __init__(self, name: str, weights: Weights, store: ReferenceStore | None, max_tokens: int) -> None:
        """Name the weights and where their log-probabilities are kept.

        Args:
            name: `initial`, `base` or the folder of a model.
            weights: Whose log-probabilities these are.
            store: Keeps them; None: one forward at every `attach`.
            max_tokens: Input tokens of a pack of `ensure`, which needs no gradient.
        """
        self.name = name
        self.digest = weights.digest
        self._weights = weights
        self._store = store
        self._max_tokens = max_tokens
        self._found: list[ContextAndResponse] = []
        self._num_found = 0
        self._chance = random.Random()  # its own: a run's seeded generators are not for this
        self.is_live = store is None

    def __str__(self) -> str:
        folder = self._store.folder if self._store is not None else None
        kept = "computed at every step" if self._store is None else f"kept in {folder or 'memory'}"
        path = numeric_path(self._weights.policy)
        return f"{self.name} ({self._weights.how}), digest {self.digest}, {path}, {kept}"

    def ensure(self, trees: Sequence[Tree], progress: CountCallback | None = None) -> Computed:
        """Have the log-probabilities of all these sequences in the store, computing only what is missing.

        Args:
            trees: Prompts and responses; what occurs more than once is one sequence.
            progress: Told about sequences computed.

        Raises:
            RunError: something is missing, and the weights it needs have moved.
        """
        if self._store is None:
            return Computed(0, 0)
        self._store.refresh()
        asked = contexts_and_responses(trees)
        seen: set[bytes] = set()
        missing: list[ContextAndResponse] = []
        for start in range(0, len(asked), 4096):  # a million values need not be in memory to be counted
            some = asked[start : start + 4096]
            for answer, logps in zip(some, self._store.get(some), strict=True):
                digest = sequence_digest(*answer)
                if digest not in seen:
                    seen.add(digest)
                    if logps is None:
                        missing.append(answer)
                    else:
                        self._remember(answer)
        if missing:
            self._compute(missing, self._store, progress)
        return Computed(len(seen) - len(missing), len(missing))

    def _remember(self, answer: ContextAndResponse) -> None:
        """Keep a few of what was found for the audit; each has the same chance."""
        at = len(self._found) if len(self._found) < FOR_AUDIT else self._chance.randrange(self._num_found + 1)
        self._num_found += 1
        if at < FOR_AUDIT:
            self._found[at : at + 1] = [answer]

    def _compute(
        self, missing: Sequence[ContextAndResponse], store: ReferenceStore, progress: CountCallback | None
    ) -> None:
        """Run what is missing through the reference and store it as it comes, and at the end, even an early one."""
        fresh: list[Entry] = []
        num_done, num_tokens, written = 0, 0, time.monotonic()
        with self._in_place():
            try:
                for pack in reference_packs(missing, self._max_tokens):
                    entries = self._run(pack)
                    self.forwards += 1
                    fresh += entries
                    num_done += len(entries)
                    num_tokens += sum(len(logps) for _, _, logps in entries)
                    if progress is not None:
                        progress(num_done, len(missing))
                    if num_tokens > TOKENS_BETWEEN_WRITES or time.monotonic() - written > SECONDS_BETWEEN_WRITES:
                        store.put(fresh)
                        fresh, num_tokens, written = [], 0, time.monotonic()
            finally:
                store.put(fresh)

    def attach(self, responses: ResponseLogps, trees: Sequence[Tree]) -> ResponseLogps:
        """The responses of `pack_trees(trees)` with the reference's log-probabilities beside the policy's.

        What the store has not is computed, once; without a store, everything is, by one forward over the same forest.

        Raises:
            RunError: something is missing, and the weights it needs have moved.
        """
        if self._store is None:
            with self._in_place():
                self.forwards += 1
                ref_token_logps = self._weights.policy(pack_trees(trees)).token_logps
        else:
            known = self._store.get(contexts_and_responses(trees))
            if any(logps is None for logps in known):
                self.ensure(trees)
                known = self._store.get(contexts_and_responses(trees))
            members = [response for tree in trees for response in tree.responses]
            ref_token_logps = torch.from_numpy(np.concatenate(list(map(_scored, members, known))))
        return responses.with_reference(ref_token_logps.to(responses.token_logps.device, non_blocking=True))

    def states(self, trees: Sequence[Tree]) -> States:
        """What lets the policy's forward over `pack_trees(trees)` see the reference's whole distributions: one forward.

        Raises:
            RunError: the weights it needs have moved; `build_reference(..., live=True)` keeps a copy of them.
        """
        with self._in_place():
            self.forwards += 1
            return self._weights.policy.states(pack_trees(trees))

    def audit(self, num: int = 8) -> int:
        """Recompute some of what `ensure` found in the store, others every time, and compare token by token.

        A number may differ by rounding: by 1e-3 nats a token in float32, by 0.05 nats in the mean over a response where
        products are rounded to 16 bits.

        Returns:
            How many sequences were compared.

        Raises:
            NumericsError: stored and computed values differ by more.
        """
        if self._store is None or not self._found:
            return 0
        chosen = np.random.default_rng().permutation(len(self._found))[:num]
        asked = [self._found[i] for i in chosen]
        known = self._store.get(asked)
        stored = {_content(a): logps for a, logps in zip(asked, known, strict=True) if logps is not None}
        with self._in_place():
            entries = [entry for pack in reference_packs(asked, self._max_tokens) for entry in self._run(pack)]
        is_rounded = self._weights.policy.precision == "bf16" or next(self._weights.policy.parameters()).itemsize == 2
        for context, response, logps in entries:
            gaps = np.abs(logps - stored.get(_content((context, response)), logps))
            gap, limit = (gaps.mean(), 5e-2) if is_rounded else (gaps.max(), 1e-3)
            if not gap <= limit:
                raise NumericsError(
                    f"reference store {self._store.folder or 'in memory'}: a sequence of {len(context)} +"
                    f" {len(response)} tokens is stored with log-probabilities that are {gap:.2g} nats a token off what"
                    f" {self.name} gives now (limit {limit:g}). Remove that folder, and they are computed again; or set"
                    " reference.cache=false.",
                    code="stored_values_differ",
                    key="reference.store",
                )
        return len(entries)

    def tidy(self) -> None:
        if self._store is not None:
            self._store.tidy()

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The reference's weights, in evaluation mode, without gradient."""
        with evaluating(self._weights.policy), torch.no_grad(), self._weights.in_place():
            yield

    def _run(self, pack: Sequence[Tree]) -> list[Entry]:
        """One forward; log-probabilities of every response token.

        Raises:
            NumericsError: one of them is not finite.
        """
        responses = self._weights.policy(pack_trees(pack))
        values = responses.token_logps.float().cpu().numpy()
        if not np.isfinite(values).all():
            raise NumericsError(
                f"reference {self.name}: {np.count_nonzero(~np.isfinite(values))} of {len(values)} token"
                " log-probabilities are not finite; look at its weights",
                code="not_finite",
                key="reference.name",
            )
        bounds = np.cumsum([len(response) for _, response in contexts_and_responses(pack)])
        return [(*a, v) for a, v in zip(contexts_and_responses(pack), np.split(values, bounds[:-1]), strict=True)]


def _content(answer: ContextAndResponse) -> tuple[bytes, bytes]:
    return answer[0].tobytes(), answer[1].tobytes()


def _scored(response: Response, logps: TokenLogps | None) -> TokenLogps:
    assert logps is not None, "just computed"
    return logps if response.scored is None else logps[response.scored]
