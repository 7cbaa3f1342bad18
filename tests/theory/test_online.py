"""Fixed points and gradients of online methods: every draw of a finite world, by the rules and losses themselves."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.optimize import root
from torch import Tensor

from support.errors import raises
from support.online import drawn_groups, group_of
from tiltlm.core import ConfigError, Credit, Example, Response, ResponseLogps, token_ids
from tiltlm.objectives import (
    Clipped,
    Critic,
    Objective,
    PolicyGradient,
    ReferenceKL,
    Reinforce,
    build,
    compose,
    reduce_terms,
)
from tiltlm.online.examples.corrections import CorrectionSettings, corrected
from tiltlm.online.examples.credit import soft_value
from tiltlm.online.examples.rules import ExampleSettings, form_examples
from tiltlm.online.groups import Who
from tiltlm.worlds.autoregressive import AutoregressiveWorld
from tiltlm.worlds.finite import FiniteWorld, kl, tilt, total_variation

REWARD = torch.tensor([0.0, 1.0, 0.3, 0.8], dtype=torch.float64)
REF = torch.log_softmax(torch.tensor([0.5, -0.2, 0.3, 0.0], dtype=torch.float64), 0)
WORLD = FiniteWorld.of(REWARD, [1, 1, 1, 1], REF)
TOKENS = AutoregressiveWorld(num_letters=2, limit=3)
TOKEN_REWARD = torch.from_numpy(np.random.default_rng(2).uniform(0, 1, len(TOKENS.sequences)))
REF_TABLE = torch.from_numpy(np.random.default_rng(1).normal(0, 0.7, (len(TOKENS.prefixes), TOKENS.vocabulary)))
TOKEN_WORLD = FiniteWorld.of(TOKEN_REWARD, TOKENS.num_tokens, TOKENS.seq_logps(REF_TABLE))
CYCLE = torch.tensor([[0.5, 0.9, 0.2], [0.1, 0.5, 0.8], [0.8, 0.2, 0.5]], dtype=torch.float64)
"""A preference without a reward: each of three responses beats one and loses to another."""


class Rivals(NamedTuple):
    """Samples that somebody else draws."""

    who: Who
    of: Callable[[Tensor], Tensor]
    """Log-probabilities of the policy → those of what draws the rivals."""
    n: int = 1


Model = Callable[[Tensor], ResponseLogps]
"""Free logits → log-probabilities of all responses and of the reference."""


def one_token(free: Tensor, world: FiniteWorld = WORLD) -> ResponseLogps:
    """Return a world of one-token responses: K free logits."""
    return world.responses(torch.log_softmax(free, 0))


def of_tokens(free: Tensor) -> ResponseLogps:
    """Return the autoregressive world: a free table of logits."""
    return TOKENS.responses(free.view(len(TOKENS.prefixes), TOKENS.vocabulary), REF_TABLE)


def policy_of(model: Model, free: Tensor) -> Tensor:
    return model(free).seq_logps.detach()


def gradient(
    objective: Objective,
    rule: ExampleSettings | str,
    n: int,
    model: Model,
    world: FiniteWorld,
    free: Tensor,
    sampler: Tensor | None = None,
    rivals: Rivals | None = None,
) -> Tensor:
    """Return the expected gradient of one step on samples of the policy, times the number of examples."""
    settings = ExampleSettings(rule) if isinstance(rule, str) else rule
    logits = free.detach().clone().requires_grad_()
    policy = policy_of(model, logits)
    others = None if rivals is None else (rivals.who, rivals.of(policy), rivals.n)
    examples, slots = drawn_groups(world, policy if sampler is None else sampler, settings, n, others)
    view = objective.view.of(examples, slots)
    loss = reduce_terms(objective(model(logits), view), view.counts())
    (found,) = torch.autograd.grad(loss, logits)
    return found * len(examples)


def fixed_point(
    objective: Objective,
    rule: ExampleSettings | str,
    n: int,
    model: Model,
    world: FiniteWorld,
    size: int,
    sampler: Tensor | None = None,
    warm_steps: int = 0,
    rivals: Rivals | None = None,
) -> Tensor:
    """Return log π where the expected gradient vanishes, after some steps of descent.

    A policy gradient also vanishes where a response has lost all probability, and descent does not go there.
    """

    def expected(values: np.ndarray) -> np.ndarray:
        free = torch.from_numpy(values)
        found = gradient(objective, rule, n, model, world, free, sampler, rivals)
        return found.numpy() + 1e-3 * _level(values, model)

    start = np.zeros(size)
    for _ in range(warm_steps):
        start = start - 2.0 * expected(start)
    solution = root(expected, start, method="hybr", tol=1e-13)
    assert np.abs(solution.fun).max() < 1e-9, solution.message
    return policy_of(model, torch.from_numpy(solution.x))


def _level(values: np.ndarray, model: Model) -> np.ndarray:
    """Return what fixes the level of each distribution's logits, which changes no policy: their mean is 0."""
    table = values.reshape(-1, TOKENS.vocabulary) if model is of_tokens else values[None]
    return np.repeat(table.mean(1), table.shape[1])


def objective_gradient(model: Model, world: FiniteWorld, beta: float, free: Tensor) -> Tensor:
    """Return −∇(E r − β KL(π‖π_ref)) by enumeration."""
    logits = free.detach().clone().requires_grad_()
    logps = model(logits).seq_logps
    loss = -(logps.exp() * world.reward).sum() + beta * kl(logps, world.ref_logps)
    (found,) = torch.autograd.grad(loss, logits)
    return found


def somewhere(size: int, seed: int = 3) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 0.6, size))


SIZES = {one_token: 4, of_tokens: len(TOKENS.prefixes) * TOKENS.vocabulary}
WORLDS = {one_token: WORLD, of_tokens: TOKEN_WORLD}


@pytest.mark.parametrize("model", SIZES)
@pytest.mark.parametrize("name", ["reinforce", "rloo"])
def test_the_expected_step_is_the_gradient_of_reward_minus_kl(model, name):
    """The KL as a reward to go of tokens and as a reward of the whole response have the same expectation."""
    free = somewhere(SIZES[model])
    found = gradient(build(name, beta=0.3), "loo", 2, model, WORLDS[model], free)
    expected = objective_gradient(model, WORLDS[model], 0.3, free)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


VALUES = np.random.default_rng(8).normal(0, 0.5, len(TOKENS.prefixes) + 1)
"""What a critic says of each prefix of the autoregressive world."""


def with_values(free: Tensor) -> ResponseLogps:
    """Return the autoregressive world with values of its prefixes."""
    responses = of_tokens(free)
    values = torch.from_numpy(VALUES)[TOKENS._rows]
    return replace(responses, extras={**responses.extras, "values": values})


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_values_of_any_critic_change_no_expected_step_if_trace_is_one(discount):
    """A value that reads only what precedes a token is a baseline; with discount 1 the step is the exact gradient."""
    free = somewhere(SIZES[of_tokens])
    critic = Critic(discount=discount, trace=1.0, coef=0.0)
    objective = PolicyGradient(Reinforce(), kl=ReferenceKL(0.3), critic=critic)
    found = gradient(objective, "score", 1, with_values, TOKEN_WORLD, free)
    if discount == 1:
        expected = objective_gradient(of_tokens, TOKEN_WORLD, 0.3, free)
    else:
        expected = discounted_gradient(free, discount)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def discounted_gradient(free: Tensor, discount: float) -> Tensor:
    """Return −E Σ_t ∇log π(y_t) Σ_{s ≥ t} discount^(s − t) r_s by enumeration, r_s with KL coefficient .3."""
    logits = free.detach().clone().requires_grad_()
    responses = of_tokens(logits)
    mass, total = responses.seq_logps.detach().exp(), torch.zeros((), dtype=torch.float64)
    for n in range(len(mass)):
        own = responses.response_index == n
        rewards = -0.3 * responses.token_log_ratios[own].detach()
        rewards[-1] += TOKEN_REWARD[n]
        for t, logp in enumerate(responses.token_logps[own]):
            to_go = sum(discount**k * float(r) for k, r in enumerate(rewards[t:]))
            total = total - mass[n] * logp * to_go
    (found,) = torch.autograd.grad(total, logits)
    return found


def test_a_short_trace_trusts_the_critic():
    """With the true values any trace is right; with wrong ones only trace 1."""
    free = somewhere(SIZES[of_tokens])
    exact = objective_gradient(of_tokens, TOKEN_WORLD, 0.0, free)
    policy = of_tokens(free).seq_logps.exp()

    def expected(prefix: tuple[int, ...]) -> Tensor:
        inside = torch.tensor([s[: len(prefix)] == prefix for s in TOKENS.sequences])
        return (policy * TOKEN_REWARD)[inside].sum() / policy[inside].sum()

    truth = torch.stack([expected(s[:t]) for s in TOKENS.sequences for t in range(len(s))])
    wrong = torch.from_numpy(VALUES)[TOKENS._rows]

    def deviation(values: Tensor, trace: float) -> float:
        def model(logits: Tensor) -> ResponseLogps:
            responses = of_tokens(logits)
            return replace(responses, extras={**responses.extras, "values": values})

        objective = PolicyGradient(Reinforce(), critic=Critic(trace=trace, coef=0.0))
        return float((gradient(objective, "score", 1, model, TOKEN_WORLD, free) - exact).abs().max())

    assert deviation(truth, 0.0) < 1e-12
    assert deviation(wrong, 1.0) < 1e-12
    assert deviation(wrong, 0.5) > 1e-2


def corrected_gradient(settings: CorrectionSettings, sampler: Tensor, free: Tensor) -> Tensor:
    """Return the expected gradient of REINFORCE on samples of another policy of the autoregressive world."""
    drawn = of_tokens(sampler)
    mass, logits = drawn.seq_logps.exp(), free.detach().clone().requires_grad_()
    responses = of_tokens(logits)
    examples, slots, behaviours = [], [], []
    for n, tokens in enumerate(TOKENS.sequences):
        own = responses.response_index == n
        credit = Credit(float(TOKEN_REWARD[n]), responses.token_logps[own].detach().float().numpy())
        answer = Response(token_ids(list(tokens)))
        examples.append(Example(str(n), token_ids([1]), (answer,), credits=(credit,), weight=float(mass[n])))
        slots.append([n])
        behaviours.append([drawn.token_logps[own].detach().float().numpy()])
    kept = corrected(examples, behaviours, settings)
    places = {example.id: slot for example, slot in zip(examples, slots, strict=True)}
    objective = PolicyGradient(Reinforce())
    view = objective.view.of(kept, [places[example.id] for example in kept])
    loss = reduce_terms(objective(responses, view), view.counts()) * len(kept)
    (found,) = torch.autograd.grad(loss, logits)
    return found


def test_only_weights_of_whole_responses_are_unbiased():
    """Samples of μ ≠ π: Π c is exact, weights of single tokens are not, and no weights are worst."""
    free = somewhere(SIZES[of_tokens])
    sampler = free + 0.5 * somewhere(SIZES[of_tokens], seed=9)
    exact = objective_gradient(of_tokens, TOKEN_WORLD, 0.0, free)

    def deviation(kind: str, **limits: float) -> float:
        return float((corrected_gradient(CorrectionSettings(kind, **limits), sampler, free) - exact).abs().max())

    assert deviation("sequence_truncate", high=1e6) < 1e-6  # log-probabilities are stored as float32
    assert deviation("sequence_mask", high=1e6) < 1e-6
    of_tokens_alone = deviation("token_truncate", high=1e6)
    assert 1e-3 < of_tokens_alone < deviation("none")


@pytest.mark.slow
@pytest.mark.parametrize("model", SIZES)
@pytest.mark.parametrize("name", ["reinforce", "rloo"])
def test_policy_gradients_end_at_the_optimum_of_dpo(model, name):
    found = fixed_point(build(name, beta=0.4), "loo", 2, model, WORLDS[model], SIZES[model], warm_steps=60)
    assert total_variation(found, tilt(WORLDS[model].ref_logps, WORLDS[model].reward, 0.4)) < 1e-6


def kl_gradient(model: Model, free: Tensor, kind: str) -> Tensor:
    """Return the gradient of KL(π‖π_ref), of KL(π_ref‖π), or of each token's KL with the tokens before it held."""
    logits = free.detach().clone().requires_grad_()
    responses = model(logits)
    if kind == "reverse":
        loss = kl(responses.seq_logps, responses.ref_sums)
    elif kind == "forward":
        loss = kl(responses.ref_sums, responses.seq_logps)
    else:
        table = logits.view(len(TOKENS.prefixes), TOKENS.vocabulary)
        rows = TOKENS.row_kl(table, REF_TABLE)[:-1]
        loss = (TOKENS.reach(table).detach() * rows).sum()
    (found,) = torch.autograd.grad(loss, logits)
    return found


IN_LOSS = [("k2", "reverse"), ("k3", "reverse"), ("k3_as_printed", "forward")]


@pytest.mark.parametrize(("estimator", "kind"), IN_LOSS)
def test_the_gradient_of_a_kl_in_the_loss_of_one_token(estimator, kind):
    objective, free = PolicyGradient(Reinforce(), kl=ReferenceKL(1.0, "loss", estimator)), somewhere(4)
    found = gradient(objective, "unscored", 1, one_token, WORLD, free)
    torch.testing.assert_close(found, kl_gradient(one_token, free, kind), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "term", [ReferenceKL(1.0, "loss", "k2"), ReferenceKL(1.0, "loss", "k3"), ReferenceKL(1.0, discount=0.0)]
)
def test_a_kl_in_the_loss_of_several_tokens_holds_the_tokens_before(term):
    """k2, k3 and k1 in the reward with discount 0 are one term: on-policy distillation."""
    free = somewhere(SIZES[of_tokens])
    found = gradient(PolicyGradient(Reinforce(), kl=term), "unscored", 1, of_tokens, TOKEN_WORLD, free)
    torch.testing.assert_close(found, kl_gradient(of_tokens, free, "held"), rtol=1e-10, atol=1e-12)
    whole = gradient(PolicyGradient(Reinforce(), kl=ReferenceKL(1.0)), "unscored", 1, of_tokens, TOKEN_WORLD, free)
    torch.testing.assert_close(whole, kl_gradient(of_tokens, free, "reverse"), rtol=1e-10, atol=1e-12)
    assert (found - whole).abs().max() > 1e-2


def test_k1_in_the_loss_has_no_gradient_and_k3_in_the_reward_a_wrong_one():
    """What the refusals say, by enumeration: E[∇ log π] = 0, and k3 in the reward subtracts the other direction."""
    logits = somewhere(4).requires_grad_()
    logps = torch.log_softmax(logits, 0)
    d = logps - REF
    (of_k1,) = torch.autograd.grad((logps.exp().detach() * d).sum(), logits, retain_graph=True)
    assert of_k1.abs().max() < 1e-15
    k3 = (torch.expm1(-d) + d).detach()
    (of_k3,) = torch.autograd.grad((logps.exp().detach() * k3 * logps).sum(), logits)
    both = kl_gradient(one_token, logits, "reverse") - kl_gradient(one_token, logits, "forward")
    torch.testing.assert_close(of_k3, both, rtol=1e-10, atol=1e-12)
    with raises(ConfigError, "no_gradient", key="estimator"):
        ReferenceKL(0.1, "loss", "k1")
    for where in ("reward", "response"):
        with raises(ConfigError, "wrong_gradient", key="estimator"):
            ReferenceKL(0.1, where, "k3")


def test_distillation_ends_at_the_teacher():
    for model, discount in ((one_token, 0.0), (of_tokens, 1.0)):
        found = fixed_point(build("opd", discount=discount), "unscored", 1, model, WORLDS[model], SIZES[model])
        assert total_variation(found, WORLDS[model].ref_logps) < 1e-6


def test_grpo_as_printed_does_not_end_at_the_optimum():
    """βπ_ref/(λ − r) with λ = β + E_π r, because its KL is the other direction's."""
    beta = 0.5
    objective = PolicyGradient(Clipped(), kl=ReferenceKL(beta, "loss", "k3_as_printed"))
    found = fixed_point(objective, "loo", 2, one_token, WORLD, 4)
    level = beta + float((found.exp() * REWARD).sum())
    torch.testing.assert_close(found.exp(), beta * REF.exp() / (level - REWARD), rtol=1e-6, atol=1e-9)
    assert total_variation(found, tilt(REF, REWARD, beta)) > 0.01
    corrected = fixed_point(
        PolicyGradient(Clipped(), kl=ReferenceKL(beta, "loss", "k3")), "loo", 2, one_token, WORLD, 4
    )
    assert total_variation(corrected, tilt(REF, REWARD, beta)) < 1e-6


def right_or_wrong(p: float) -> tuple[Model, FiniteWorld, Tensor]:
    """Return a world of a right and a wrong response, and the logits at which the right one has probability p."""
    free = torch.tensor([math.log(p / (1 - p)), 0.0], dtype=torch.float64)
    world = FiniteWorld.of([1.0, 0.0], [1, 1], torch.log_softmax(free, 0))
    return lambda logits: world.responses(torch.log_softmax(logits, 0)), world, free


def slope_of(rule: str, p: float, n: int) -> float:
    """Return c where the expected step raises the probability p of a right answer by c·∇p."""
    model, world, free = right_or_wrong(p)
    found = gradient(PolicyGradient(Reinforce()), rule, n, model, world, free)
    return float(-found[0]) / (p * (1 - p))


@pytest.mark.parametrize(
    ("p", "slopes"),
    [(0.1, (1, 1.414214, 1.690282, 2.327689)), (0.3, (1, 1.414214, 1.634589, 1.962722))],
)
def test_dividing_by_the_deviation_weighs_prompts_by_difficulty(p, slopes):
    """c_G(p) = Σ_k C(G, k) p^k (1 − p)^(G − k) √(k(G − k)) / (G p(1 − p)); two and three samples have no such bias."""
    for n, expected in zip((2, 3, 4, 8), slopes, strict=True):
        q = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
        exact = sum(q[k] * math.sqrt(k * (n - k)) for k in range(n + 1)) / (n * p * (1 - p))
        assert exact == pytest.approx(expected, abs=1e-6)
        added = sum(q[k] * k * (n - k) / n**2 / (math.sqrt(k * (n - k)) / n + 1e-4) for k in range(n + 1))
        assert slope_of("group_std", p, n) == pytest.approx(added / (p * (1 - p)), rel=1e-10)


def test_max_rl_follows_the_log_of_the_success_rate():
    """The gradient of −Σ_{j<G} (1 − p)^j / j, of order G − 1."""
    for p, n in ((0.1, 3), (0.3, 6)):
        assert slope_of("max_rl", p, n) == pytest.approx(sum((1 - p) ** (j - 1) for j in range(1, n)), rel=1e-10)
        assert slope_of("loo", p, n) == pytest.approx(1, rel=1e-10)
        assert slope_of("mean", p, n) == pytest.approx((n - 1) / n, rel=1e-10)


def test_grpo_of_two_is_self_play():
    """With two samples the standardised advantage is ±1: twice the gradient of P(y beats y′) for a sure judge."""
    free = somewhere(4)
    logits = free.clone().requires_grad_()
    mass = torch.softmax(logits, 0)
    better = (REWARD[:, None] > REWARD[None, :]).double() + 0.5 * (REWARD[:, None] == REWARD[None, :])
    win = mass @ better @ mass.detach()
    (expected,) = torch.autograd.grad(-2 * win, logits)
    found = gradient(PolicyGradient(Reinforce()), "group_std", 2, one_token, WORLD, free)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)  # 1e-4 stands beside each deviation


@pytest.mark.parametrize("objective", [build("ipo", tau=0.5), build("reinforce", beta=0.5)])
def test_compared_samples_end_at_the_regularised_nash_equilibrium(objective):
    """Online IPO, and a policy gradient on win rates of two samples: π = π_ref e^{P(·≻π)/τ}/Z, also for a cycle."""
    rule = ExampleSettings("pair") if objective.shape == "pairs" else ExampleSettings("loo", win_rates=True)
    found = fixed_point(objective, rule, 2, cyclic, CYCLIC, 3)
    expected = torch.log_softmax(CYCLIC_REF + (CYCLE @ found.exp()) / 0.5, 0)
    assert total_variation(found, expected) < 1e-6
    assert total_variation(found, CYCLIC_REF) > 0.01


SAMPLERS = {
    "the reference": REF,
    "uniform": torch.full((4,), 0.25, dtype=torch.float64).log(),
    "sharp": torch.log_softmax(3 * REF, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize(
    ("objective", "rule", "n"),
    [
        (build("dpo", beta=0.5), "pair", 2),
        (build("rebel", eta=2.0), "pair", 2),
        (build("rebel", eta=2.0), "all_pairs", 3),
    ],
    ids=["online_dpo", "rebel", "gvpo"],
)
def test_losses_of_pairs_end_at_the_optimum_whoever_samples(objective, rule, n, sampler):
    found = fixed_point(objective, rule, n, one_token, WORLD, 4, sampler)
    assert total_variation(found, tilt(REF, REWARD, 0.5)) < 1e-6


def test_the_optimum_of_ipo_depends_on_who_samples():
    wide = FiniteWorld.of(4 * REWARD, [1, 1, 1, 1], REF)
    found = [fixed_point(build("ipo", tau=0.5), "pair", 2, one_token, wide, 4, mu) for mu in SAMPLERS.values()]
    assert total_variation(found[0], found[2]) > 1e-3


def test_training_on_the_best_of_three_is_best_of_three():
    found = fixed_point(build("sft"), "best", 3, one_token, WORLD, 4, REF)
    order = REWARD.argsort()
    cumulated = torch.zeros(4, dtype=torch.float64)
    cumulated[order] = REF.exp()[order].cumsum(0)
    expected = cumulated**3 - (cumulated - REF.exp()) ** 3
    torch.testing.assert_close(found.exp(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_training_on_the_correct_is_the_policy_given_correct():
    rule = ExampleSettings("correct", threshold=0.5)
    found = fixed_point_on_support(build("sft"), rule, 1, REWARD >= 0.5)
    expected = torch.where(REWARD >= 0.5, REF.exp(), 0.0)
    torch.testing.assert_close(found, expected / expected.sum(), rtol=1e-6, atol=1e-6)


def fixed_point_on_support(objective: Objective, rule: ExampleSettings, n: int, kept: Tensor) -> Tensor:
    """Return π at the fixed point, whose other responses have no probability: a descent of many steps."""
    logits = torch.where(kept, 0.0, -30.0).double()
    for _ in range(400):
        step = gradient(objective, rule, n, one_token, WORLD, logits, REF)
        logits = logits - 1.0 * torch.where(kept, step, 0.0)
    return torch.softmax(logits, 0)


def test_constant_scores_teach_nothing():
    flat = FiniteWorld.of([0.7] * 4, [1, 1, 1, 1], REF)
    for rule in ("mean", "loo", "group_std", "max_rl", "opo"):
        found = gradient(PolicyGradient(Reinforce()), rule, 2, one_token, flat, somewhere(4))
        assert found.abs().max() < 1e-12, rule


@pytest.mark.parametrize("rule", ["mean", "loo", "group_std", "opo"])
def test_who_is_drawn_first_does_not_matter(rule):
    """Every draw and its reverse give each response the same advantage."""
    examples, slots = drawn_groups(WORLD, REF, ExampleSettings(rule), 3)
    by_draw = {tuple(slot): [credit.advantage for credit in e.credits] for e, slot in zip(examples, slots, strict=True)}
    for draw in product(range(4), repeat=3):
        assert by_draw[draw[::-1]] == pytest.approx(by_draw[draw][::-1], abs=1e-12)


CYCLIC_REF = torch.log_softmax(torch.tensor([0.4, 0.0, -0.5], dtype=torch.float64), 0)
CYCLIC = FiniteWorld.of([0.0, 0.0, 0.0], [1, 1, 1], CYCLIC_REF, preference=CYCLE)


def cyclic(free: Tensor) -> ResponseLogps:
    return CYCLIC.responses(torch.log_softmax(free, 0))


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_nash_md_ends_where_it_is_best_against_the_mixture(share):
    """π = π_ref e^{P(·≻π_κ)/τ}/Z with π_κ ∝ π^{1−κ} π_ref^κ, which is not the Nash equilibrium."""

    def mixture(policy: Tensor) -> Tensor:
        return torch.log_softmax((1 - share) * policy + share * CYCLIC_REF, 0)

    rivals = Rivals("mixture" if share < 1 else "reference", mixture)
    found = fixed_point(build("reinforce", beta=0.3), "against", 1, cyclic, CYCLIC, 3, rivals=rivals)
    expected = torch.log_softmax(CYCLIC_REF + (CYCLE @ mixture(found).exp()) / 0.3, 0)
    assert total_variation(found, expected) < 1e-6
    equilibrium = fixed_point(build("reinforce", beta=0.3), "loo", 2, cyclic, CYCLIC, 3)
    assert total_variation(found, equilibrium) > 1e-3


def test_the_values_of_a_star_po_give_the_optimum():
    """With the exact value, which ever more samples of the reference approach, β log π*/π_ref = r − V for every y."""
    beta = 0.5
    value = beta * torch.logsumexp(REF + REWARD / beta, 0)
    rows = [
        Example(f"{k}", token_ids([0]), (Response(token_ids([k + 1])),), scores=(float(REWARD[k] - value),))
        for k in range(4)
    ]
    objective = build("a_star_po", beta=beta)
    view = objective.view.of(rows, [[k] for k in range(4)])
    loss = reduce_terms(objective(WORLD.responses(tilt(REF, REWARD, beta)), view), view.counts())
    assert loss.item() < 1e-20
    drawn, _ = drawn_groups(WORLD, REF, ExampleSettings("value_gap", value_beta=beta), 1, ("reference", REF, 3))
    gaps = {}
    for example in drawn:
        place = int(example.responses[0].token_ids[0]) - 1
        mean, mass = gaps.get(place, (0.0, 0.0))
        gaps[place] = mean + example.weight * (float(REWARD[place]) - example.scores[0]), mass + example.weight
    estimates = {place: mean / mass for place, (mean, mass) in gaps.items()}
    assert max(estimates.values()) - min(estimates.values()) < 1e-12, "the value is of the prompt, not of the response"
    assert 0 < float(value) - estimates[0] < 0.1, "log of a mean of few: below the value"


def test_soft_value_by_hand():
    assert soft_value(np.array([1.0, 0.0, 0.0, 0.0]), 0.5) == pytest.approx(0.477229, abs=1e-6)


def test_sppo_brings_each_log_ratio_to_its_own_win_rate():
    """Score .703952 at β .1: a target of 2.03952 nats."""
    example = Example(
        "e", token_ids([0]), (Response(token_ids([1])), Response(token_ids([2]))), scores=(0.703952, 0.296048)
    )
    objective = build("sppo", beta=0.1, baseline=0.5)
    view = objective.view.of([example], [[0, 1]])

    def loss(*rhos: float) -> float:
        values = torch.tensor(rhos, dtype=torch.float64)
        responses = ResponseLogps(
            values - 5, torch.tensor([0, 1]), torch.tensor([1, 1]), torch.full((2,), -5.0).double()
        )
        return reduce_terms(objective(responses, view), view.counts()).item()

    assert loss(2.03952, -2.03952) == pytest.approx(0, abs=1e-12)
    assert loss(0.0, 0.0) == pytest.approx(2.03952**2)


def test_exploration_lowers_the_sample_of_the_reference():
    """The term's gradient is α for each token of ỹ, whoever wins; without it the loss is DPO's."""
    parts = [{"name": "dpo", "beta": 0.1, "weight": 1.0}, {"name": "reinforce", "beta": 0.0, "weight": 0.02}]
    examples, slots = drawn_groups(WORLD, REF, ExampleSettings("explore"), 1, ("reference", REF, 1))
    chosen = [k for k, slot in enumerate(slots) if slot[0] != slot[1]]
    assert len(chosen) == len(examples)
    for example, slot in zip(examples, slots, strict=True):
        found = []
        for spec in ({"sum": parts}, {"name": "dpo", "beta": 0.1}):
            objective = compose(spec)
            logps = tilt(REF, REWARD, 1.0).requires_grad_()
            view = objective.view.of([example], [slot])
            reduce_terms(objective(WORLD.responses(logps), view), view.counts()).backward()
            found.append(logps.grad)
        difference = (found[0] - found[1]) / example.weight
        expected = torch.zeros(4, dtype=torch.float64)
        expected[slot[1]] = 0.01  # the weight over the two samples of the pair: alpha
        torch.testing.assert_close(difference, expected, rtol=1e-10, atol=1e-14)


def test_j_bond_by_hand():
    """y 1 with anchors (2, 3): −log 16; with (1, 3): 0, for "below" is strict. The other prompt is the baseline."""
    groups = [
        group_of([1.0, 2.0, 3.0], who=["policy", "reference", "reference"], prompt="a"),
        group_of([1.0, 1.0, 3.0], who=["policy", "reference", "reference"], prompt="b"),
    ]
    first, second = form_examples(groups, ExampleSettings("bond", imitation=0.7)).examples
    assert first.credits[0].advantage == pytest.approx(-2.772589, abs=1e-6)
    assert second.credits[0].advantage == pytest.approx(2.772589, abs=1e-6)
    for example in (first, second):
        assert [credit.is_drawn for credit in example.credits] == [True, False]
        assert example.credits[1].advantage == 0.7
        assert len(example.responses[1].token_ids) == 3, "the anchor's sample with score 3"


def test_j_bond_ends_at_its_own_mixture_of_rewards():
    """Without imitation, and against a fixed anchor, π = π_anchor e^{−log 16 (1 − F)²}/Z, F(y) = π_anchor(r ≤ r(y))."""
    found = fixed_point_of_bond(0.0)
    at_most = torch.tensor([float(REF.exp()[r >= REWARD].sum()) for r in REWARD], dtype=torch.float64)
    expected = torch.log_softmax(REF - math.log(16) * (1 - at_most) ** 2, 0)
    assert total_variation(found, expected) < 1e-6


def fixed_point_of_bond(imitation: float) -> Tensor:
    """Return log π at the fixed point, with each group as a round of its own: then no other prompt is a baseline."""

    def expected(values: np.ndarray) -> np.ndarray:
        logits = torch.from_numpy(values).requires_grad_()
        policy = policy_of(one_token, logits)
        settings = ExampleSettings("bond", imitation=imitation or 1.0)
        examples, slots = drawn_groups(WORLD, policy, settings, 1, ("reference", REF, 2))
        rows = [replace(e, credits=(e.credits[0], replace(e.credits[1], advantage=imitation))) for e in examples]
        objective = build("reinforce", beta=1.0)
        view = objective.view.of(rows, slots)
        loss = reduce_terms(objective(one_token(logits), view), view.counts())
        (found,) = torch.autograd.grad(loss, logits)
        return found.numpy() * len(rows) + 1e-3 * values.mean()

    solution = root(expected, np.zeros(4), tol=1e-13)
    return policy_of(one_token, torch.from_numpy(solution.x))
