"""Policy gradients: losses of a token by hand, the aggregates, and what is left out of a step."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from support.errors import raises
from support.toy_training import ToyPolicy, ToyReference, rows
from tiltlm.core import (
    ConfigError,
    Credit,
    DataError,
    Example,
    Response,
    ResponseLogps,
    Rollouts,
    build_trees,
    token_ids,
)
from tiltlm.objectives import (
    Clipped,
    Critic,
    Divisor,
    PolicyGradient,
    ProbabilityMask,
    ReferenceKL,
    Reinforce,
    SequenceClipped,
    TruncatedWeight,
    build,
    compose,
    describe_spec,
    reduce_terms,
    spell_out,
)
from tiltlm.objectives.parts.critics import discounted_sums
from tiltlm.training.step import Stepper

SURROGATES = (Reinforce(), Clipped(), Clipped(dual=3.0), SequenceClipped(), TruncatedWeight(), ProbabilityMask())


def losses(surrogate, ratios, advantage, logp=-1.0):
    """Return loss and slope in log π of tokens with these ratios."""
    logps = torch.full((len(ratios),), logp, dtype=torch.float64, requires_grad=True)
    old = logps.detach() - torch.tensor(ratios, dtype=torch.float64).log()
    found = surrogate(logps, logps - old, torch.full_like(old, advantage))
    (slopes,) = torch.autograd.grad(found.sum(), logps)
    return found.detach(), slopes


def test_clipping_by_hand():
    """ε .2 and .28, ω = .5, 1, 2."""
    for advantage, values, expected in ((1.0, (-0.5, -1, -1.28), (-0.5, -1, 0)), (-1.0, (0.8, 1, 2), (0, 1, 2))):
        found, slopes = losses(Clipped(0.2, 0.28), (0.5, 1.0, 2.0), advantage)
        assert found.tolist() == pytest.approx(values)
        assert slopes.tolist() == pytest.approx(expected)


def test_the_dual_clip_bounds_the_loss_of_a_bad_token():
    found, slopes = losses(Clipped(0.2, 0.28, dual=3.0), (4.0,), -1.0)
    assert (found.item(), slopes.item()) == (pytest.approx(3.0), 0.0)


def test_truncated_weights_keep_every_slope():
    _, slopes = losses(TruncatedWeight(5.0), (2.0, 8.0), 1.0)
    assert slopes.tolist() == pytest.approx([-2, -5])


def test_a_mask_of_probabilities():
    """π = e^−1 = .368; π_old = π/ω: at ω = 4 it has risen by .276, at ω = .5 it has fallen by .368."""
    for advantage, slopes in ((1.0, (-0.5, -1, 0)), (-1.0, (0, 1, 4))):
        _, found = losses(ProbabilityMask(0.2), (0.5, 1.0, 4.0), advantage)
        assert found.tolist() == pytest.approx(slopes)


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("advantage", [2.0, -0.7])
def test_at_the_policy_that_sampled_every_surrogate_is_the_policy_gradient(surrogate, advantage):
    _, slopes = losses(surrogate, (1.0,), advantage)
    assert slopes.item() == pytest.approx(-advantage)


def sample(policy, old=None, advantage=1.0, reference=None):
    """Return one response's numbers and its view."""
    tokens = torch.tensor(policy, dtype=torch.float64, requires_grad=True)
    responses = ResponseLogps(
        tokens,
        torch.zeros(len(policy), dtype=torch.long),
        torch.tensor([len(policy)]),
        ref_token_logps=None if reference is None else torch.tensor(reference, dtype=torch.float64),
    )
    credit = Credit(advantage, None if old is None else np.array(old, dtype=np.float32))
    example = Example("e", token_ids([1]), (Response(token_ids(range(len(policy)))),), credits=(credit,))
    return responses, Rollouts.of([example], [[0]])


def test_one_ratio_for_a_response_is_the_geometric_mean():
    """GSPO: u = (.2, 0, .1), so ω = e^.1 for each token; unclipped at ε = .2."""
    responses, view = sample((-1.0, -2.0, -1.5), (-1.2, -2.0, -1.6))
    objective = PolicyGradient(SequenceClipped(0.2, 0.2), "response_mean")
    (term,) = objective(responses, view)
    assert term.values.item() == pytest.approx(-np.exp(0.1), rel=1e-6)
    (slopes,) = torch.autograd.grad(term.values.sum(), responses.token_logps)
    assert slopes.tolist() == pytest.approx([-np.exp(0.1) / 3] * 3, rel=1e-6)


def test_the_kl_in_the_reward_by_hand():
    """β = .1, u = (.2, −.1, .3), score 1 at the end: reward to go .96, .98, .97; the whole response .96."""
    responses, view = sample((-1.0, -1.0, -1.0), reference=(-1.2, -0.9, -1.3))
    numbers = PolicyGradient(Reinforce(), kl=ReferenceKL(0.1)).numbers(responses, view)
    assert numbers.advantages.tolist() == pytest.approx([0.96, 0.98, 0.97])
    whole = PolicyGradient(Reinforce(), kl=ReferenceKL(0.1, "response")).numbers(responses, view)
    assert whole.advantages.tolist() == pytest.approx([0.96] * 3)


def test_estimates_of_a_kl_by_hand():
    """π = (.5, .3, .2), π_ref = (.25, .25, .5): KL .218012, E k2 .209058, E k3 .218012, KL(π_ref‖π) .239278."""
    policy, reference = np.array([0.5, 0.3, 0.2]), np.array([0.25, 0.25, 0.5])
    d = torch.from_numpy(np.log(policy / reference))
    expected = {"k2": 0.209058, "k3": 0.218012, "k3_as_printed": 0.218012}
    for estimator, value in expected.items():
        found = ReferenceKL(1.0, "loss", estimator).losses(torch.zeros(3, dtype=torch.float64), d)
        assert float(torch.from_numpy(policy) @ found) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("discount", [0.0, 0.5, 1.0])
def test_discounted_sums(discount):
    examples = rows(3)
    trees, slots = build_trees(examples)
    del trees
    view = Rollouts.of(examples, slots)
    values = torch.arange(1.0, len(view.sample) + 1, dtype=torch.float64)
    found = discounted_sums(values, view, discount)
    for m, row in enumerate(view.sample.tolist()):
        later = [s for s in range(m, len(values)) if view.sample[s] == row]
        assert found[m].item() == pytest.approx(sum(discount ** (s - m) * values[s].item() for s in later))


def lengthened(aggregate):
    """Return the loss of two samples, and of the same after the tokens of one are repeated."""
    found = []
    for tokens in ((-1.0, -3.0), (-1.0, -3.0, -1.0, -3.0)):
        policy = torch.tensor([*tokens, -2.0], dtype=torch.float64)
        lengths = [len(tokens), 1]
        responses = ResponseLogps(policy, torch.tensor([0] * len(tokens) + [1]), torch.tensor(lengths))
        answers = tuple(Response(token_ids(range(n))) for n in lengths)
        example = Example("e", token_ids([1]), answers, credits=(Credit(1.0), Credit(-1.0)))
        view = Rollouts.of([example], [[0, 1]])
        terms = PolicyGradient(Reinforce(), aggregate)(responses, view)
        found.append(reduce_terms(terms, view.counts()).item())
    return found


def test_what_a_longer_response_changes():
    """The mean over its tokens stays; sums and the share of the tokens change."""
    assert lengthened("response_mean") == pytest.approx([(2 - 2) / 2] * 2)
    assert lengthened("response_sum") == pytest.approx([(4 - 2) / 2, (8 - 2) / 2])
    assert lengthened("token") == pytest.approx([(4 - 2) / 3, (8 - 2) / 5])


def test_the_entropy_as_a_reward():
    responses, view = sample((-1.0, -3.0), advantage=0.5)
    numbers = PolicyGradient(Reinforce(), entropy=0.1).numbers(responses, view)
    assert numbers.advantages.tolist() == pytest.approx([0.6, 0.8])


def with_credit(advantages_of: list[tuple[float, float]]) -> list[Example]:
    return [
        replace(example, credits=tuple(map(Credit, advantages)))
        for example, advantages in zip(rows(len(advantages_of)), advantages_of, strict=True)
    ]


def gradient_of(objective, examples, max_tokens=10**6):
    policy = ToyPolicy(seed=1, dtype=torch.float64)
    reference = ToyReference(policy, name="other") if objective.needs_reference else None
    result = Stepper(policy, objective, reference, max_tokens).train(examples)
    return result, torch.cat([p.grad.flatten() for p in policy.parameters()]), policy


@pytest.mark.parametrize("name", ["dapo", "grpo", "dr_grpo"])
def test_samples_without_an_advantage_stay_in_the_divisor_and_need_no_forward(name, monkeypatch):
    examples = with_credit([(1.0, 0.0), (0.0, 0.0), (-0.5, 2.0), (0.0, 0.0)])
    objective = build(name)
    result, found, policy = gradient_of(objective, examples, max_tokens=1)
    monkeypatch.setattr(PolicyGradient, "without_idle", lambda self, example: example)
    whole, expected, every = gradient_of(objective, examples, max_tokens=1)
    assert policy.num_forwards < every.num_forwards
    assert result.loss == pytest.approx(whole.loss, rel=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
    assert expected.abs().max() > 1e-4


def test_a_kl_reads_samples_without_an_advantage():
    examples = with_credit([(0.0, 0.0), (1.0, -1.0)])
    for objective in (build("grpo", beta=0.1), build("reinforce"), build("reinforce_pp", beta=0.0)):
        assert all(objective.without_idle(example) is example for example in examples)


def test_a_step_without_any_advantage_has_a_gradient_of_zero():
    result, found, _ = gradient_of(build("dapo"), with_credit([(0.0, 0.0), (0.0, 0.0)]))
    assert result.loss == 0
    assert found.abs().max() == 0


def test_data_without_advantages_is_refused():
    example = Example("row 3", token_ids([1]), (Response(token_ids([2])),))
    with raises(DataError, "needs_rollouts", row="row 3"):
        Rollouts.of([example], [[0]])


@pytest.mark.parametrize(
    ("make", "code", "key"),
    [
        (lambda: Clipped(low=1.5), "out_of_range", "low"),
        (lambda: Clipped(high=0.3, dual=1.2), "out_of_range", "dual"),
        (lambda: PolicyGradient(SequenceClipped()), "conflict", "aggregate"),
        (lambda: PolicyGradient(SequenceClipped(), "response_mean", kl=ReferenceKL(0.1)), "conflict", "kl.where"),
        (lambda: PolicyGradient(Clipped(), "token", horizon=64.0), "no_effect", "horizon"),
        (lambda: ReferenceKL(0.1, "response", discount=0.5), "no_effect", "discount"),
    ],
)
def test_what_cannot_work_is_refused(make, code, key):
    with raises(ConfigError, code, key=key):
        make()


def test_composed_of_parts_and_back():
    parts = {"data": "rollouts", "surrogate": {"name": "clipped", "high": 0.28}, "aggregate": "token"}
    assert compose(parts) == build("dapo")
    assert compose(spell_out(parts)) == compose(parts)
    with_kl = {**parts, "kl": {"name": "reference_kl", "coef": 0.1, "where": "loss", "estimator": "k2"}}
    assert compose(with_kl).needs_reference
    assert describe_spec(spell_out(with_kl)) == "clipped, token, reference_kl on rollouts"
    with raises(ConfigError, "conflict", key="objective"):
        compose({**parts, "reward": "seq_logp"})


def with_critic(values, advantage=1.0, old=None, **settings):
    """Return what the loss reads of one response whose log-probabilities are −1, with a critic."""
    responses, view = sample((-1.0,) * len(values), advantage=advantage)
    known = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    responses = replace(responses, extras={"values": known})
    if old is not None:
        view = replace(view, old_values=torch.tensor(old, dtype=torch.float64))
    return PolicyGradient(Reinforce(), "token", critic=Critic(**settings)), responses, view


def test_generalised_advantages_by_hand():
    """Rewards (0, 0, 1), V = (.5, .6, .7), γ 1, λ .95."""
    objective, responses, view = with_critic((0.5, 0.6, 0.7))
    numbers = objective.numbers(responses, view)
    assert numbers.advantages.tolist() == pytest.approx([0.46575, 0.385, 0.3])
    assert numbers.returns.tolist() == pytest.approx([0.96575, 0.985, 1.0])
    whole = with_critic((0.5, 0.6, 0.7), trace=1.0)
    assert whole[0].numbers(*whole[1:]).advantages.tolist() == pytest.approx([0.5, 0.4, 0.3])


def test_the_next_sample_does_not_leak_into_the_values():
    """V after the last token is 0, also where another sample follows in the same step."""
    answers = (Response(token_ids([1, 2])), Response(token_ids([3, 4])))
    example = Example("e", token_ids([1]), answers, credits=(Credit(1.0), Credit(-2.0)))
    view = Rollouts.of([example], [[0, 1]])
    values = torch.tensor([0.1, 0.2, 10.0, 20.0], dtype=torch.float64)
    found = Critic(trace=1.0).advantages(torch.tensor([0.0, 1.0, 0.0, -2.0], dtype=torch.float64), values, view)
    assert found.tolist() == pytest.approx([0.9, 0.8, -12.0, -22.0])


def test_the_loss_of_a_critic_by_hand():
    """V = (.5, .6, .7) moved from (.1, .6, 1.2); G from the old ones: λ = 1, so G = 1. ½ of the squared error."""
    plain, responses, view = with_critic((0.5, 0.6, 0.7), old=(0.1, 0.6, 1.2), trace=1.0, coef=1.0)
    _, of_values = plain(responses, view)
    assert of_values.divisor is Divisor.TOKENS
    assert of_values.values.item() == pytest.approx((0.25 + 0.16 + 0.09) / 2)
    objective, responses, view = with_critic((0.5, 0.6, 0.7), old=(0.1, 0.6, 1.2), trace=1.0, coef=1.0, clip=0.2)
    _, of_values = objective(responses, view)  # (.3 − 1)² > .25, 1 − .6 unmoved, and .7 − 1 against 1.0 − 1
    assert of_values.values.item() == pytest.approx((0.49 + 0.16 + 0.09) / 2)
    (slopes,) = torch.autograd.grad(of_values.values.sum(), responses.extra("values"))
    assert slopes.tolist() == pytest.approx([0.0, -0.4, -0.3])


def test_values_carry_no_gradient_into_the_advantages():
    objective, responses, view = with_critic((0.5, 0.6, 0.7), coef=0.0)
    policy, _ = objective(responses, view)
    (found,) = torch.autograd.grad(policy.values.sum(), responses.extra("values"), allow_unused=True)
    assert found is None


def test_corrections_multiply_the_surrogate_and_leave_masked_tokens_out():
    """A = 1, log π −1, −2, −4; factors 2, 0, 1; the mean over the two tokens that count is (2·1 + 4)/2."""
    responses, view = sample((-1.0, -2.0, -4.0))
    view = replace(view, correction=torch.tensor([2.0, 0.0, 1.0], dtype=torch.float64))
    (by_sample,) = PolicyGradient(Reinforce(), "response_mean")(responses, view)
    assert by_sample.values.item() == pytest.approx(3.0)
    terms = PolicyGradient(Reinforce(), "token")(responses, view)
    assert reduce_terms(terms, view.counts()).item() == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("settings", "code", "key"),
    [
        ({"surrogate": SequenceClipped(), "aggregate": "response_mean"}, "conflict", "critic"),
        ({"surrogate": Reinforce(), "kl": ReferenceKL(0.1, "response")}, "conflict", "kl.where"),
        ({"surrogate": Reinforce(), "kl": ReferenceKL(0.1, discount=0.5)}, "no_effect", "kl.discount"),
    ],
)
def test_what_a_critic_cannot_stand_beside_is_refused(settings, code, key):
    with raises(ConfigError, code, key=key):
        PolicyGradient(**settings, critic=Critic())


def test_limits_of_a_critic():
    for settings, code, key in (({"trace": 1.5}, "out_of_range", "trace"), ({"clip": 0.0}, "not_positive", "clip")):
        with raises(ConfigError, code, key=key):
            Critic(**settings)


def test_a_critic_composed_of_parts():
    parts = {
        "data": "rollouts",
        "surrogate": "clipped",
        "aggregate": "token",
        "critic": {"name": "critic", "trace": 0.9},
    }
    objective = compose(parts)
    assert objective.critic == Critic(trace=0.9)
    assert compose(spell_out(parts)) == objective
    assert describe_spec(spell_out(parts)) == "clipped, token, critic on rollouts"
