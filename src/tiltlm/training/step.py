"""One optimiser step, from examples to gradients: the only place where losses are divided.

Examples grow into trees, trees are planned into packs under a token budget, every pack is one forward and backward, and
the terms of the loss are divided by counts over the whole step and all processes. How a step is cut into packs and
ranks therefore changes no number beyond rounding, for coupled objectives too: those take two passes.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tiltlm.core import (
    DataError,
    Example,
    Forest,
    NumericsError,
    ResponseLogps,
    Tree,
    UnpairedResponses,
    View,
    detached,
    pack_trees,
    to_device,
    with_score_token,
)
from tiltlm.core.logps import OF_REFERENCE, WITH_GRADIENT, Extra
from tiltlm.core.views import Counts
from tiltlm.diagnostics.step_metrics import MetricSums, metric_sums
from tiltlm.distributed.ranks import Ranks
from tiltlm.distributed.wrapping import synchronised
from tiltlm.logprobs.head.states import States
from tiltlm.objectives.parts.statistics import Memory
from tiltlm.objectives.terms import Objective, Term, reads_scores, reduce_terms
from tiltlm.training.balance import Balance, routed
from tiltlm.training.packs import Pack, cut_into_packs


class ReferenceLogps(Protocol):
    """What a step asks of a reference (`tiltlm.reference.Reference`)."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    def attach(self, responses: ResponseLogps, trees: Sequence[Tree]) -> ResponseLogps: ...

    def states(self, trees: Sequence[Tree]) -> States: ...

    def after_step(self, step: int, weights: Iterable[tuple[str, Tensor]]) -> bool: ...

    def tensors(self) -> dict[str, Tensor]: ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None: ...


@dataclass
class StepResult:
    """What a step amounts to. `loss` is of the whole step; `metric_sums` and `suspects` are this process's share."""

    loss: float = 0.0
    metric_sums: MetricSums = field(default_factory=MetricSums)
    baseline: float = 0.0
    memory: Memory = ()
    """What the objective's statistic remembers after this step; kept once the step has reached the weights."""
    aux_loss: float | None = None
    """The load-balancing loss of the whole step, where one is asked for; no part of `loss`."""
    num_examples: int = 0
    num_tokens: int = 0
    """Input tokens of the step's responses and prompts, each prompt once; partners are not counted."""
    suspects: list[str] = field(default_factory=list)
    """Ids of the examples whose own loss is not finite."""

    def add(self, share: float, terms: Sequence[Term], examples: Sequence[Example], tallied: MetricSums) -> None:
        """Take in one pack."""
        self.loss += share
        self.metric_sums = self.metric_sums + tallied
        if not math.isfinite(share):
            bad = {int(e) for term in terms for e in term.example[~term.values.detach().isfinite()]}
            self.suspects += [examples[e].id for e in sorted(bad)]


Observer = Callable[[Pack, ResponseLogps, View, tuple[Term, ...]], None]
"""Sees every pack of an evaluation; for a coupled objective, the whole set as one."""


@dataclass(frozen=True)
class Stepper:
    """Everything a step works with, except its examples."""

    module: nn.Module
    """Forest → ResponseLogps; the wrapped root, never what is inside."""
    objective: Objective
    reference: ReferenceLogps | None
    max_tokens: int
    ranks: Ranks = field(default_factory=Ranks)
    noise: float = 0.0
    """Measured difference, in nats per token, between two ways of computing the same log-probabilities."""
    router_aux_loss_coef: float = 0.0
    """Weight of the load-balancing loss (`balance.py`) beside the objective's in training; 0: none."""
    poll: Callable[[], None] = lambda: None
    """Called before each pack, by all processes together; raises where the run has been asked to stop."""

    def train(self, examples: Sequence[Example], memory: Memory = ()) -> StepResult:
        """Add the gradient of the step's loss to the policy's parameters, averaged over all processes."""
        return self._step(examples, memory, backward=True, observe=None)

    def evaluate(self, examples: Sequence[Example], observe: Observer | None = None, memory: Memory = ()) -> StepResult:
        """The loss of all these examples as one step, without gradient; a few numbers a token are kept to its end."""
        with torch.no_grad():
            return self._step(examples, memory, backward=False, observe=observe)

    def policy_logps(
        self, trees: Sequence[Tree], extras: frozenset[Extra] = frozenset(), routing: bool = False
    ) -> ResponseLogps:
        """Log-probabilities of these trees' responses under the policy, and what else is asked of their tokens."""
        asked: dict[str, Any] = {"routing": True} if routing else {}
        if extras:
            beside = self.reference.states(trees) if self.reference is not None and extras & OF_REFERENCE else None
            asked |= {"extras": extras, "beside": beside}
        responses: ResponseLogps = self.module(self._forest(trees), **asked)
        return responses

    def forward(self, trees: Sequence[Tree], routing: bool = False) -> ResponseLogps:
        """All that the objective reads: the reference's log-probabilities too where there is one, and the extras."""
        responses = self.policy_logps(trees, self.objective.extras, routing)
        if self.reference is None or responses.ref_token_logps is not None:  # computed beside the policy's already
            return responses
        return self.reference.attach(responses, trees)

    def _forest(self, trees: Sequence[Tree]) -> Forest:
        return pack_trees(with_score_token(trees) if reads_scores(self.objective) else trees).to(self.ranks.device)

    def _step(
        self, examples: Sequence[Example], memory: Memory, backward: bool, observe: Observer | None
    ) -> StepResult:
        packs_of_rank = cut_into_packs(examples, self.max_tokens, self.ranks.size)
        packs = [pack for own in packs_of_rank for pack in own if pack.counted]
        baseline, memory = self._statistic(examples, memory, backward)
        outcome = StepResult(
            baseline=baseline,
            memory=memory,
            num_examples=len(examples),
            num_tokens=sum(tree.num_tokens for pack in packs for tree in pack.trees),
        )
        if self.objective.coupled and len(packs) > 1:
            self._coupled(packs_of_rank, outcome, backward, observe)
        else:
            self._separable(packs_of_rank, outcome, backward, observe)
        return outcome

    def _view(self, pack: Pack, baseline: float) -> View:
        view = to_device(self.objective.view.of(pack.examples, pack.slots), self.ranks.device)
        return view.with_baseline(baseline)

    def _counts(self, packs: Sequence[Pack]) -> Counts:
        none = Counts(examples=0, responses=0, tokens=0)
        return sum((self.objective.view.of(p.examples, p.slots).counts() for p in packs if p.counted), start=none)

    def _statistic(self, examples: Sequence[Example], memory: Memory, training: bool) -> tuple[float, Memory]:
        """The objective's statistic, pooled over packs and ranks; 0 where it has none.

        An evaluation is valued against what training remembers, where it remembers anything.
        """
        statistic = self.objective.statistic
        if statistic is None:
            return 0.0, memory
        if memory and not training:
            return statistic.settle([0.0] * len(memory), memory)
        for example in examples:
            if statistic.of == "partners" and not example.partners:
                raise DataError(
                    f"{example.id}: no partner; this objective measures responses of other prompts too",
                    code="no_partner",
                    row=example.id,
                )
        sums: list[Tensor] = []
        for pack in cut_into_packs(examples, self.max_tokens, self.ranks.size, statistic.of)[self.ranks.rank]:
            self.poll()
            with torch.no_grad():
                unpaired = to_device(UnpairedResponses.of(pack.examples, pack.slots), self.ranks.device)
                part = statistic.sums(self.forward(pack.trees), unpaired)
            sums.append(part if pack.counted else torch.zeros_like(part))
        pooled = self.ranks.sum(torch.stack(sums).sum(0).tolist())
        if not all(map(math.isfinite, pooled)):
            return math.nan, memory  # a clamp would hide it
        return statistic.settle(pooled, memory)

    def _separable(
        self, packs_of_rank: list[list[Pack]], out: StepResult, backward: bool, observe: Observer | None
    ) -> None:
        """One pass: every pack is forward, its share of the loss, backward."""
        counts = self._counts([pack for own in packs_of_rank for pack in own])
        own = packs_of_rank[self.ranks.rank]
        routing, balance = self._routes(backward), None
        if routing and (len(own) > 1 or self.ranks.size > 1):
            first = self._without_gradient(own, lambda pack: self.policy_logps(pack.trees, routing=True))
            balance = self._balance(own, first)
        done: list[tuple[Pack, ResponseLogps, View, tuple[Term, ...], Tensor]] = []
        for i, pack in enumerate(own):
            self.poll()
            with synchronised(self.module, last=i == len(own) - 1):
                responses = self.forward(pack.trees, routing)
                view = self._view(pack, out.baseline)
                terms = self.objective(responses, view)
                share = whole_share = reduce_terms(terms, counts)
                if routing:
                    balance = balance or self._balance(own, [responses])
                    whole_share = share + self.router_aux_loss_coef * balance.share(responses)
                if backward:
                    # Gradients are averaged over ranks, the loss is a sum over them.
                    torch.autograd.backward(whole_share * (self.ranks.size if pack.counted else 0))
            if pack.counted:
                done.append((pack, detached(responses), view, tuple(map(detached, terms)), share.detach()))
        # Numbers are read once all packs are on their way: whoever reads one waits for the device.
        for pack, responses, view, terms, share in done:
            out.add(share.item(), terms, pack.examples, metric_sums(self.objective, responses, view))
            if observe is not None:
                observe(pack, responses, view, terms)
        (out.loss,) = self.ranks.sum([out.loss])
        out.aux_loss = None if balance is None else balance.loss.item()

    def _coupled(
        self, packs_of_rank: list[list[Pack]], out: StepResult, backward: bool, observe: Observer | None
    ) -> None:
        """Two passes. The first, without gradient, gives all that the objective reads of the step; the loss is
        evaluated on it as leaves, c = ∂L/∂ output. The second is, pack by pack, the backward of Σ c · output, over
        token_logps, and ref_kls where the objective reads them."""
        own, routing = packs_of_rank[self.ranks.rank], self._routes(backward)
        first = self._without_gradient(own, lambda pack: self.forward(pack.trees, routing))
        step = Pack.of([e for packs in packs_of_rank for pack in packs if pack.counted for e in pack.examples])
        responses = self._gather(packs_of_rank, step, first)
        view = self._view(step, out.baseline)
        with torch.set_grad_enabled(backward):
            found = {name: getattr(responses, name) for name in WITH_GRADIENT}
            leaves = {name: values.requires_grad_(backward) for name, values in found.items() if values is not None}
            terms = self.objective(responses, view)
            loss = reduce_terms(terms, self._counts([step]))
        out.add(loss.item(), terms, step.examples, MetricSums())
        if self.ranks.is_first:  # every process holds the whole step; one of them counts it
            out.metric_sums = metric_sums(self.objective, responses, view)
            if observe is not None:
                observe(step, responses, view, terms)
        if backward:
            slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
            balance = self._balance(own, first) if routing else None
            self._second_pass(packs_of_rank, first, dict(zip(leaves, slopes, strict=True)), balance)
            out.aux_loss = None if balance is None else balance.loss.item()

    def _routes(self, backward: bool) -> bool:
        return backward and self.router_aux_loss_coef > 0

    def _without_gradient(self, packs: Sequence[Pack], forward: Callable[[Pack], ResponseLogps]) -> list[ResponseLogps]:
        found: list[ResponseLogps] = []
        for pack in packs:
            self.poll()
            with torch.no_grad():
                found.append(forward(pack))
        return found

    def _balance(self, own: Sequence[Pack], first: Sequence[ResponseLogps]) -> Balance:
        """The load-balancing loss of the step, from a forward of each of this process's packs."""
        parts = [routed(responses) * pack.counted for pack, responses in zip(own, first, strict=True)]
        return Balance.of(self.ranks.sum_tensor(torch.stack(parts).sum(0)))

    def _gather(self, packs_of_rank: list[list[Pack]], step: Pack, first: Sequence[ResponseLogps]) -> ResponseLogps:
        """The step's log-probabilities in every process: packs one after another, ranks one after another."""
        forest = self._forest(step.trees)
        own, earlier = (
            packs_of_rank[self.ranks.rank],
            [p for packs in packs_of_rank[: self.ranks.rank] for p in packs if p.counted],
        )

        def whole(pieces: Sequence[Tensor | None], start: int, length: int) -> Tensor | None:
            mine = [
                piece if pack.counted else piece[:0]
                for pack, piece in zip(own, pieces, strict=True)
                if piece is not None
            ]
            if not mine:
                return None
            gathered = torch.zeros(length, dtype=mine[0].dtype, device=self.ranks.device)
            torch.cat(mine, out=gathered[start : start + sum(map(len, mine))])
            return self.ranks.sum_tensor(gathered)  # everyone else has zeros there

        tokens = sum(p.num_targets for p in earlier), len(forest.targets)
        responses = sum(p.num_responses for p in earlier), forest.num_responses
        return ResponseLogps(
            token_logps=cast(Tensor, whole([r.token_logps for r in first], *tokens)),
            response_index=forest.response_index,
            num_tokens=forest.num_tokens,
            ref_token_logps=whole([r.ref_token_logps for r in first], *tokens),
            ref_seq_logps=whole([r.ref_seq_logps for r in first], *responses),
            log_collisions=whole([r.log_collisions for r in first], *tokens),
            entropies=whole([r.entropies for r in first], *tokens),
            ref_kls=whole([r.ref_kls for r in first], *tokens),
            ref_entropy_shares=whole([r.ref_entropy_shares for r in first], *tokens),
        )

    def _second_pass(
        self,
        packs_of_rank: list[list[Pack]],
        first: Sequence[ResponseLogps],
        slopes: Mapping[str, Float[Tensor, " R"]],
        balance: Balance | None,
    ) -> None:
        own, extras = packs_of_rank[self.ranks.rank], self.objective.extras & set(WITH_GRADIENT)
        start = sum(pack.num_targets for packs in packs_of_rank[: self.ranks.rank] for pack in packs if pack.counted)
        for i, pack in enumerate(own):
            self.poll()
            with synchronised(self.module, last=i == len(own) - 1):
                again = self.policy_logps(pack.trees, extras, routing=balance is not None)
                self._compare(first[i].token_logps, again.token_logps.detach(), pack)
                surrogates = []
                for name, slope in slopes.items():
                    output: Tensor = getattr(again, name)
                    part = slope[start : start + len(output)] if pack.counted else torch.zeros_like(output)
                    surrogates.append((part * output).sum())
                if balance is not None:
                    surrogates.append(self.router_aux_loss_coef * pack.counted * balance.share(again))
                torch.autograd.backward(torch.stack(surrogates).sum() * self.ranks.size)
            start += pack.num_targets if pack.counted else 0

    def _compare(self, first: Tensor, again: Tensor, pack: Pack) -> None:
        """Both passes must have seen the same policy."""
        difference = (first - again).abs()
        allowed = 10 * self.noise + 1e-5 * (1 + first.abs())
        if bool((difference > allowed).any()):
            raise NumericsError(
                f"the two passes over {pack.examples[0].id} and its pack differ by {difference.max().item():.3g} nats "
                f"in a token, where the noise floor is {self.noise:.1e}; something random (dropout?) is in the forward",
                code="passes_differ",
                row=pack.examples[0].id,
            )
