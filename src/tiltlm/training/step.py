"""One optimiser step, from examples to gradients: the only place where losses are divided.

Examples become trees, and trees are grouped into packs under a token budget. Each pack is one forward and backward. The
terms of the loss are divided by counts over the whole step and all processes. How a step is cut into packs and ranks
therefore changes no number beyond rounding. This holds for coupled objectives too, which take two passes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tiltlm.core import (
    DataError,
    Example,
    Forest,
    NumericsError,
    ResponseLogps,
    Responses,
    ResponseScores,
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
from tiltlm.diagnostics.step_metrics import MetricSums, metric_sums, sums_by_source
from tiltlm.distributed.position import HERE
from tiltlm.distributed.ranks import Ranks
from tiltlm.distributed.wrapping import synchronised
from tiltlm.objectives.parts.statistics import Memory
from tiltlm.objectives.shapes.rollouts import PolicyGradient
from tiltlm.objectives.terms import Objective, Term, reads_scores, reduce_terms
from tiltlm.reference import Reference
from tiltlm.training.balance import Balance, routed
from tiltlm.training.packs import Pack, cut_into_packs


@dataclass
class StepResult:
    """The result of a step. `loss` covers the whole step, `metric_sums` and `suspects` this process's examples only."""

    loss: float = 0.0
    metric_sums: MetricSums = field(default_factory=MetricSums)
    baseline: float = 0.0
    memory: Memory = ()
    """What the objective's statistic carries to the next step; used only if this step changes the weights."""
    aux_loss: float | None = None
    """The load-balancing loss of the whole step, which `loss` does not include; None if there is none."""
    num_examples: int = 0
    num_tokens: int = 0
    """Input tokens of prompts and responses, each prompt counted once; partners are not counted."""
    suspects: list[str] = field(default_factory=list)
    """Ids of the examples whose own loss is not finite."""

    def add(self, share: float, terms: Sequence[Term], examples: Sequence[Example], sums: MetricSums) -> None:
        """Add one pack: its share of the loss and its metrics."""
        self.loss += share
        self.metric_sums = self.metric_sums + sums
        if not math.isfinite(share):
            bad = {int(e) for term in terms for e in term.example[~term.values.detach().isfinite()]}
            self.suspects += [examples[e].id for e in sorted(bad)]


Observer = Callable[[Pack, Responses, View, tuple[Term, ...]], None]
"""Called with every pack of an evaluation; for a coupled objective once, with the whole set as one pack."""


@dataclass(frozen=True)
class Stepper:
    """All parts of a step, except its examples."""

    module: nn.Module
    """Maps a Forest to ResponseLogps. If the policy is wrapped, this is the wrapper."""
    objective: Objective
    reference: Reference | None
    max_tokens: int
    ranks: Ranks = field(default_factory=Ranks)
    noise: float = 0.0
    """Noise floor: the measured difference, in nats per token, between two ways to compute the same value."""
    router_aux_loss_coef: float = 0.0
    """Weight in training of the load-balancing loss (`balance.py`), which is added to the objective's; 0: none."""
    poll: Callable[[], None] = lambda: None
    """Called before each pack, by all processes together; raises if the run is to stop."""
    sources: tuple[str, ...] = ()
    """Sources of examples whose metrics are also measured by themselves."""

    def train(self, examples: Sequence[Example], memory: Memory = ()) -> StepResult:
        """Add the gradient of the step's loss to the policy's parameters, averaged over all processes."""
        return self._step(examples, memory, backward=True, observe=None)

    def evaluate(self, examples: Sequence[Example], observe: Observer | None = None, memory: Memory = ()) -> StepResult:
        """Return the loss of these examples as one step, without gradient; memory grows by a few numbers a token."""
        with torch.no_grad():
            return self._step(examples, memory, backward=False, observe=observe)

    def policy_logps(
        self, trees: Sequence[Tree], extras: frozenset[Extra] = frozenset(), routing: bool = False
    ) -> Responses:
        """Return the policy's log-probabilities of the trees' responses, and the extra values of their tokens.

        Args:
            trees: Prompts with their responses.
            extras: Values to compute beside the log-probabilities.
            routing: Also return expert loads and router probabilities.
        """
        options: dict[str, Any] = {"routing": True} if routing else {}
        if extras:
            reference = self.reference if extras & OF_REFERENCE else None
            states = None if reference is None else reference.states(trees)
            options |= {"extras": extras, "reference_states": states}
        responses: Responses = self.module(self._forest(trees), **options)
        return responses

    def forward(self, trees: Sequence[Tree], routing: bool = False) -> Responses:
        """Return all that the objective reads: log-probabilities of policy and reference, and the extras."""
        responses = self.policy_logps(trees, self.objective.extras, routing)
        if self.reference is None or isinstance(responses, ResponseScores) or responses.ref_token_logps is not None:
            return responses  # the forward computed those of the reference too, or the policy is a reward model
        return self.reference.attach(responses, trees)

    def _forest(self, trees: Sequence[Tree]) -> Forest:
        """Return the trees as one forest on this process's device."""
        return pack_trees(with_score_token(trees) if reads_scores(self.objective) else trees).to(self.ranks.device)

    def _step(
        self, examples: Sequence[Example], memory: Memory, backward: bool, observe: Observer | None
    ) -> StepResult:
        """Run a step: the statistic if the objective has one, then one or two passes over the packs."""
        packs_of_rank = cut_into_packs(self._live(examples), self.max_tokens, self.ranks.size)
        packs = [pack for own in packs_of_rank for pack in own if pack.counted]
        counts = self.objective.view.of(examples, [range(len(example.responses)) for example in examples]).counts()
        baseline, memory = self._statistic(examples, memory, backward)
        result = StepResult(
            baseline=baseline,
            memory=memory,
            num_examples=len(examples),
            num_tokens=sum(tree.num_tokens for pack in packs for tree in pack.trees),
        )
        if self.objective.coupled and len(packs) > 1:
            self._coupled(packs_of_rank, result, backward, observe)
        else:
            self._separable(packs_of_rank, counts, result, backward, observe)
        return result

    def _begin(self, pack: Pack) -> None:
        """Note that a pack begins, and stop the run here if that was asked for."""
        HERE.at_row(pack.examples[0].id)
        self.poll()

    def _live(self, examples: Sequence[Example]) -> Sequence[Example]:
        """Return the examples without samples whose forward changes nothing; at least one example."""
        if not isinstance(self.objective, PolicyGradient):
            return examples
        found = [live for live in map(self.objective.without_idle, examples) if live is not None]
        return found or examples[:1]

    def _view(self, pack: Pack, baseline: float) -> View:
        """Return the objective's view of a pack, on this process's device."""
        view = to_device(self.objective.view.of(pack.examples, pack.slots), self.ranks.device)
        return view.with_baseline(baseline)

    def _statistic(self, examples: Sequence[Example], memory: Memory, training: bool) -> tuple[float, Memory]:
        """Return the objective's statistic, pooled over packs and ranks, and its memory; 0 if there is no statistic.

        An evaluation uses the memory of training, if there is one.
        """
        statistic = self.objective.statistic
        if statistic is None:
            return 0.0, memory
        if memory and not training:
            return statistic.settle([0.0] * len(memory), memory)
        for example in examples:
            if statistic.reads == "partners" and not example.partners:
                raise DataError(
                    f"{example.id}: no partner; this objective also measures responses of other prompts",
                    code="no_partner",
                    row=example.id,
                )
        sums: list[Tensor] = []
        for pack in cut_into_packs(examples, self.max_tokens, self.ranks.size, statistic.reads)[self.ranks.rank]:
            self._begin(pack)
            with torch.no_grad():
                unpaired = to_device(UnpairedResponses.of(pack.examples, pack.slots), self.ranks.device)
                part = statistic.sums(self.forward(pack.trees), unpaired)
            sums.append(part if pack.counted else torch.zeros_like(part))
        pooled = self.ranks.sum(torch.stack(sums).sum(0).tolist())
        if not all(map(math.isfinite, pooled)):
            return math.nan, memory  # a clamp would hide it
        return statistic.settle(pooled, memory)

    def _separable(
        self,
        packs_of_rank: list[list[Pack]],
        counts: Counts,
        out: StepResult,
        backward: bool,
        observe: Observer | None,
    ) -> None:
        """Run one pass: for each pack the forward, its share of the loss, and the backward."""
        own = packs_of_rank[self.ranks.rank]
        routing, balance = self._routes(backward), None
        if routing and (len(own) > 1 or self.ranks.size > 1):  # the loss of a pack depends on the loads of all packs
            first = self._without_gradient(own, lambda pack: self.policy_logps(pack.trees, routing=True))
            balance = self._balance(own, first)
        done: list[tuple[Pack, Responses, View, tuple[Term, ...], Tensor]] = []
        for i, pack in enumerate(own):
            self._begin(pack)
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
        # Values are read after all packs were started, because reading one waits for the device.
        for pack, responses, view, terms, share in done:
            out.add(share.item(), terms, pack.examples, self._metrics(pack, responses, view, terms))
            if observe is not None:
                observe(pack, responses, view, terms)
        (out.loss,) = self.ranks.sum([out.loss])
        out.aux_loss = None if balance is None else balance.loss.item()

    def _metrics(self, pack: Pack, responses: Responses, view: View, terms: Sequence[Term]) -> MetricSums:
        """Return the metrics of a pack, of all its examples and of each source."""
        sums = metric_sums(self.objective, responses, view)
        if self.sources:
            sums += sums_by_source(self.objective, responses, terms, pack.examples, pack.slots, self.sources)
        return sums

    def _coupled(
        self, packs_of_rank: list[list[Pack]], out: StepResult, backward: bool, observe: Observer | None
    ) -> None:
        """Run two passes.

        The first, without gradient, computes all outputs that the objective reads of the step. The loss is evaluated on
        them as leaves: c = ∂L/∂ output. The second pass is, pack by pack, the backward of Σ c · output, over
        token_logps, and over ref_kls if the objective reads them.
        """
        own, routing = packs_of_rank[self.ranks.rank], self._routes(backward)
        first = self._without_gradient(own, lambda pack: self.forward(pack.trees, routing))
        step = Pack.of([e for packs in packs_of_rank for pack in packs if pack.counted for e in pack.examples])
        responses = self._gather(packs_of_rank, step, first)
        view = self._view(step, out.baseline)
        with torch.set_grad_enabled(backward):
            leaves = {name: values.requires_grad_(backward) for name, values in responses.with_gradient.items()}
            terms = self.objective(responses, view)
            loss = reduce_terms(terms, view.counts())
        out.add(loss.item(), terms, step.examples, MetricSums())
        if self.ranks.is_first:  # every process holds the whole step; only one counts it
            out.metric_sums = self._metrics(step, responses, view, terms)
            if observe is not None:
                observe(step, responses, view, terms)
        if backward:
            slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
            balance = self._balance(own, first) if routing else None
            self._second_pass(packs_of_rank, first, dict(zip(leaves, slopes, strict=True)), balance)
            out.aux_loss = None if balance is None else balance.loss.item()

    def _routes(self, backward: bool) -> bool:
        """Return whether the step has a load-balancing loss."""
        return backward and self.router_aux_loss_coef > 0

    def _without_gradient(self, packs: Sequence[Pack], forward: Callable[[Pack], Responses]) -> list[Responses]:
        """Return the result of `forward` for each pack."""
        found: list[Responses] = []
        for pack in packs:
            self._begin(pack)
            with torch.no_grad():
                found.append(forward(pack))
        return found

    def _balance(self, own: Sequence[Pack], first: Sequence[Responses]) -> Balance:
        """Return the load-balancing loss of the step, from a forward of each of this process's packs."""
        parts = [routed(responses) * pack.counted for pack, responses in zip(own, first, strict=True)]
        return Balance.of(self.ranks.sum_tensor(torch.stack(parts).sum(0)))

    def _gather(self, packs_of_rank: list[list[Pack]], step: Pack, first: Sequence[Responses]) -> ResponseLogps:
        """Return the outputs of the whole step in every process, ordered by rank, then by pack."""
        forest = self._forest(step.trees)
        own = packs_of_rank[self.ranks.rank]
        earlier = [p for packs in packs_of_rank[: self.ranks.rank] for p in packs if p.counted]

        def whole(pieces: Sequence[Tensor | None], start: int, length: int) -> Tensor | None:
            counted = [
                piece if pack.counted else piece[:0]
                for pack, piece in zip(own, pieces, strict=True)
                if piece is not None
            ]
            if not counted:
                return None
            gathered = torch.zeros(length, dtype=counted[0].dtype, device=self.ranks.device)
            torch.cat(counted, out=gathered[start : start + sum(map(len, counted))])
            return self.ranks.sum_tensor(gathered)  # the other processes have zeros in this part

        tokens = sum(p.num_targets for p in earlier), len(forest.targets)
        responses = sum(p.num_responses for p in earlier), forest.num_responses
        return ResponseLogps(
            token_logps=cast(Tensor, whole([r.token_logps for r in first], *tokens)),
            response_index=forest.response_index,
            num_tokens=forest.num_tokens,
            ref_token_logps=whole([r.ref_token_logps for r in first], *tokens),
            ref_seq_logps=whole([r.ref_seq_logps for r in first], *responses),
            extras={
                # Sorted, because each is a collective sum: all processes must run them in the same order.
                name: cast(Tensor, whole([r.extra(name) for r in first], *tokens))
                for name in sorted(self.objective.extras)
            },
        )

    def _second_pass(
        self,
        packs_of_rank: list[list[Pack]],
        first: Sequence[Responses],
        slopes: Mapping[str, Float[Tensor, " R"]],
        balance: Balance | None,
    ) -> None:
        """Run the second pass of a coupled step: the backward of Σ slope · output."""
        own, extras = packs_of_rank[self.ranks.rank], self.objective.extras & WITH_GRADIENT
        start = sum(pack.num_targets for packs in packs_of_rank[: self.ranks.rank] for pack in packs if pack.counted)
        for i, pack in enumerate(own):
            self._begin(pack)
            with synchronised(self.module, last=i == len(own) - 1):
                again = self.policy_logps(pack.trees, extras, routing=balance is not None)
                self._compare(first[i].token_logps, again.token_logps.detach(), pack)
                surrogates = []
                for name, slope in slopes.items():
                    output = again.with_gradient[name]
                    part = slope[start : start + len(output)] if pack.counted else torch.zeros_like(output)
                    surrogates.append((part * output).sum())
                if balance is not None:
                    surrogates.append(self.router_aux_loss_coef * pack.counted * balance.share(again))
                torch.autograd.backward(torch.stack(surrogates).sum() * self.ranks.size)
            start += pack.num_targets if pack.counted else 0

    def _compare(self, first: Tensor, again: Tensor, pack: Pack) -> None:
        """Require that both passes computed the same log-probabilities.

        Raises:
            NumericsError: they differ beyond noise.
        """
        difference = (first - again).abs()
        allowed = 10 * self.noise + 1e-5 * (1 + first.abs())
        if bool((difference > allowed).any()):
            raise NumericsError(
                f"the two passes over the pack of {pack.examples[0].id} differ by {difference.max().item():.3g} nats "
                f"in a token, and the noise floor is {self.noise:.1e}; the forward is random",
                code="passes_differ",
                row=pack.examples[0].id,
            )
