"""Cases where two methods are equal: limits of a knob, equal lengths, pairs, single tokens."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, tensor

from tiltlm.core import Comparison, Example, token_ids
from tiltlm.objectives import Objective, build
from tiltlm.worlds.finite import FiniteWorld
from tiltlm.worlds.population import Population, comparisons, population_loss, rankings, scored, unpaired, view_of

POLICIES = [
    tensor([-1.5, -1.25, -2.75, -1.0], dtype=torch.float64),
    tensor([-4.0, -2.0, -6.5, -3.0], dtype=torch.float64),
]


def loss_and_slope(objective: Objective, world: FiniteWorld, population: Population, policy: Tensor):
    logps = policy.clone().requires_grad_()
    loss = population_loss(objective, world, logps, view_of(objective, population))
    return loss.detach(), torch.autograd.grad(loss, logps)[0]


@dataclass(frozen=True)
class Same:
    """`one` is `factor` times `other`, in value and gradient, on `population` of `world`."""

    one: tuple[str, dict[str, Any]]
    other: tuple[str, dict[str, Any]]
    factor: float = 1.0
    population: Callable[[FiniteWorld], Population] = comparisons
    other_population: Callable[[FiniteWorld], Population] | None = None
    lengths: tuple[int, ...] = (3, 1, 7, 2)
    reward: tuple[float, ...] = (0.0, 0.4, 1.0, -0.7)
    tolerance: float = 1e-10

    def __str__(self) -> str:
        words = [" ".join([name, *(f"{k}={v}" for k, v in knobs.items())]) for name, knobs in (self.one, self.other)]
        return " is ".join(words)


def certain_pair(world: FiniteWorld, gap: float = 1.0) -> Population:
    """One comparison, response 2 over response 0, with scores this far apart."""
    (example,), slots = comparisons(world)
    scores = tuple(gap if k == 2 else 0.0 for k in range(4))
    return [Example("pair", token_ids([0]), example.responses, (Comparison(2, 0),), scores=scores)], slots


def ranked_pair(world: FiniteWorld) -> Population:
    """The same comparison as a list of two."""
    (example,), _ = comparisons(world)
    answers = (example.responses[0], example.responses[2])
    return [Example("list", token_ids([0]), answers, ranks=(2, 1))], [[0, 2]]


def far_apart(world: FiniteWorld) -> Population:
    return certain_pair(world, gap=1e4)


EVEN = (4, 4, 4, 4)
ONE = (1, 1, 1, 1)
CASES = [
    Same(("cdpo", {"beta": 0.3, "label_smoothing": 0.0}), ("dpo", {"beta": 0.3})),
    Same(("robust_dpo", {"beta": 0.3, "label_smoothing": 0.0}), ("dpo", {"beta": 0.3})),
    Same(("dpo_nll", {"beta": 0.3, "nll_weight": 0.0}), ("dpo", {"beta": 0.3})),
    Same(("length_dpo", {"beta": 0.3, "alpha": 0.0}), ("dpo", {"beta": 0.3})),
    Same(("length_dpo", {"beta": 0.3, "alpha": 0.7}), ("dpo", {"beta": 0.3}), lengths=EVEN),
    Same(("ld_dpo", {"beta": 0.3, "alpha": 1.0}), ("dpo", {"beta": 0.3})),
    Same(("ld_dpo", {"beta": 0.3, "alpha": 0.2}), ("dpo", {"beta": 0.3}), lengths=EVEN),
    Same(("dpop", {"beta": 0.3, "positive_weight": 0.0}), ("dpo", {"beta": 0.3})),
    Same(("f_dpo", {"beta": 0.3, "divergence": "reverse_kl"}), ("dpo", {"beta": 0.3})),
    Same(("f_dpo", {"beta": 0.3, "divergence": "alpha", "alpha": 1e-7}), ("dpo", {"beta": 0.3}), tolerance=1e-5),
    Same(
        ("f_dpo", {"beta": 0.3, "divergence": "alpha", "alpha": 1 - 1e-9}),
        ("f_dpo", {"beta": 0.3, "divergence": "forward_kl"}),
        tolerance=1e-5,
    ),
    Same(("odpo", {"beta": 0.3, "alpha": 0.0}), ("dpo", {"beta": 0.3}), population=certain_pair),
    Same(("odpo", {"beta": 0.3, "alpha": 0.8}), ("dpo", {"beta": 0.3}), population=certain_pair),
    Same(("tdpo1", {"beta": 0.3}), ("dpo", {"beta": 0.3}), lengths=ONE),
    Same(("tdpo2", {"beta": 0.3, "alpha": 0.0}), ("dpo", {"beta": 0.3})),
    Same(("aot", {"beta": 0.3, "label_smoothing": 0.0}), ("dpo", {"beta": 0.3}), population=certain_pair),
    Same(
        ("aot", {"beta": 0.3, "label_smoothing": 0.1}),
        ("cdpo", {"beta": 0.3, "label_smoothing": 0.1}),
        population=certain_pair,
    ),
    Same(("pl_dpo", {"beta": 0.3}), ("dpo", {"beta": 0.3}), population=ranked_pair, other_population=certain_pair),
    Same(("info_nca", {"beta": 0.3}), ("dpo", {"beta": 0.3})),
    Same(("dno", {"eta": 0.3}), ("dpo", {"beta": 0.3}), population=far_apart),
    Same(("dno", {"eta": 0.3}), ("dpo", {"beta": 0.3}), other_population=lambda world: comparisons(world, "soft")),
    Same(("ipo_mean", {"tau": 0.3}), ("ipo", {"tau": 0.3}), lengths=ONE),
    Same(("ipo_mean", {"tau": 0.3}), ("ipo", {"tau": 0.3 / 4}), factor=1 / 16, lengths=EVEN),
    # REBEL with all gaps 1 regresses onto η; times η² that is IPO with 1/(2τ) = η.
    Same(("rebel", {"eta": 0.4}), ("ipo", {"tau": 1 / 0.8}), factor=1 / 0.16, population=certain_pair),
    Same(("ln_dpo", {"beta": 1.2}), ("dpo", {"beta": 0.3}), lengths=EVEN),
    Same(("simpo", {"beta": 1.2, "gamma_beta_ratio": 0.0}), ("cpo", {"beta": 0.3, "nll_weight": 0.0}), lengths=EVEN),
    Same(
        ("alphapo", {"alpha": 1e-7, "beta": 2.0, "gamma_beta_ratio": 0.3}),
        ("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.3}),
        tolerance=1e-6,
    ),
    Same(
        ("alphapo", {"alpha": -1e-7, "beta": 2.0, "gamma_beta_ratio": 0.3}),
        ("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.3}),
        tolerance=1e-6,
    ),
    Same(("rainbowpo", {"beta": 2.0, "alpha": 1.0, "gamma_beta_ratio": 0.3}), ("ln_dpo", {"beta": 2.0})),
    Same(
        ("rainbowpo", {"beta": 2.0, "alpha": 0.0, "gamma_beta_ratio": 0.3}),
        ("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.3}),
    ),
    # Single labels hold each comparison's two responses, so they count twice.
    Same(("bco_pair", {"beta": 0.3}), ("bco", {"beta": 0.3}), factor=2.0, other_population=unpaired),
    Same(("apo_zero", {"beta": 0.3}), ("kto", {"beta": 0.3}), factor=2.0, other_population=unpaired),
    # NCA on a list of two far apart scores: the target is (1, 0).
    Same(
        ("nca", {"beta": 0.3, "reward_temperature": 1e-3}),
        ("nca", {"beta": 0.3}),
        population=lambda world: pair_of_scores(world),
        other_population=certain_pair,
    ),
]


def pair_of_scores(world: FiniteWorld) -> Population:
    (example,), _ = comparisons(world)
    return [Example("list", token_ids([0]), (example.responses[0], example.responses[2]), scores=(0.0, 1.0))], [[0, 2]]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("policy", POLICIES, ids=["near", "far"])
def test_one_method_is_another(general, case, policy):
    world = replace(general, lengths=tensor(case.lengths))
    other_population = case.other_population or case.population
    one = loss_and_slope(build(case.one[0], **case.one[1]), world, case.population(world), policy)
    other = loss_and_slope(build(case.other[0], **case.other[1]), world, other_population(world), policy)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, case.factor * b, rtol=case.tolerance, atol=case.tolerance)


def test_dpop_is_dpo_while_the_chosen_response_is_above_the_reference(general):
    policy = general.ref_logps + tensor([0.1, -0.5, 0.3, 0.0], dtype=torch.float64)
    one, other = (
        loss_and_slope(build(name, beta=0.3), general, certain_pair(general), policy) for name in ("dpop", "dpo")
    )
    torch.testing.assert_close(one, other)


def test_a_score_gap_below_one_asks_for_less_than_dpo(general):
    losses = [
        float(loss_and_slope(build("odpo", beta=0.3), general, certain_pair(general, gap), POLICIES[0])[0])
        for gap in (0.3, 1.0, 3.0)
    ]
    assert losses[0] < losses[1] < losses[2]


def test_robust_dpo_is_unbiased_term_by_term():
    """(1 − ε)·ℓ(z) + ε·ℓ(−z) = −log σ(z) for every z; smoothing does not have this property."""
    z = torch.linspace(-8, 8, 33, dtype=torch.float64)
    clean = -torch.nn.functional.logsigmoid(z)
    for name, unbiased in (("robust_dpo", True), ("cdpo", False)):
        link = build(name, label_smoothing=0.2).link
        assert torch.allclose(0.8 * link(z) + 0.2 * link(-z), clean, atol=1e-12) == unbiased


def test_cdpo_is_dpo_with_a_linear_brake():
    """ℓ = −log σ(z) + εz; de-noising is −log σ(z) − εz/(1 − 2ε), the other way."""
    z = torch.linspace(-8, 8, 33, dtype=torch.float64)
    clean = -torch.nn.functional.logsigmoid(z)
    torch.testing.assert_close(build("cdpo", label_smoothing=0.2).link(z), clean + 0.2 * z)
    torch.testing.assert_close(build("robust_dpo", label_smoothing=0.2).link(z), clean - 0.2 * z / 0.6)


def test_appending_tokens_as_likely_as_the_rest_changes_nothing_for_simpo(general):
    """The mean stays, so does the loss; the sum does not, nor does CPO's loss."""
    longer = replace(general, lengths=general.lengths + tensor([2, 0, 0, 0]))
    policy = POLICIES[0]
    grown = policy * longer.lengths / general.lengths
    for name, knobs, same in (("simpo", {}, True), ("cpo", {"nll_weight": 0.0}, False)):
        before = loss_and_slope(build(name, **knobs), general, comparisons(general), policy)[0]
        after = loss_and_slope(build(name, **knobs), longer, comparisons(longer), grown)[0]
        assert torch.allclose(before, after, atol=1e-12) == same


def test_a_ranking_is_not_its_reverse(general):
    world, objective = general, build("pl_dpo", beta=0.5)
    rows, slots = rankings(world)
    forward = [replace(rows[0], ranks=(1, 2, 3, 4), weight=1.0)]
    backward = [replace(rows[0], ranks=(4, 3, 2, 1), weight=1.0)]
    one, other = (loss_and_slope(objective, world, (rows, slots[:1]), POLICIES[0])[0] for rows in (forward, backward))
    assert abs(float(one - other)) > 0.01


def test_tied_ranks_are_the_sum_over_the_orders_they_leave_open(general):
    """P({a, b} before the rest) = P(a, b, …) + P(b, a, …), summed over the orders of the rest as well."""
    rows, slots = rankings(general)
    objective = build("pl_dpo", beta=0.5)

    def likelihood(ranks: tuple[int, ...]) -> float:
        population = [replace(rows[0], ranks=ranks, weight=1.0)], slots[:1]
        return float(torch.exp(-loss_and_slope(objective, general, population, POLICIES[0])[0]))

    open_orders = [(1, 2, 3, 4), (2, 1, 3, 4), (1, 2, 4, 3), (2, 1, 4, 3)]
    assert likelihood((1, 1, 3, 3)) == pytest.approx(sum(likelihood(r) for r in open_orders), rel=1e-12)
    assert likelihood((1, 1, 1, 1)) == pytest.approx(1.0, abs=1e-12)


def test_aot_depends_on_the_whole_step_and_not_on_its_order(general):
    """Sorted margins are matched with sorted margins: not as in DPO, and independent of the order of the rows."""
    rows, slots = comparisons(general)
    chosen, rejected = [2, 1, 0], [0, 3, 1]
    losses = {}
    for name in ("aot", "dpo"):
        for order in ((0, 1, 2), (2, 0, 1)):
            picked = tuple(Comparison(chosen[i], rejected[i]) for i in order)
            population = [replace(rows[0], comparisons=picked)], slots
            policy = tensor([-4.0, -3.0, -2.0, -3.5], dtype=torch.float64)
            losses[name, order] = float(loss_and_slope(build(name, beta=0.5), general, population, policy)[0])
    of_policy = np.sort([-2.0 + 4.0, -3.0 + 3.5, -4.0 + 3.0])
    ref = general.ref_logps.numpy()
    expected = np.log1p(np.exp(-0.5 * (of_policy - np.sort(ref[chosen] - ref[rejected])))).mean()
    assert losses["aot", (0, 1, 2)] == pytest.approx(expected, abs=1e-12)
    assert losses["aot", (2, 0, 1)] == pytest.approx(expected, abs=1e-12)
    assert abs(losses["dpo", (0, 1, 2)] - expected) > 1e-3


def test_scored_lists_with_even_scores_teach_nothing_at_the_reference(general):
    """A list of ties has no gradient if the policy is the reference."""
    world = replace(general, reward=torch.zeros(4, dtype=torch.float64))
    for name in ("exo", "info_nca"):
        objective = build(name, beta=0.5, reward_temperature=1.0)
        slope = loss_and_slope(objective, world, scored(world), world.ref_logps)[1]
        torch.testing.assert_close(slope, torch.zeros(4, dtype=torch.float64), atol=1e-15, rtol=0)


def bags(world: FiniteWorld, good: list[int], bad: list[int]) -> Population:
    """Single responses, each desirable or not, of equal weight."""
    answers = comparisons(world)[0][0].responses
    rows = [
        Example(f"{k}", token_ids([0]), (answers[k],), labels=(label,))
        for members, label in ((good, True), (bad, False))
        for k in members
    ]
    return rows, [[k] for k in (*good, *bad)]


def test_aot_of_two_bags_compares_quantiles(general):
    """Classes of equal size are matched one to one; two against one matches each of the two with the one."""
    objective, rho = build("aot_unpaired", beta=0.5), (POLICIES[0] - general.ref_logps).numpy()

    def found(good: list[int], bad: list[int]) -> float:
        return float(loss_and_slope(objective, general, bags(general, good, bad), POLICIES[0])[0])

    def expected(good: np.ndarray, bad: np.ndarray) -> float:
        return float(np.log1p(np.exp(-0.5 * (good - bad))).mean())

    assert found([0, 2], [1, 3]) == pytest.approx(expected(np.sort(rho[[0, 2]]), np.sort(rho[[1, 3]])), rel=1e-12)
    assert found([2, 0], [3, 1]) == pytest.approx(found([0, 2], [1, 3]), rel=1e-12)
    assert found([0, 2], [1]) == pytest.approx(expected(rho[[0, 2]], rho[1]), rel=1e-12)


def test_aot_of_one_bag_alone_teaches_nothing(general):
    loss, slope = loss_and_slope(build("aot_unpaired"), general, bags(general, [0, 1], []), POLICIES[0])
    assert float(loss) == 0.0
    assert slope.tolist() == [0.0] * 4
