"""Facts about autoregressive models, token by token, checked on all their responses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

from tiltlm.core import Comparison, Example, Response, token_ids
from tiltlm.objectives import build, reduce_terms
from tiltlm.worlds.autoregressive import AutoregressiveWorld
from tiltlm.worlds.finite import FiniteWorld, kl, total_variation
from tiltlm.worlds.newton import minimise
from tiltlm.worlds.population import comparisons, view_of

TOY = AutoregressiveWorld(num_letters=2, limit=3)


def table(seed: int, world: AutoregressiveWorld = TOY) -> Tensor:
    shape = (len(world.prefixes), world.vocabulary)
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 1, shape))


LOGITS, REF_LOGITS = table(0), table(1)
REWARD = torch.from_numpy(np.random.default_rng(2).normal(0, 1, len(TOY.sequences)))


def as_set(toy: AutoregressiveWorld = TOY) -> FiniteWorld:
    """Return the toy's responses as a finite world with the reference's probabilities."""
    return FiniteWorld.of(REWARD, toy.num_tokens, toy.seq_logps(REF_LOGITS))


def trained(name: str, **knobs: float) -> Tensor:
    """Return log π of all responses at the population loss's minimum over tables; the end's logit is fixed."""
    objective, world = build(name, **knobs), as_set()
    view = view_of(objective, comparisons(world))
    ends = torch.zeros(len(TOY.prefixes), 1, dtype=torch.float64)

    def logits(free: Tensor) -> Tensor:
        return torch.cat([free.view(len(TOY.prefixes), -1), ends], 1)

    def loss(free: Tensor) -> Tensor:
        return reduce_terms(objective(TOY.responses(logits(free), REF_LOGITS), view), view.counts())

    found = minimise(loss, torch.zeros(len(TOY.prefixes) * TOY.num_letters, dtype=torch.float64))
    assert found.finite
    return TOY.seq_logps(logits(found.point))


def test_dpo_tilts_whole_responses_though_it_trains_tokens():
    assert total_variation(trained("dpo", beta=0.7), as_set().optimum(0.7)) < 1e-7


def test_the_optimum_is_a_model_of_tokens():
    """π*(v|prefix) is the share of π* that continues with v: every distribution over responses has a table."""
    optimum = as_set().optimum(0.7)
    assert total_variation(TOY.seq_logps(TOY.logits_of(optimum)), optimum) < 1e-12


def test_simpo_gives_long_responses_their_length_prior():
    """π = exp(T(r + c)/β) over all responses, T counting the end token."""
    reward, lengths = REWARD.numpy(), TOY.num_tokens.numpy()
    c = brentq(lambda c: np.exp(lengths * (reward + c) / 2.0).sum() - 1, -30, 30, xtol=1e-14)
    expected = torch.from_numpy(lengths * (reward + c) / 2.0)
    assert total_variation(trained("simpo", beta=2.0, gamma_beta_ratio=0.0), expected) < 1e-7


def test_kl_obeys_the_chain_rule():
    """KL of responses = Σ_prefix π(prefix)·KL(next token), equal to the sum over complete sequences."""
    whole = float(kl(TOY.seq_logps(LOGITS), TOY.seq_logps(REF_LOGITS)))
    rows = TOY.row_kl(LOGITS, REF_LOGITS)[:-1]
    assert float(TOY.reach(LOGITS) @ rows) == pytest.approx(whole, abs=1e-12)


def test_kl_position_by_position_is_unbiased_and_quieter():
    """Σ_t KL(π(·|y_<t)‖π_ref(·|y_<t)) has k1's mean over y ~ π, and a smaller variance."""
    responses = TOY.responses(LOGITS, REF_LOGITS)
    policy = responses.seq_logps.exp()
    swapped = TOY.responses(REF_LOGITS, LOGITS)  # its ref_kls are KL(π‖π_ref)
    steady = torch.zeros(len(policy)).double().index_add(0, swapped.response_index, swapped.extra("ref_kls"))
    k1 = responses.log_ratios
    mean = float(policy @ k1)
    assert mean == pytest.approx(float(kl(TOY.seq_logps(LOGITS), TOY.seq_logps(REF_LOGITS))), abs=1e-12)
    assert float(policy @ steady) == pytest.approx(mean, abs=1e-12)
    assert float(policy @ (steady - mean) ** 2) < 0.5 * float(policy @ (k1 - mean) ** 2)


def k_terms(log_ratio: Tensor) -> dict[str, Tensor]:
    """Estimators of KL(π‖π_ref) from d = log π − log π_ref."""
    return {"k1": log_ratio, "k2": log_ratio**2 / 2, "k3": torch.expm1(-log_ratio) + log_ratio}


def test_what_kl_estimators_estimate():
    """E k1 = E k3 = KL; E k2 is another number."""
    policy, ratio = TOY.seq_logps(LOGITS).exp(), TOY.seq_logps(LOGITS) - TOY.seq_logps(REF_LOGITS)
    truth = float(policy @ ratio)
    means = {name: float(policy @ term) for name, term in k_terms(ratio).items()}
    assert means["k1"] == pytest.approx(truth)
    assert means["k3"] == pytest.approx(truth)
    assert abs(means["k2"] - truth) > 0.01


def test_what_kl_estimators_push_on():
    """Differentiated with samples held: E∇k1 = 0, E∇k2 = ∇KL(π‖π_ref), E∇k3 = ∇KL(π_ref‖π), the other direction."""
    logits = LOGITS.clone().requires_grad_()
    logps, ref = TOY.seq_logps(logits), TOY.seq_logps(REF_LOGITS)
    held = logps.detach().exp()

    def slope(value: Tensor) -> Tensor:
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    found = {name: slope(held @ term) for name, term in k_terms(logps - ref).items()}
    torch.testing.assert_close(found["k1"], torch.zeros_like(LOGITS), atol=1e-12, rtol=0)
    torch.testing.assert_close(found["k2"], slope(kl(logps, ref)))
    torch.testing.assert_close(found["k3"], slope(kl(ref, logps)))


def test_token_gradients_with_the_rest_of_the_ratio_are_the_gradient_of_the_objective():
    """Σ_t ∇log π(y_t)·(r − β·Σ_{s≥t} d_s) averages to ∇(E r − β·KL); with each token's own d_t only it does not."""
    beta, logits = 0.3, LOGITS.clone().requires_grad_()
    responses = TOY.responses(logits, REF_LOGITS)
    mass = responses.seq_logps.detach().exp()[responses.response_index]
    ratio = (responses.token_logps - responses.ref_token_logps).detach()
    sums = torch.zeros(len(REWARD)).double().index_add(0, responses.response_index, ratio)[responses.response_index]
    before = torch.cat([torch.cumsum(part, 0) - part for part in ratio.split(TOY.num_tokens.tolist())])

    def estimate(credit: Tensor) -> Tensor:
        surrogate = (mass * responses.token_logps * credit).sum()
        return torch.autograd.grad(surrogate, logits, retain_graph=True)[0]

    logps = TOY.seq_logps(logits)
    value = (logps.exp() * REWARD).sum() - beta * kl(logps, TOY.seq_logps(REF_LOGITS))
    (exact,) = torch.autograd.grad(value, logits, retain_graph=True)
    score = REWARD[responses.response_index]
    torch.testing.assert_close(estimate(score - beta * (sums - before)), exact)
    assert (estimate(score - beta * ratio) - exact).abs().max() > 1e-3


def test_the_optimum_of_reward_minus_kl_is_the_tilt():
    """E r − β·KL over tables of logits: its slope is zero at the table of π*."""
    logits = TOY.logits_of(as_set().optimum(0.3)).requires_grad_()
    logps = TOY.seq_logps(logits)
    value = (logps.exp() * REWARD).sum() - 0.3 * kl(logps, TOY.seq_logps(REF_LOGITS))
    (slope,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)


CHOSEN, REJECTED = TOY.sequences.index((0, 1, 2)), TOY.sequences.index((1, 2))


def one_pair(name: str, **knobs: float):
    objective = build(name, **knobs)
    answers = tuple(Response(token_ids(s)) for s in TOY.sequences)
    example = Example("pair", token_ids([0]), answers, (Comparison(CHOSEN, REJECTED),))
    view = objective.view.of([example], [list(range(len(answers)))])

    def loss(logits: Tensor, **changed: Tensor) -> Tensor:
        responses = TOY.responses(logits, REF_LOGITS)
        responses = replace(responses, extras={**responses.extras, **changed})
        return reduce_terms(objective(responses, view), view.counts())

    return loss


def tokens_of(values: Tensor, response: int) -> np.ndarray:
    return values.detach()[TOY.responses(LOGITS).response_index == response].numpy()


def sequential_kl(response: int) -> float:
    """D(y) = Σ_t KL(π_ref(·|y_<t)‖π(·|y_<t)), row by row in numpy; a forced end adds 0."""
    total = 0.0
    rows = {p: i for i, p in enumerate(TOY.prefixes)}
    ref, policy = (torch.softmax(x, 1).numpy() for x in (REF_LOGITS, LOGITS))
    sequence = TOY.sequences[response]
    for t in range(len(sequence)):
        if sequence[:t] in rows:
            p, q = ref[rows[sequence[:t]]], policy[rows[sequence[:t]]]
            total += float((p * np.log(p / q)).sum())
    return total


def test_tdpo_counts_the_divergence_of_every_position():
    ratios = TOY.responses(LOGITS, REF_LOGITS).log_ratios
    h, gap = float(ratios[CHOSEN] - ratios[REJECTED]), sequential_kl(REJECTED) - sequential_kl(CHOSEN)
    for name, knobs, share in (("tdpo1", {}, 1.0), ("tdpo2", {"alpha": 0.5}, None)):
        if share is None:
            gap = 0.5 * gap
        expected = np.log1p(np.exp(-0.4 * (h - gap)))
        assert float(one_pair(name, beta=0.4, **knobs)(LOGITS)) == pytest.approx(expected, rel=1e-12)


def test_tdpo2_moves_only_the_rejected_divergence():
    """Central differences with D_w frozen give TDPO2's gradient; with D_w free they give TDPO1's."""
    kls = TOY.responses(LOGITS, REF_LOGITS).extra("ref_kls")
    chosen = TOY.responses(LOGITS).response_index == CHOSEN

    def slope(name: str, frozen: bool, **knobs: float) -> tuple[Tensor, Tensor]:
        loss, logits = one_pair(name, beta=0.4, **knobs), LOGITS.clone().requires_grad_()
        (exact,) = torch.autograd.grad(loss(logits), logits)
        estimate = torch.zeros_like(LOGITS)
        for index in np.ndindex(*LOGITS.shape):
            values = []
            for sign in (1, -1):
                moved = LOGITS.clone()
                moved[index] += sign * 1e-5
                free = TOY.responses(moved, REF_LOGITS).extra("ref_kls")
                held = torch.where(chosen, kls, free) if frozen else free
                values.append(float(loss(moved, ref_kls=held)))
            estimate[index] = (values[0] - values[1]) / 2e-5
        return exact, estimate

    torch.testing.assert_close(*slope("tdpo1", frozen=False), atol=1e-8, rtol=0)
    torch.testing.assert_close(*slope("tdpo2", frozen=True, alpha=1.0), atol=1e-8, rtol=0)
    exact, free = slope("tdpo2", frozen=False, alpha=1.0)
    assert (exact - free).abs().max() > 1e-3


def test_one_decision_leaves_tdpo_nothing_to_add():
    """If all responses share their only free prefix, D_w = D_l: TDPO1 is DPO, including its gradient."""
    toy = AutoregressiveWorld(num_letters=3, limit=2)
    logits, ref = table(3, toy).requires_grad_(), table(4, toy)
    found = []
    for name in ("tdpo1", "dpo"):
        objective = build(name, beta=0.4)
        world = FiniteWorld.of(torch.arange(4).double(), toy.num_tokens, toy.seq_logps(ref))
        view = view_of(objective, comparisons(world))
        loss = reduce_terms(objective(toy.responses(logits, ref), view), view.counts())
        found.append((loss.detach(), torch.autograd.grad(loss, logits)[0]))
    torch.testing.assert_close(found[0], found[1])


def test_wpo_weighs_by_the_policys_own_distributions():
    """ω = min(1, Π exp(mean_t[log π(y_t) − log Σ_v π(v)²])), from the next-token distributions in numpy."""
    policy, rows = torch.softmax(LOGITS, 1).numpy(), {p: i for i, p in enumerate(TOY.prefixes)}
    weight = 1.0
    for response in (CHOSEN, REJECTED):
        sequence = TOY.sequences[response]
        logs = [
            np.log(policy[rows[sequence[:t]], sequence[t]] / (policy[rows[sequence[:t]]] ** 2).sum())
            if sequence[:t] in rows
            else 0.0
            for t in range(len(sequence))
        ]
        weight *= np.exp(np.mean(logs))
    ratio = float(one_pair("wpo", beta=0.4)(LOGITS)) / float(one_pair("dpo", beta=0.4)(LOGITS))
    assert ratio == pytest.approx(min(1.0, weight), rel=1e-12)
    assert 0 < ratio < 1


def test_ld_dpo_splits_at_the_shorter_length():
    """Three tokens against two: the third token of the longer response counts by α."""
    responses = TOY.responses(LOGITS, REF_LOGITS)
    ratio = responses.token_logps - responses.ref_token_logps
    long, short = tokens_of(ratio, CHOSEN), tokens_of(ratio, REJECTED)
    assert (len(long), len(short)) == (3, 2)
    margin = 0.4 * (long[:2].sum() + 0.3 * long[2] - short.sum())
    assert float(one_pair("ld_dpo", beta=0.4, alpha=0.3)(LOGITS)) == pytest.approx(np.log1p(np.exp(-margin)), rel=1e-12)


@pytest.mark.parametrize(("name", "knobs"), [("dpo", {}), ("simpo", {}), ("orpo", {}), ("kto", {}), ("tdpo1", {})])
def test_rows_of_other_prefixes_get_no_gradient(name, knobs):
    """A pair of responses that begin with the first letter has no gradient after the second one, except for tdpo."""
    objective = build(name, **knobs)
    answers = tuple(Response(token_ids(s)) for s in TOY.sequences)
    pair = (TOY.sequences.index((0, 0, 2)), TOY.sequences.index((0, 2)))
    example = Example(
        "pair", token_ids([0]), tuple(answers[k] for k in pair), (Comparison(0, 1),), labels=(True, False)
    )
    view = objective.view.of([example], [list(pair)])
    logits = LOGITS.clone().requires_grad_()
    loss = reduce_terms(objective(TOY.responses(logits, REF_LOGITS), view), view.counts())
    (slope,) = torch.autograd.grad(loss, logits)
    touched = [bool(row.abs().max() > 0) for row in slope]
    # Both share the first token: its row cancels in a margin of sums, and not where lengths or single responses count.
    assert touched == [name not in ("dpo", "tdpo1"), True, False]


def test_a_token_with_probability_one_adds_nothing_but_its_count():
    """The forced end after two letters: log-probability 0, in the sum and in T."""
    responses = TOY.responses(LOGITS)
    k = TOY.sequences.index((0, 0, 2))
    assert tokens_of(responses.token_logps, k)[-1] == 0.0
    assert responses.num_tokens[k] == 3
    assert float(responses.mean_logps[k] * 3) == pytest.approx(float(responses.seq_logps[k]))


def test_equal_reward_unequal_length():
    """If all rewards are equal, DPO stays at the reference; SimPO moves because of length."""
    flat = FiniteWorld.of(torch.zeros(len(TOY.sequences)), TOY.num_tokens, TOY.seq_logps(REF_LOGITS))
    view = comparisons(flat)
    for name, moves in (("dpo", False), ("simpo", True)):
        objective = build(name, **({"gamma_beta_ratio": 0.0} if moves else {}))
        logits = REF_LOGITS.clone().requires_grad_()
        shown = view_of(objective, view)
        loss = reduce_terms(objective(TOY.responses(logits, REF_LOGITS), shown), shown.counts())
        slope = torch.autograd.grad(loss, logits)[0].abs().max()
        assert (float(slope) > 1e-3) == moves
