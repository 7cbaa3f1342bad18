"""What theory says of the methods: gradients at known margins, optima of small worlds solved exactly, symmetries."""

import math

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, tensor

from tiltlm.core import Demonstrations, Labelled, Pairs, ResponseLogps
from tiltlm.objectives import Objective, build, dpo, ipo, kto, orpo, reduce_terms, sft, simpo

REWARD = tensor([0.0, 0.4, 1.0, -0.7]).double()
REFERENCE = torch.log_softmax(tensor([0.3, 0.0, -0.5, 0.2]).double(), 0)
LENGTHS = tensor([3, 1, 7, 2])


def world(policy: Tensor, reference: Tensor = REFERENCE) -> ResponseLogps:
    """Responses of one prompt as a finite set; the tokens of each share its log-probability evenly."""
    lengths = LENGTHS[: len(policy)]
    index = torch.repeat_interleave(torch.arange(len(policy)), lengths)
    return ResponseLogps((policy / lengths)[index], index, lengths, ref_seq_logps=reference)


def all_pairs(preference: Tensor) -> Pairs:
    """Every pair once, each with its Bradley–Terry probability as a soft label."""
    i, j = torch.triu_indices(len(REWARD), len(REWARD), offset=1)
    zero = torch.zeros(len(i)).double()
    return Pairs(i, j, torch.zeros_like(i), torch.ones(len(i)).double() / len(i), preference[i, j], zero, 1)


BRADLEY_TERRY = torch.sigmoid(REWARD[:, None] - REWARD[None, :])


def fit(objective: Objective, view) -> Tensor:
    """The log-policy that minimises the population loss, by BFGS on tabular logits."""

    def fun(x):
        logits = tensor(x, requires_grad=True)
        loss = reduce_terms(objective(world(torch.log_softmax(logits, 0)), view), view.counts())
        (gradient,) = torch.autograd.grad(loss, logits)
        return float(loss.detach()), gradient.numpy()

    x = minimize(fun, REFERENCE.numpy(), jac=True, method="BFGS", options={"gtol": 1e-10}).x
    return torch.log_softmax(tensor(x), 0)


def total_variation(a: Tensor, b: Tensor) -> float:
    return float((a.exp() - b.exp()).abs().sum() / 2)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_dpo_recovers_the_kl_optimum(beta):
    """Under Bradley–Terry labels the population minimiser is π* ∝ π_ref · exp(r / β)."""
    optimum = torch.log_softmax(REFERENCE + REWARD / beta, 0)
    assert total_variation(fit(dpo(beta), all_pairs(BRADLEY_TERRY)), optimum) < 1e-6


def test_ipo_tilts_by_the_win_rate():
    """With every pair equally likely, ρ_i − ρ_j regresses onto (P_ij − ½)/τ: π ∝ π_ref · exp(mean_j P_ij / τ)."""
    tau = 0.6
    optimum = torch.log_softmax(REFERENCE + BRADLEY_TERRY.mean(1) / tau, 0)
    assert total_variation(fit(ipo(tau), all_pairs(BRADLEY_TERRY)), optimum) < 1e-6


def test_simpo_without_margin_ignores_the_reference_and_keeps_a_length_prior():
    """A(y) = (r + c)/β, so π(y) = exp(T(y)·(r + c)/β) with c from Σπ = 1."""
    beta = 2.0
    low, high = -50.0, 50.0
    for _ in range(200):
        c = (low + high) / 2
        low, high = (c, high) if float(((REWARD + c) * LENGTHS / beta).exp().sum()) < 1 else (low, c)
    optimum = (REWARD + low) * LENGTHS / beta
    found = fit(simpo(beta, gamma_beta_ratio=0.0), all_pairs(BRADLEY_TERRY))
    assert total_variation(found, optimum) < 1e-6


def test_sft_on_pairs_learns_who_wins():
    """The minimiser over chosen responses is their own distribution: π(y) = share of comparisons won."""
    wins = torch.zeros(4).double()
    i, j = torch.triu_indices(4, 4, offset=1)
    wins.index_add_(0, i, BRADLEY_TERRY[i, j]).index_add_(0, j, BRADLEY_TERRY[j, i])
    view = Demonstrations(torch.arange(4), torch.arange(4), wins, int(LENGTHS.sum()), 4)
    assert total_variation(fit(sft(), view), (wins / wins.sum()).log()) < 1e-6


def gradient(objective: Objective, view, policy: Tensor) -> Tensor:
    seq = policy.clone().requires_grad_()
    reduce_terms(objective(world(seq), view), view.counts()).backward()
    return seq.grad


def one_pair(chosen: int = 0, rejected: int = 2, p: float = 1.0, offset: float = 0.0) -> Pairs:
    one = torch.ones(1).double()
    return Pairs(tensor([chosen]), tensor([rejected]), tensor([0]), one, p * one, offset * one, 1)


POLICY = tensor([-4.0, -2.0, -6.5, -3.0]).double()


def test_dpo_gradient_is_beta_sigma_of_minus_the_margin():
    """∂ℓ/∂log π(y_w) = −β·σ(−z): large where the pair is wrong."""
    beta = 0.3
    z = beta * float((POLICY - REFERENCE)[0] - (POLICY - REFERENCE)[2])
    weight = beta / (1 + math.exp(z))
    expected = tensor([-weight, 0.0, weight, 0.0]).double()
    torch.testing.assert_close(gradient(dpo(beta), one_pair(), POLICY), expected)


@pytest.mark.parametrize("side", [-1, 0, 1])
def test_ipo_pulls_back_beyond_its_target(side):
    """Zero gradient at 1/(2τ); the sign turns there: overshoot is punished."""
    tau = 0.25
    policy = REFERENCE.clone()
    policy[0] += 2.0 + side
    slope = float(gradient(ipo(tau), one_pair(), policy)[0])
    assert slope == pytest.approx(2.0 * side)


@pytest.mark.parametrize("objective", [dpo(0.2), ipo(0.4), simpo(2.0, 0.5)])
def test_margin_losses_see_only_the_difference_of_rewards(objective):
    """Adding one constant to both rewards changes nothing: ∂ℓ/∂r_w = −∂ℓ/∂r_l, per token for mean rewards."""
    g = gradient(objective, one_pair(), POLICY)
    per_reward = g * LENGTHS if objective.reward.__class__.__name__ == "MeanLogp" else g
    assert float(per_reward[0] + per_reward[2]) == pytest.approx(0.0, abs=1e-12)
    assert abs(float(g[0])) > 0.01


@pytest.mark.parametrize("objective", [orpo(0.5)])
def test_orpo_is_no_margin_loss(objective):
    g = gradient(objective, one_pair(), POLICY) * LENGTHS
    assert abs(float(g[0] + g[2])) > 0.1


def test_orpo_odds_gradient_explodes_as_the_mean_probability_nears_one():
    """∂(−log σ(Δlo))/∂A_w = −σ(−Δlo)/(1 − e^{A_w})."""
    lam, policy = 0.7, tensor([-0.003, -2.0, -6.5, -3.0]).double()
    a_w, a_l = float(policy[0] / 3), float(policy[2] / 7)
    delta = (a_w - math.log(-math.expm1(a_w))) - (a_l - math.log(-math.expm1(a_l)))
    expected = -1 - lam / (1 + math.exp(delta)) / -math.expm1(a_w)
    assert float(gradient(orpo(lam), one_pair(), policy)[0]) * 3 == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("objective", [dpo(0.2), ipo(0.4), simpo(2.0, 0.5)])
def test_a_soft_label_of_zero_is_the_swapped_pair(objective):
    swapped = objective(world(POLICY), one_pair(2, 0, p=1.0, offset=-0.3))[0].values
    soft = objective(world(POLICY), one_pair(0, 2, p=0.0, offset=0.3))[0].values
    torch.testing.assert_close(soft, swapped)


def test_a_tie_pulls_dpo_to_a_zero_margin():
    policy = REFERENCE.clone()
    assert gradient(dpo(0.5), one_pair(p=0.5), policy).abs().max() < 1e-12
    policy[0] += 1
    assert float(gradient(dpo(0.5), one_pair(p=0.5), policy)[0]) > 0


def test_an_offset_is_a_head_start_of_the_rejected_reward():
    beta, offset = 0.5, 1.5
    shifted = REFERENCE.clone()
    shifted[2] -= offset / beta
    with_offset = dpo(beta)(world(POLICY), one_pair(offset=offset))[0].values
    with_reward = dpo(beta)(world(POLICY, shifted), one_pair())[0].values
    torch.testing.assert_close(with_offset, with_reward)


def test_simpo_does_not_care_for_tokens_of_average_likelihood():
    def loss(num_tokens: int) -> Tensor:
        tokens = torch.cat([torch.full((num_tokens,), -1.25), torch.tensor([-2.0, -3.0])]).double()
        index = tensor([0] * num_tokens + [1, 1])
        return simpo(2.0, 0.5)(ResponseLogps(tokens, index, tensor([num_tokens, 2])), one_pair(0, 1))[0].values

    torch.testing.assert_close(loss(4), loss(9))


def labelled(rows: list[tuple[int, bool]], z0: float) -> Labelled:
    n = len(rows)
    return Labelled(
        tensor([r for r, _ in rows]), tensor([d for _, d in rows]), torch.arange(n), torch.ones(n).double(), n, z0
    )


@pytest.mark.parametrize("desirable", [True, False])
def test_kto_gradient(desirable):
    """∓λβσ′(β(ρ − z0)): it vanishes for very good and very bad examples alike, where DPO's does not."""
    beta, z0 = 0.4, 0.5
    s = 1 / (1 + math.exp(-beta * (float((POLICY - REFERENCE)[0]) - z0)))
    expected = (-1 if desirable else 1) * beta * s * (1 - s)
    g = gradient(kto(beta), labelled([(0, desirable)], z0), POLICY)
    assert float(g[0]) == pytest.approx(expected)
    far = REFERENCE - 200.0
    assert gradient(kto(beta), labelled([(0, desirable)], z0), far).abs().max() < 1e-12


def test_kto_baseline_is_a_clamped_mean():
    assert kto().baseline(6.0, 4) == 1.5
    assert kto().baseline(-6.0, 4) == 0.0


def test_kto_degenerates_where_most_labels_are_bad():
    """Linear in σ: a response that is undesirable more often than not loses its mass altogether."""
    rows = [(k, bool(y)) for k, ys in enumerate([(1, 1), (1, 1), (0, 0), (1, 0)]) for y in ys]
    objective, view = kto(1.0), labelled(rows, 0.0)
    logits = REFERENCE.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(150):
        optimizer.zero_grad()
        reduce_terms(objective(world(torch.log_softmax(logits, 0)), view), view.counts()).backward()
        optimizer.step()
    assert float(torch.log_softmax(logits.detach(), 0)[2]) < -8


def test_certain_labels_let_dpo_diverge_and_not_ipo():
    """One pair, p = 1: DPO's margin grows on and on, IPO's stops at 1/(2τ)."""
    certain = one_pair()
    margins = {}
    for name in ("dpo", "ipo"):
        objective, logits = build(name), REFERENCE.clone().requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=0.2)
        margins[name] = []
        for step in range(450):
            optimizer.zero_grad()
            reduce_terms(objective(world(torch.log_softmax(logits, 0)), certain), certain.counts()).backward()
            optimizer.step()
            if step % 150 == 149:
                ratio = torch.log_softmax(logits.detach(), 0) - REFERENCE
                margins[name].append(float(ratio[0] - ratio[2]))
    assert margins["dpo"][0] + 1 < margins["dpo"][1] < margins["dpo"][2] - 1
    assert margins["ipo"][-1] == pytest.approx(5.0, abs=1e-3)
