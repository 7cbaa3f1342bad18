"""A reference with weights: log-probabilities are read from the store, and computed if they are not in it.

Its forward is that of the policy, layout and precision included, so an untrained policy has margin 0 exactly. Processes
that share its weights run it together and equally often: one that has nothing to compute runs a short sequence.
"""

import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from tiltlm.core.errors import NumericsError, RunError
from tiltlm.core.example import Response, token_ids
from tiltlm.core.forest import Tree, pack_trees
from tiltlm.core.logps import ResponseLogps
from tiltlm.distributed.ranks import Ranks
from tiltlm.logprobs.head.states import States
from tiltlm.logprobs.module import evaluating
from tiltlm.reference.digests import numeric_path
from tiltlm.reference.reference import Computed, CountCallback, Reference
from tiltlm.reference.reference_packs import ContextAndResponse, contexts_and_responses, reference_packs
from tiltlm.reference.store.shard import Entry, TokenLogps, sequence_digest
from tiltlm.reference.store.store import ReferenceStore
from tiltlm.reference.weights import Weights

SECONDS_BETWEEN_WRITES = 60.0
"""A killed run loses at most this much time of the reference pass."""

TOKENS_BETWEEN_WRITES = 4_000_000
"""At most this many response tokens, about 32 MB, are in memory before they are written."""

FOR_AUDIT = 256
"""Number of sequences found in the store that an audit chooses from."""

FILLER = [Tree(token_ids([0]), (Response(token_ids([0])),))]
"""The pack of a process that has none left, while others that share its weights have one."""


class ModelReference(Reference):
    """Log-probabilities of frozen weights, read from a store or computed."""

    has_weights = True

    def __init__(
        self,
        name: str,
        weights: Weights,
        store: ReferenceStore | None,
        max_tokens: int,
        ranks: Ranks | None = None,
    ) -> None:
        """Combine weights and a store.

        Args:
            name: `initial`, `base` or the folder of a model.
            weights: The weights of the reference.
            store: Stores the log-probabilities; None means one forward at every `attach`.
            max_tokens: Token budget of a pack in `ensure`, which needs no gradient.
            ranks: The processes that share sharded weights. They must call `ensure` and `audit` together. None: this
                process has all of the weights.
        """
        self._ranks = ranks or Ranks()
        self._shares_weights = ranks is not None
        self.name = name
        self.digest = weights.digest
        self.weights = weights
        self._store = store
        self._max_tokens = max_tokens
        self._found: list[ContextAndResponse] = []
        self._num_found = 0
        self._random = random.Random()  # not the run's seeded generators: they must not advance here
        self.is_live = store is None
        self.starts_as_policy = weights.starts_as_policy

    def __str__(self) -> str:
        folder = self._store.folder if self._store is not None else None
        source = "computed at every step" if self._store is None else f"stored in {folder or 'memory'}"
        path = numeric_path(self.weights.policy)
        return f"{self.name} ({self.weights.how}), digest {self.digest}, {path}, {source}"

    def ensure(self, trees: Sequence[Tree], progress: CountCallback | None = None) -> Computed:
        """Bring the log-probabilities of all these sequences into the store. Only missing ones are computed.

        Args:
            trees: Prompts and responses. Equal sequences are computed once.
            progress: Called with (sequences computed, all that are missing), first before anything is computed.

        Raises:
            RunError: a sequence is missing, and the weights that it needs have changed.
        """
        if self._store is None:
            return Computed(0, 0)
        self._store.refresh()
        asked = contexts_and_responses(trees)
        seen: set[bytes] = set()
        missing: list[ContextAndResponse] = []
        for start in range(0, len(asked), 4096):  # in chunks, so that not all values are in memory at once
            chunk = asked[start : start + 4096]
            for sequence, logps in zip(chunk, self._store.get(chunk), strict=True):
                digest = sequence_digest(*sequence)
                if digest not in seen:
                    seen.add(digest)
                    if logps is None:
                        missing.append(sequence)
                    else:
                        self._remember(sequence)
        if self._ranks.any(bool(missing)):
            self._compute(missing, self._store, progress)
        return Computed(len(seen) - len(missing), len(missing))

    def ensure_together(self, trees: Sequence[Tree]) -> None:
        """Bring all these log-probabilities into the memory of every process that shares sharded weights."""
        if self._store is None or not self._shares_weights:
            return
        own = trees[self._ranks.rank :: self._ranks.size]
        self.ensure(own)
        asked = contexts_and_responses(own)
        for sent in self._ranks.gather(list(zip(asked, self._store.get(asked), strict=True))):
            known = self._store.get([sequence for sequence, _ in sent])
            pairs = zip(sent, known, strict=True)
            self._store.put([(*one, logps) for (one, logps), old in pairs if old is None and logps is not None])

    def _remember(self, sequence: ContextAndResponse) -> None:
        """Sample the sequences that an audit chooses from; every sequence found has the same probability."""
        at = len(self._found) if len(self._found) < FOR_AUDIT else self._random.randrange(self._num_found + 1)
        self._num_found += 1
        if at < FOR_AUDIT:
            self._found[at : at + 1] = [sequence]

    def _compute(
        self, missing: Sequence[ContextAndResponse], store: ReferenceStore, progress: CountCallback | None
    ) -> None:
        """Compute the missing log-probabilities and store them regularly, and once more at the end or at an error."""
        fresh: list[Entry] = []
        num_done, num_tokens, written = 0, 0, time.monotonic()
        if progress is not None:
            progress(0, len(missing))
        with self.in_place():
            try:
                for entries in self._run_all(missing):
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
        """Return the responses of `pack_trees(trees)` with the reference's log-probabilities added.

        A sequence that is not in the store is computed once. Without a store, all are computed by one forward over the
        same forest.

        Raises:
            RunError: a sequence is missing, and the weights that it needs have changed, or other processes share them.
        """
        if self._store is None:
            with self.in_place():
                self.forwards += 1
                ref_token_logps = self.weights.policy(pack_trees(trees)).token_logps
        else:
            known = self._store.get(contexts_and_responses(trees))
            if any(logps is None for logps in known):
                self._refuse_alone()
                self.ensure(trees)
                known = self._store.get(contexts_and_responses(trees))
            members = [response for tree in trees for response in tree.responses]
            ref_token_logps = torch.from_numpy(np.concatenate(list(map(_scored, members, known))))
        return responses.with_reference(ref_token_logps.to(responses.token_logps.device, non_blocking=True))

    def sums(self, trees: Sequence[Tree]) -> list[float]:
        """Return the log-probability of every response, nats, in the order of `pack_trees(trees)`.

        Every token counts, also one that its row does not score. Only for a reference with a store.
        """
        assert self._store is not None, "without a store the reference runs at every step"
        self.ensure(trees)
        found = self._store.get(contexts_and_responses(trees))
        return [math.nan if logps is None else float(logps.sum(dtype=np.float64)) for logps in found]

    def states(self, trees: Sequence[Tree]) -> States:
        """Return the states from which the policy's forward computes the reference's whole distributions.

        This is one forward over `pack_trees(trees)`.

        Raises:
            RunError: the weights that it needs have changed; `build_reference(..., live=True)` makes a copy of them.
        """
        with self.in_place():
            self.forwards += 1
            states = self.weights.policy.states(pack_trees(trees))
            if self._shares_weights and states.weight is not None:  # a gathered weight ends with the block
                states = replace(states, weight=states.weight.clone())
            return states

    def audit(self, num: int = 8) -> int:
        """Recompute a random sample of what `ensure` found in the store, and compare it token by token.

        Rounding is allowed: 1e-3 nats per token in float32. Where products are rounded to 16 bits, the mean over a
        response may differ by 0.05 nats per token.

        Returns:
            The number of sequences compared.

        Raises:
            NumericsError: stored and computed values differ by more.
        """
        if self._store is None or not self._ranks.any(bool(self._found)):
            return 0
        chosen = np.random.default_rng().permutation(len(self._found))[:num]
        asked = [self._found[i] for i in chosen]
        known = self._store.get(asked)
        stored = {_content(a): logps for a, logps in zip(asked, known, strict=True) if logps is not None}
        with self.in_place():
            entries = [entry for entries in self._run_all(asked) for entry in entries]
        is_rounded = self.weights.policy.precision == "bf16" or next(self.weights.policy.parameters()).itemsize == 2
        for context, response, logps in entries:
            gaps = np.abs(logps - stored.get(_content((context, response)), logps))
            gap, limit = (gaps.mean(), 5e-2) if is_rounded else (gaps.max(), 1e-3)
            if not gap <= limit:
                raise NumericsError(
                    f"reference store {self._store.folder or 'in memory'}: for a sequence of {len(context)} +"
                    f" {len(response)} tokens, the stored log-probabilities differ by {gap:.2g} nats per token from"
                    f" those that {self.name} gives now (limit {limit:g}). Remove that folder so that they are computed"
                    " again, or set reference.cache=false.",
                    code="stored_values_differ",
                    key="reference.store",
                )
        return len(entries)

    def tidy(self) -> None:
        """Remove the least recently used files if the store is above its limit."""
        if self._store is not None:
            self._store.tidy()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the reference's weights in place, in evaluation mode, without gradient."""
        with evaluating(self.weights.policy), torch.no_grad(), self.weights.in_place():
            yield

    def _refuse_alone(self) -> None:
        """Refuse a forward of this process alone where others share the weights: it would wait for them for ever."""
        if self._shares_weights:
            raise RunError(
                f"reference {self.name}: a log-probability is missing from the store, and its weights are sharded, so "
                "one process cannot compute it alone. If the store was emptied meanwhile, continue with --resume; a "
                "larger reference.store_limit prevents it",
                code="not_stored",
                key="reference.store_limit",
            )

    def _run_all(self, sequences: Sequence[ContextAndResponse]) -> Iterator[list[Entry]]:
        """Yield the log-probabilities of these sequences, pack by pack."""
        packs = list(reference_packs(sequences, self._max_tokens))
        most = max(self._ranks.gather(len(packs)))
        for pack in packs:
            yield self._run(pack)
        for _ in range(most - len(packs)):
            self._run(FILLER)

    def _run(self, pack: Sequence[Tree]) -> list[Entry]:
        """Run one forward and return the log-probabilities of every response token.

        Raises:
            NumericsError: one of them is not finite.
        """
        responses = self.weights.policy(pack_trees(pack))
        values = responses.token_logps.float().cpu().numpy()
        if not np.isfinite(values).all():
            raise NumericsError(
                f"reference {self.name}: {np.count_nonzero(~np.isfinite(values))} of {len(values)} token"
                " log-probabilities are not finite; check its weights",
                code="not_finite",
                key="reference.name",
            )
        bounds = np.cumsum([len(response) for _, response in contexts_and_responses(pack)])
        return [(*a, v) for a, v in zip(contexts_and_responses(pack), np.split(values, bounds[:-1]), strict=True)]


def _content(sequence: ContextAndResponse) -> tuple[bytes, bytes]:
    return sequence[0].tobytes(), sequence[1].tobytes()


def _scored(response: Response, logps: TokenLogps | None) -> TokenLogps:
    """Select the log-probabilities of the tokens that this response scores."""
    assert logps is not None, "just computed"
    return logps if response.scored is None else logps[response.scored]
