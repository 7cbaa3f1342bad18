"""`Battery`: what every method must do. A test class inherits it and provides the fixture `case`."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from support import objective_cases as cases
from support.errors import raises
from tiltlm.core import (
    Comparison,
    ConfigError,
    Counts,
    Credit,
    Example,
    Response,
    ResponseLogps,
    ResponseScores,
    build_trees,
    token_ids,
)
from tiltlm.objectives import Objective, Term, build, example_losses, reduce_terms
from tiltlm.objectives.terms import reads_scores

STATISTIC = 0.3
"""Value of the step's statistic."""


def make_examples(objective: Objective, seed: int = 0, num: int = 5) -> list[Example]:
    """Return examples with everything an objective could read.

    They have scores, ranks with ties, several comparisons, weights and labels; soft labels and offsets if the objective
    uses them; responses of one token and more.
    """
    rng, of_critic = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    examples = []
    for e in range(num):
        k = int(rng.integers(2, 6))
        responses = tuple(Response(token_ids(rng.integers(0, 50, int(rng.integers(1, 9))))) for _ in range(k))
        scores = rng.normal(size=k)
        pairs = [(a, b) for a in range(k) for b in range(k) if scores[a] > scores[b]][: int(rng.integers(1, 4))]
        soft, offset = (float(name in objective.uses) for name in ("preference", "offset"))
        comparisons = tuple(
            Comparison(
                a,
                b,
                weight=float(rng.uniform(0.2, 2)),
                preference=1 - soft * float(rng.choice([0.0, 0.5, 0.2])),
                offset=offset * float(rng.normal()),
            )
            for a, b in pairs
        )
        examples.append(
            Example(
                id=f"row {e}",
                prompt_ids=token_ids([e, 1]),
                responses=responses,
                comparisons=comparisons,
                labels=tuple(bool(b) for b in rng.integers(0, 2, k)),
                ranks=tuple(1 + int((np.floor(scores) > level).sum()) for level in np.floor(scores)),
                scores=tuple(float(s) for s in scores),
                credits=tuple(
                    Credit(
                        float(a),
                        -rng.exponential(1.5, response.num_tokens).astype(np.float32),
                        old_values=of_critic.normal(size=response.num_tokens).astype(np.float32),
                    )
                    for a, response in zip(rng.normal(size=k), responses, strict=True)
                ),
                weight=float(rng.uniform(0.5, 2)),
            )
        )
    return examples


def make_logps(examples: list[Example], seed: int = 1, scale: float = 1.0) -> tuple[ResponseLogps, list[list[int]]]:
    """Return random float64 numbers for every token of these examples' responses, and the slots of the responses."""
    trees, slots = build_trees(examples)
    lengths = [r.num_tokens for t in trees for r in t.responses]
    rng = np.random.default_rng(seed)
    policy, reference, collisions, kls = (
        torch.from_numpy(rng.exponential(size, sum(lengths)) * sign * scale - 1e-3)
        for size, sign in ((1.5, -1), (1.5, -1), (1.0, -1), (0.5, 1))
    )
    index = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    responses = ResponseLogps(
        policy.requires_grad_(),
        index,
        torch.tensor(lengths),
        ref_token_logps=reference,
        extras={
            "log_collisions": collisions,
            "ref_kls": kls,
            "ref_entropy_shares": torch.from_numpy(rng.uniform(0.1, 0.9, sum(lengths))),
            "values": torch.from_numpy(rng.normal(size=sum(lengths))),
        },
    )
    return responses, slots


def with_tokens(responses: ResponseLogps, token_logps: Tensor) -> ResponseLogps:
    return replace(responses, token_logps=token_logps)


def view_of(objective: Objective, examples: list[Example], slots: list[list[int]]):
    return objective.view.of(examples, slots).with_baseline(STATISTIC if objective.statistic else 0.0)


def terms_of(objective: Objective, responses: ResponseLogps, view) -> tuple[Term, ...]:
    """Return the objective's terms. A reward model's scores may be any numbers: here they are S(y) of the policy."""
    if reads_scores(objective):
        responses = ResponseScores(responses.seq_logps, responses.num_tokens)
    return objective(responses, view)


def loss_of(objective: Objective, responses: ResponseLogps, examples, slots) -> Tensor:
    view = view_of(objective, examples, slots)
    return reduce_terms(terms_of(objective, responses, view), view.counts())


def oracle(case, examples: list[Example], responses: ResponseLogps, slots: list[list[int]]) -> float:
    """Return the step's loss by the paper's formula, in numpy, example by example."""
    index = responses.response_index.numpy()
    extras = [responses.extra(name) for name in ("ref_kls", "log_collisions", "ref_entropy_shares", "values")]
    columns = [values.detach().numpy() for values in (responses.token_logps, responses.ref_token_logps, *extras)]

    def answer(n: int):
        return cases.Answer(*(column[index == n] for column in columns))

    total, count = 0.0, len(examples)
    step = []
    for example, slot in zip(examples, slots, strict=True):
        answers = [answer(n) for n in slot]
        if case.pair or case.duels:
            share = example.weight / sum(c.weight for c in example.comparisons)
            for c in example.comparisons:
                w, r, gap = (
                    answers[c.chosen],
                    answers[c.rejected],
                    example.scores[c.chosen] - example.scores[c.rejected],
                )
                ways = (
                    (cases.Duel(w, r, c.offset, gap), c.preference),
                    (cases.Duel(r, w, -c.offset, -gap), 1 - c.preference),
                )
                masses = [(duel, share * c.weight * p) for duel, p in ways if p]
                step += masses
                total += sum(mass * case.pair(duel) for duel, mass in masses) if case.pair else 0.0
        elif case.ranked:
            total += example.weight * case.ranked(answers, example.ranks, example.scores)
        elif case.single:
            total += example.weight * sum(
                case.single(a, y, STATISTIC) for a, y in zip(answers, example.labels, strict=True)
            )
        elif case.bags:
            step += [(a, y, example.weight) for a, y in zip(answers, example.labels, strict=True)]
        elif case.demonstration:
            best = {c.chosen for c in example.comparisons}
            total += example.weight * sum(case.demonstration(answers[n]) for n in best)
    if case.rollouts:
        groups = [
            (
                e.weight,
                [
                    cases.Drawn(answer(n), c.old_logps.astype(float), c.advantage, c.old_values.astype(float))
                    for n, c in zip(slot, e.credits, strict=True)
                ],
            )
            for e, slot in zip(examples, slots, strict=True)
        ]
        drawn = [one for _, group in groups for one in group]
        return case.rollouts(groups) / (sum(one.y.T for one in drawn) if case.by_tokens else len(drawn))
    if case.duels or case.bags:
        total = (case.duels or case.bags)(step)
    if case.single or case.bags:
        count = sum(len(slot) for slot in slots)
    if case.demonstration:
        best = [slot[k] for e, slot in zip(examples, slots, strict=True) for k in {c.chosen for c in e.comparisons}]
        count = sum(answer(n).T for n in best)
    return total / count


class Battery:
    """The checks. Each test class gets every check for each of its cases."""

    @pytest.fixture
    def objective(self, case) -> Objective:
        """The objective of the case."""
        return build(case.name, **case.knobs)

    @pytest.mark.parametrize("seed", range(3))
    def test_value_is_the_papers(self, case, objective, seed):
        examples = make_examples(objective, seed)
        responses, slots = make_logps(examples, seed + 10)
        expected = oracle(case, examples, responses, slots)
        assert loss_of(objective, responses, examples, slots).item() == pytest.approx(expected, rel=1e-10)

    def test_gradcheck(self, case, objective):
        if case.holds:
            pytest.skip("part of the policy is held without gradient: tests/theory checks that")
        examples = make_examples(objective)
        responses, slots = make_logps(examples)
        assert torch.autograd.gradcheck(
            lambda t: loss_of(objective, with_tokens(responses, t), examples, slots), (responses.token_logps,)
        )

    def test_splitting_a_step_changes_nothing(self, objective):
        """Micro-batches of 1 and 2 examples give the same loss and gradient, divided by the whole step's counts."""
        if objective.coupled:
            pytest.skip(
                "an example's loss depends on the whole step: tests/unit/training/test_step.py splits such steps"
            )
        examples = make_examples(objective, num=5)
        responses, slots = make_logps(examples)
        whole = view_of(objective, examples, slots)
        loss = reduce_terms(terms_of(objective, responses, whole), whole.counts())
        (gradient,) = torch.autograd.grad(loss, responses.token_logps)
        parts = [slice(0, 1), slice(1, 3), slice(3, 5)]
        views = [view_of(objective, examples[s], slots[s]) for s in parts]
        counts = sum((v.counts() for v in views), Counts(0, 0, 0))
        assert counts == whole.counts()
        split = sum(reduce_terms(terms_of(objective, responses, v), counts) for v in views)
        (split_gradient,) = torch.autograd.grad(split, responses.token_logps)
        torch.testing.assert_close(split, loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(split_gradient, gradient, rtol=1e-12, atol=1e-15)

    def test_unused_responses_change_nothing(self, objective):
        examples = make_examples(objective, num=4)
        responses, slots = make_logps(examples)
        few = view_of(objective, examples[:2], slots[:2])
        used = torch.isin(responses.response_index, torch.tensor([n for slot in slots[:2] for n in slot]))
        before = reduce_terms(terms_of(objective, responses, few), few.counts())
        garbage = torch.where(used, responses.token_logps, -77.0)
        after = reduce_terms(terms_of(objective, with_tokens(responses, garbage), few), few.counts())
        assert before.item() == after.item()

    def test_no_gradient_to_the_reference(self, objective):
        examples = make_examples(objective)
        responses, slots = make_logps(examples)
        reference = responses.ref_token_logps.clone().requires_grad_()
        both = replace(responses, ref_token_logps=reference)
        loss_of(objective, both, examples, slots).backward()
        assert reference.grad is None
        assert responses.token_logps.grad.abs().sum() > 0

    @pytest.mark.parametrize("per_token", [-1e-9, -1e-4, -0.7, -5.0, -50.0])
    @pytest.mark.parametrize("at_reference", [True, False])
    def test_finite_at_the_extremes(self, objective, per_token, at_reference):
        """Responses have 1 to 1,000 tokens (sums down to −50,000); means are near 0 and near −50; some are ties."""
        lengths = [1000, 1000, 1, 700]
        answers = [Response(token_ids(range(n))) for n in lengths]
        examples = [
            Example(
                str(a),
                token_ids([a]),
                (answers[a], answers[b]),
                (Comparison(0, 1),),
                (True, False),
                (1, 2),
                (0.7, 0.1),
                credits=(Credit(1.0), Credit(-0.5)),
            )
            for a, b in ((0, 1), (2, 3))
        ]
        trees, slots = build_trees(examples)
        num = [r.num_tokens for t in trees for r in t.responses]
        index = torch.repeat_interleave(torch.arange(len(num)), torch.tensor(num))
        policy = torch.full((sum(num),), per_token, requires_grad=True)
        reference = policy.detach() * (1.0 if at_reference else 0.9)
        responses = ResponseLogps(
            policy,
            index,
            torch.tensor(num),
            ref_token_logps=reference,
            extras={
                "log_collisions": torch.full_like(reference, per_token),
                "ref_kls": (reference - policy.detach()).abs(),
                "ref_entropy_shares": torch.full_like(reference, 0.0 if at_reference else 1.0),
                "values": torch.full_like(reference, 0.3),
            },
        )
        loss = loss_of(objective, responses, examples, slots)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(policy.grad).all()

    def test_sixteen_bit_inputs_are_summed_in_wide_arithmetic(self, objective):
        """The value equals that of the same numbers as float64: no step inside rounds to 16 bits."""
        examples = make_examples(objective)
        # The KL estimate k3 is exponential in the log-ratio: at scale 3 rounding of the input changes it by a tenth.
        responses, slots = make_logps(examples, scale=1.0 if objective.shape == "rollouts" else 3.0)
        narrow = responses.token_logps.detach().bfloat16()
        expected = loss_of(objective, with_tokens(responses, narrow.double()), examples, slots)
        torch.testing.assert_close(
            loss_of(objective, with_tokens(responses, narrow), examples, slots), expected, rtol=1e-12, atol=0
        )
        full = loss_of(objective, responses, examples, slots)
        torch.testing.assert_close(expected, full, rtol=0.05, atol=0.05)

    def test_every_knob_changes_the_value(self, case, objective):
        examples = make_examples(objective)
        responses, slots = make_logps(examples)
        base = loss_of(objective, responses, examples, slots).item()
        for name, value in case.knobs.items():
            if isinstance(value, str):  # other names are other cases
                continue
            other = build(case.name, **{**case.knobs, name: value * 1.5})
            assert loss_of(other, responses, examples, slots).item() != pytest.approx(base, rel=1e-6), name

    def test_configuration_round_trip(self, case, objective):
        written = yaml.safe_load(yaml.safe_dump({"name": case.name, **case.knobs}))
        assert build(**written) == objective

    def test_foreign_and_misspelt_knobs_are_refused(self, case):
        with raises(ConfigError, "unknown_setting", key="objective.no_such_knob", mentions=[case.name]):
            build(case.name, **case.knobs, no_such_knob=1.0)

    def test_weights_scale_and_zero_removes(self, objective):
        """Weight 0 removes an example from the numerator but not from the divisor; the loss is linear in weights."""
        examples = make_examples(objective, num=3)
        responses, slots = make_logps(examples)

        def weighted(*weights: float) -> float:
            rows = [replace(e, weight=w) for e, w in zip(examples, weights, strict=True)]
            return loss_of(objective, responses, rows, slots).item()

        assert weighted(2.0, 2.0, 2.0) == pytest.approx(2 * weighted(1.0, 1.0, 1.0), rel=1e-12)
        if objective.coupled:
            return
        parts = weighted(1.0, 0.0, 0.0) + weighted(0.0, 1.0, 0.0) + weighted(0.0, 0.0, 1.0)
        assert parts == pytest.approx(weighted(1.0, 1.0, 1.0), rel=1e-12)

    def test_a_turned_label_is_a_turned_pair(self, objective):
        """A soft label p for w ≻ l equals 1 − p for l ≻ w, with the opposite offset."""
        if objective.shape != "pairs" or "preference" not in objective.uses:
            pytest.skip("the objective has no soft labels")
        examples = make_examples(objective)
        responses, slots = make_logps(examples)
        turned = [
            replace(
                e,
                comparisons=tuple(
                    Comparison(c.rejected, c.chosen, c.weight, 1 - c.preference, -c.offset) for c in e.comparisons
                ),
            )
            for e in examples
        ]
        expected = loss_of(objective, responses, examples, slots)
        torch.testing.assert_close(loss_of(objective, responses, turned, slots), expected, rtol=1e-12, atol=0)

    def test_example_losses_are_those_of_the_examples_alone(self, objective):
        if objective.coupled:
            pytest.skip("an example of a coupled objective has no loss of its own")
        examples = make_examples(objective, num=4)
        responses, slots = make_logps(examples)
        view = view_of(objective, examples, slots)
        alone = [view_of(objective, [e], [s]) for e, s in zip(examples, slots, strict=True)]
        losses = example_losses(terms_of(objective, responses, view), [v.counts() for v in alone])
        expected = torch.stack([reduce_terms(terms_of(objective, responses, v), v.counts()) for v in alone])
        torch.testing.assert_close(losses, expected.detach(), rtol=1e-12, atol=1e-15)
