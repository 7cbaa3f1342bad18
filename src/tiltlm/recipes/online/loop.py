"""The loop: draw samples, judge them, make examples, train, and again with the policy that came out.

Every file of a round is written whole, and everything that follows from it is a pure function. So a loop that was
stopped goes on where it was, and then gives the same bytes as one that was not.
"""

import logging
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tiltlm.core import ResponseLogps, Tree, build_trees
from tiltlm.core.example import Example, Response
from tiltlm.data.dataset import load_data, survey
from tiltlm.data.distinct_prompts import Prompt, PromptSet, find_prompts
from tiltlm.data.files.sources import read_rows
from tiltlm.data.rows.columns import detect_prompts
from tiltlm.diagnostics import Interval
from tiltlm.distributed import Ranks
from tiltlm.evaluation.answers.contests import text_of
from tiltlm.judging import (
    Comparer,
    JudgementCache,
    Role,
    Scorer,
    build_judge,
    cached,
    check_trains,
)
from tiltlm.judging.cache import CachedComparer, CachedScorer
from tiltlm.judging.judge_settings import SELF, JudgeSettings
from tiltlm.judging.language.build import judge_by_policy
from tiltlm.judging.roles import RULES, has_audit
from tiltlm.logprobs import PolicyModule
from tiltlm.models import Policy, load_policy
from tiltlm.models import Scorer as ScorerModel
from tiltlm.models.folders import check_reachable, locate, short_name
from tiltlm.objectives import Objective, compose, describe_spec
from tiltlm.objectives.shapes.rollouts import PolicyGradient
from tiltlm.online.cards import Card, make_card, reward_of, steered
from tiltlm.online.constitution import DEFAULT, read_constitution
from tiltlm.online.examples.corrections import corrected, effective_share
from tiltlm.online.examples.rules import Formed, form_examples
from tiltlm.online.groups import Group
from tiltlm.online.ledger import Clock, Tokens, tokens_of_trees
from tiltlm.online.rounds import RoundFolder, prompts_of_round, seed_of
from tiltlm.online.stopping import Stop, find_stop
from tiltlm.recipes.answers.sample import Call, Speaker, draw_answers
from tiltlm.recipes.answers.sample_settings import SampleRequest, SampleSettings
from tiltlm.recipes.answers.samples import Samples
from tiltlm.recipes.answers.systems import refuse_own_family
from tiltlm.recipes.online.judging import JudgedRow, groups_of, judge_round, with_rivals
from tiltlm.recipes.online.learned_judge import LearnedJudge, load_learned_judge
from tiltlm.recipes.online.loop_checks import (
    check_engine,
    check_loop,
    check_request,
    describe,
    open_held_out,
    recorded_rounds,
    warn_uncorrected,
)
from tiltlm.recipes.online.loop_engines import PROBES, LoopEngine, behaviours_of, facts_of
from tiltlm.recipes.online.loop_run import LoopRequest, LoopRunSettings
from tiltlm.recipes.online.looped import LoopedRun
from tiltlm.recipes.online.policy_folders import PolicyFolders
from tiltlm.recipes.online.revising import Reviser
from tiltlm.recipes.prepare import encoder_of, note_all
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.train import listener, save_model
from tiltlm.reference import Reference
from tiltlm.reference.build import LARGER, build_round_references
from tiltlm.reference.model import ModelReference
from tiltlm.reference.moving import MovingReference
from tiltlm.report import to_plain
from tiltlm.report.studies.rounds import SHOWN, LoopRecord, write_rounds
from tiltlm.runs import RunDirectory, run_log
from tiltlm.sampling.answers import AnswerRow, read_answers
from tiltlm.sampling.decoding import Mixture
from tiltlm.training import Trainer, build_trainer
from tiltlm.training.optim.optimizer import learning_rate_factor, whole_weights
from tiltlm.training.packs import cut_into_packs
from tiltlm.training.step import Stepper

log = logging.getLogger(__name__)


def loop(settings: LoopRunSettings, request: LoopRequest, *, progress: ProgressCallback = silent) -> LoopedRun:
    """Run the rounds of a loop, save the policy and write the page.

    Raises:
        TiltError: something is wrong; what can be seen before a model is loaded is refused then.
    """
    Ranks.single("loop")
    objective = compose(settings.objective)
    check_loop(settings, objective)
    check_engine(settings, request)
    with run_log() as messages:
        policy: Policy | None = None
        if request.is_own_judge:
            policy = open_policy(settings, progress)
        progress("load the judge", 0, 0)
        judge = open_training_judge(request, policy)
        check_request(settings, request, objective, judge)
        measuring = open_held_out(request.held_out_judge, judge)
        policy = policy or open_policy(settings, progress)
        pupil = load_learned_judge(settings, measuring)
        prompts = read_prompts(settings, policy)
        with (
            RunDirectory.open(settings.output, resume=request.resume, overwrite=request.overwrite) as run,
            JudgementCache() as cache,
        ):
            messages.write_to(run.path)
            asked = None if judge is None else cached(judge, cache)
            judges = asked, None if measuring is None else cached(measuring, cache)
            rounds = Rounds.of(run, settings, request, objective, policy, prompts, judges, cache, progress)
            rounds.add_learned_judge(pupil)
            return rounds.run_all(resume=request.resume)


def open_policy(settings: LoopRunSettings, progress: ProgressCallback) -> Policy:
    """Load the model that is trained."""
    progress("load model and data", 0, 0)
    check_reachable(locate(settings.model.path, settings.model.adapter))
    policy = load_policy(settings.model)
    note_all(policy.notes)
    return policy


def open_training_judge(request: LoopRequest, policy: Policy | None) -> Scorer | Comparer | None:
    """Return the judge that makes examples; None without one.

    Args:
        request: Its settings.
        policy: The model that is trained, if it is the judge itself.

    Raises:
        ConfigError: it has no audit, and none is asked for.
    """
    if request.judge is None:
        return None
    judge = build_judge(request.judge, role="train") if policy is None else judge_by_policy(request.judge, policy)
    check_trains(request.judge, judge, unaudited=request.unaudited)
    return judge


def read_prompts(settings: LoopRunSettings, policy: Policy) -> PromptSet:
    """Return the distinct prompts of the data."""
    rows = read_rows(settings.data)
    detect_prompts(survey([rows])[0], settings.data)
    prompts = find_prompts(
        rows,
        settings.data,
        encoder_of(policy),
        max_new_tokens=settings.sampling.max_new_tokens,
        limit=settings.data.limit,
    )
    note_all([*rows.notes, *prompts.notes])
    return prompts


def responses_of_data(settings: LoopRunSettings, policy: Policy) -> dict[bytes, tuple[Response, str]]:
    """Return the response that the data has to each prompt, the first of several, by the tokens of the prompt."""
    whole, encoder = replace(settings.data, eval_fraction=0.0), encoder_of(policy)
    found: dict[bytes, tuple[Response, str]] = {}
    for example in load_data(whole, encoder, "demonstrations").train:
        response = example.responses[0]
        text = str(encoder.tokenizer.decode(response.token_ids.tolist(), skip_special_tokens=True))
        found.setdefault(example.prompt_ids.tobytes(), (response, text))
    return found


def reviser_of(settings: LoopRunSettings, policy: Policy, prompts: PromptSet) -> Reviser:
    """Return what revises the samples of a loop."""
    limit, sampling = policy.module.max_positions, settings.sampling
    return Reviser(
        prompts,
        read_constitution(settings.rivals.constitution or DEFAULT),
        settings.rivals.revisions,
        settings.loop.seed,
        window=sys.maxsize if limit is None else limit - sampling.max_new_tokens,
        wraps=settings.data.as_chat is not False and prompts.encoder.has_template,
    )


@dataclass(eq=False)
class Rounds:
    """A loop in progress, with all its parts."""

    run: RunDirectory
    settings: LoopRunSettings
    request: LoopRequest
    policy: Policy
    prompts: PromptSet
    judge: CachedScorer | CachedComparer | None
    measuring: CachedScorer | None
    """A judge that does not train."""
    reference: Reference
    """That of the objective."""
    initial: ModelReference
    """The policy before the first round."""
    trainer: Trainer
    cache: JudgementCache
    progress: ProgressCallback
    clock: Clock
    """What the phases took."""
    of_data: Mapping[bytes, tuple[Response, str]]
    """Tokens of a prompt → the response that the data has, and its text; empty unless it is a rival."""
    reviser: Reviser | None
    """What revises samples; None: nothing does."""
    engine: LoopEngine
    learned: LearnedJudge | None = None
    """What labels the samples after it has learned from the judge; None: the judge labels them."""
    cards: list[Card] = field(default_factory=list)
    """The card of each round that is done."""
    is_prepared: bool = False
    """True once the trainer has seen examples."""

    @classmethod
    def of(
        cls,
        run: RunDirectory,
        settings: LoopRunSettings,
        request: LoopRequest,
        objective: Objective,
        policy: Policy,
        prompts: PromptSet,
        judges: tuple[CachedScorer | CachedComparer | None, CachedScorer | None],
        cache: JudgementCache,
        progress: ProgressCallback,
    ) -> "Rounds":
        """Build the references and the trainer, and describe the run."""
        per_round = min(settings.loop.prompts_per_round, len(prompts.prompts))
        num_rounds = settings.loop.rounds if request.replay is None else recorded_rounds(request.replay)
        shape = replace(settings.loop, prompts_per_round=per_round, rounds=min(settings.loop.rounds, num_rounds))
        settings = replace(settings, loop=shape)
        reference, initial = build_round_references(
            settings.reference,
            policy,
            is_needed=objective.needs_reference or settings.rivals.n > 0,
            rate={"fixed": None, "reset": 1.0, "average": settings.loop.rate}[settings.loop.reference],
            max_tokens=settings.training.max_tokens,
        )
        describe(run, {**to_plain(settings), **request.judges})
        if isinstance(objective, PolicyGradient) and objective.critic is not None:
            policy.module.add_value_head(shares_body=settings.critic.shares_body)
        trainer = build_trainer(
            policy.module,
            (),
            (),
            objective,
            reference if objective.needs_reference else None,
            settings.training,
            run,
            prompts.digest,
            listener=listener(progress),
            schedule=learning_rate_factor(settings.training, planned_steps(settings)),
            value_learning_rate=settings.critic.value_learning_rate,
        )
        of_data = responses_of_data(settings, policy) if settings.rivals.data else {}
        reviser = reviser_of(settings, policy, prompts) if settings.rivals.revisions else None
        clock = Clock(run.path / "ledger.jsonl")
        if isinstance(objective, PolicyGradient):
            warn_uncorrected(settings)
        whole = settings.engine.sync == "full"
        folders = PolicyFolders(run.path.absolute() / "sync", policy, prompts.encoder, prompts.end_token_id, whole)
        engine = LoopEngine(
            settings.engine,
            policy,
            folders,
            run.path,
            [prompt.token_ids for prompt in prompts.prompts[:PROBES]],
            settings.sampling.max_new_tokens,
            settings.loop.seed,
        )
        parts = (*judges, reference, initial, trainer, cache, progress, clock, of_data, reviser, engine)
        return cls(run, settings, request, policy, prompts, *parts)

    def add_learned_judge(self, loaded: ScorerModel | None) -> None:
        """Let this reward model learn from the judge and label the samples; None: the judge labels them."""
        if loaded is None:
            return
        judge = self.judge
        assert judge is not None, "a rule that needs no judge is refused"
        self.learned = LearnedJudge.of(
            loaded,
            self.run,
            self.settings,
            self.prompts.digest,
            scale=judge.scale,
            ask=partial(self.ask_judge, judge, self.request.judge),
            progress=self.progress,
            accepts_errors=self.request.accept_errors,
        )

    def run_all(self, *, resume: bool) -> LoopedRun:
        """Run all rounds that are not done, save the policy and return what came out."""
        if resume:
            self.trainer.restore()
        cards = self.cards
        if self.settings.stop.held_out_falls and self.trainer.state.step == 0:
            self.trainer.checkpoints.commit(self.trainer.state, self.trainer.window)  # the best round may be the first
        stop: Stop | None = None
        try:
            while stop is None and len(cards) < self.settings.loop.rounds:
                folder = RoundFolder.of(self.run.path, len(cards))
                known = folder.card if (folder.last_step or 0) <= self.trainer.state.step else None
                cards.append(known or self.run_round(len(cards), folder))
                stop = find_stop(cards, self.settings.stop, self.clock.hours)
            self.trainer.checkpoints.commit(self.trainer.state, self.trainer.window)
        finally:
            self.trainer.recorder.close()
        stop = stop or Stop("rounds", f"all {self.settings.loop.rounds} rounds are done")
        log.info("the loop ends: %s", stop.text, extra={"event": "loop_stopped", "rule": stop.rule})
        if stop.best is not None:
            self.trainer.checkpoints.restore_weights(self.start_of(RoundFolder.of(self.run.path, stop.best))[0])
        save_model(self.policy, self.prompts.encoder, self.prompts.end_token_id, self.run.path)
        if self.learned is not None:
            self.learned.save(len(cards))
        write_rounds(self.run.path, self.record(cards, stop))
        return LoopedRun(self.run.path, self.request.preset, tuple(cards), stop)

    def record(self, cards: Sequence[Card], stop: Stop) -> LoopRecord:
        """Return what the page shows."""
        settings = self.settings
        facts = {
            "Model": short_name(settings.model.path),
            "Judge": "none" if self.judge is None else self.judge.name,
            **({} if self.learned is None else {"Learned judge": self.learned.description}),
            "Held-out judge": "none" if self.measuring is None else self.measuring.name,
            "Preset": self.request.preset or "none",
            "Objective": describe_spec(settings.objective),
            "Examples": settings.examples.rule,
            "Prompts": f"{len(self.prompts.prompts):,}, {settings.loop.prompts_per_round:,} a round",
            "Samples of a prompt": f"{settings.loop.n}",
            "Drawn by": settings.engine.name,
        }
        ends = {number: read_answers(RoundFolder.of(self.run.path, number).samples) for number in {0, len(cards) - 1}}
        samples = {
            number: [(text_of(row), row.answers[0]) for row in rows[:SHOWN]] for number, rows in sorted(ends.items())
        }
        judge = self.request.judge
        known = judge is None or judge.kind in RULES, judge is None or has_audit(judge)
        return LoopRecord(facts, tuple(cards), stop.rule, stop.text, samples, *known)

    def run_round(self, number: int, folder: RoundFolder) -> Card:
        """Run one round, or what is missing of it, and return its card."""
        if self.request.replay is not None:
            folder.copy_draws(RoundFolder.of(self.request.replay, number), learns=self.learned is not None)
        first, tokens = self.start_of(folder)
        rows, verdicts, groups, formed = self.gather(number, folder)
        judgements = verdicts if self.learned is None else folder.gold or []
        digest = folder.write_examples(groups, formed.examples)
        is_own = self.request.replay is None  # samples of another policy say nothing about the KL of this one
        with self.clock.measures(number, "measure"):
            initial = self.initial.sums([tree_of(row) for row in rows]) if is_own else None
        folder.begin_training(first, tokens, digest)
        held_out = reward_of(scores_of(self.judged("held_out", rows, folder)))
        if self.settings.stop.held_out_falls:
            self.keep_best(held_out, first)
        coef, past, before = self.steer_kl(number), self.past_examples(number), self.trainer.state.step
        with self.clock.measures(number, "train"):
            effective = self.train(folder, first, formed.examples, past, digest)
        if isinstance(self.reference, MovingReference) and self.trainer.state.step > before:
            self.reference.move(whole_weights(self.policy.module))  # before the checkpoint, which holds it
        if (number + 1) % self.settings.loop.save_every == 0:
            self.trainer.checkpoints.commit(self.trainer.state, self.trainer.window)
        step = self.trainer.state.step
        card = make_card(
            number,
            rows,
            initial,
            scores=own_scores(rows, judgements),
            held_out=held_out,
            num_examples=len(formed.examples),
            dropped=formed.dropped,
            statuses=sum((Counter(one["statuses"]) for one in judgements), Counter()),
            num_steps=step - first,
            losses=[line["loss"] for line in self.trainer.recorder.history if line["step"] > first and "loss" in line],
            tokens=spent_tokens(self, folder, rows, formed.examples, past, self.trainer.state.num_tokens - tokens),
            num_weights=num_weights(self.policy.module),
            recomputes=self.settings.model.gradient_checkpointing,
            cost=cost_of(judgements),
            engine=facts_of(folder.engine),
            kl_coef=coef,
            effective=effective,
            learned=folder.lesson,
        )
        folder.close(step, card)
        self.progress("rounds", number + 1, self.settings.loop.rounds, **figures(card))
        return card

    def keep_best(self, held_out: Interval | None, first: int) -> None:
        """Keep the checkpoint of the policy with the best held-out score so far, this round's or an earlier one's."""
        known = [(card.held_out.estimate, card.round) for card in self.cards if card.held_out is not None]
        best = max(known, key=lambda one: (one[0], -one[1]), default=None)
        if best is None or (held_out is not None and held_out.estimate > best[0]):
            self.trainer.checkpoints.kept = first
        else:
            self.trainer.checkpoints.kept = self.start_of(RoundFolder.of(self.run.path, best[1]))[0]

    def gather(
        self, number: int, folder: RoundFolder
    ) -> tuple[list[AnswerRow], list[dict[str, Any]], list[Group], Formed]:
        """Draw and judge samples, and make their examples; of more prompts while some give no signal and that is asked.

        Returns:
            The samples of the policy, what the judge says (a learned one, if there is one), the groups and their
            examples.
        """
        loop = self.settings.loop
        rows: list[AnswerRow] = []
        together: list[JudgedRow] = []
        verdicts: list[dict[str, Any]] = []
        for refill in range(loop.refills + 1):
            with self.clock.measures(number, "sample"):
                own = self.draw(number, folder, refill)
                more = with_rivals(own, self.rivals(number, folder, own), self.settings.rivals.who, self.of_data)
            with self.clock.measures(number, "judge"):
                if self.learned is None:
                    verdicts += self.judged("train", [one.row for one in more], folder, refill)
                else:
                    verdicts += self.learned.judge(number, own, folder)
            rows += own
            together += more
            groups, formed = self.form(number, together, verdicts)
            if loop.refills:
                formed = with_signal(formed, loop.prompts_per_round)
            if len(formed.examples) >= loop.prompts_per_round:
                break
        return rows, verdicts, groups, formed

    def form(
        self, number: int, rows: Sequence[JudgedRow], verdicts: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Group], Formed]:
        """Return the judged samples of each prompt, and their examples; none if no sample could change the policy."""
        settings = self.settings
        groups = groups_of(
            rows,
            verdicts,
            number,
            scale=1.0 if self.judge is None or self.learned is not None else self.judge.scale,
            shaping=settings.shaping,
            max_tokens=settings.sampling.max_new_tokens,
        )
        past = [card.reward.estimate for card in self.cards[:number] if card.reward is not None]
        formed = form_examples(groups, settings.examples, past)
        objective = self.trainer.stepper.objective
        if isinstance(objective, PolicyGradient) and not any(map(objective.without_idle, formed.examples)):
            formed = Formed([], formed.dropped + Counter({"no_signal": len(formed.examples)}))
        return groups, formed

    def past_examples(self, number: int) -> list[tuple[RoundFolder, list[Example]]]:
        """Return the examples of the rounds before, as many as `loop.past_rounds` says, made again from their files."""
        found: list[tuple[RoundFolder, list[Example]]] = []
        for earlier in range(max(0, number - self.settings.loop.past_rounds), number):
            folder = RoundFolder.of(self.run.path, earlier)
            rows = read_answers(folder.samples)
            together = with_rivals(rows, self.rivals(earlier, folder, rows), self.settings.rivals.who, self.of_data)
            _, formed = self.form(earlier, together, folder.verdicts("train") or [])
            own = [replace(example, id=f"{example.id} of round {earlier}") for example in formed.examples]
            found.append((folder, own))
        return found

    def steer_kl(self, number: int) -> float | None:
        """Set the KL coefficient of a round, and return it; None if it is not steered."""
        loop, objective = self.settings.loop, compose(self.settings.objective)
        if loop.kl_target is None:
            return None
        assert isinstance(objective, PolicyGradient), "checked before"
        assert objective.kl is not None, "checked before"
        coef = steered(objective.kl.coef, self.cards[:number], loop.kl_target, loop.kl_horizon)
        changed = replace(objective, kl=replace(objective.kl, coef=coef))
        self.trainer.stepper = replace(self.trainer.stepper, objective=changed)
        return coef

    def judged(
        self, role: Role, rows: Sequence[AnswerRow], folder: RoundFolder, refill: int = 0
    ) -> list[dict[str, Any]]:
        """Return what a judge says about the samples of a round; nothing if there is none with this role."""
        judge = self.judge if role == "train" else self.measuring
        if judge is None:
            return []
        verdicts = folder.verdicts(role, refill)
        if verdicts is None:
            asked = self.request.judge if role == "train" else self.request.held_out_judge
            if role == "train" and asked is not None and self.request.is_own_judge:
                judge = self.judge = cached(judge_by_policy(asked, self.policy), self.cache)  # with the weights of now
            verdicts = self.ask_judge(judge, asked, rows)
            folder.write_verdicts(verdicts, role, refill)
        return verdicts

    def ask_judge(
        self, judge: CachedScorer | CachedComparer, settings: JudgeSettings | None, rows: Sequence[AnswerRow]
    ) -> list[dict[str, Any]]:
        """Return what a judge with these settings says about samples."""
        if not (settings is not None and settings.model == SELF):
            refuse_own_family(judge.judge, settings, rows)
        return judge_round(judge, rows, self.progress, accept_errors=self.request.accept_errors)

    def rivals(self, number: int, folder: RoundFolder, rows: Sequence[AnswerRow]) -> Sequence[AnswerRow]:
        """Return the samples of a round that somebody else than the policy draws, or its revisions."""
        rivals = self.settings.rivals
        if self.reviser is not None:
            return self.reviser.revise(rows, folder.path, partial(self.ask, number))
        if not rivals.n:
            return ()
        assert isinstance(self.reference, ModelReference), "a reference is built where rivals are drawn"
        mixture = Mixture(self.reference.weights.policy, self.reference.in_place, rivals.mix)
        chosen = self.prompts_of(number, 0)
        return self.answers(number, chosen, rivals.n, folder.rivals, f"{rivals.who} of round {number}", mixture).rows

    def ask(self, number: int, prompts: Sequence[Prompt], path: Path) -> Sequence[AnswerRow]:
        """Return one answer of the policy to each of these prompts."""
        return self.answers(number, prompts, 1, path, f"{path.name} of round {number}").rows

    def draw(self, number: int, folder: RoundFolder, refill: int) -> Sequence[AnswerRow]:
        """Return the samples of the policy in a round, or in a refill of it."""
        name = f"round {number}" + (f", refill {refill}" if refill else "")
        chosen, n = self.prompts_of(number, refill), self.settings.loop.n
        drawn = self.answers(number, chosen, n, folder.samples_of(refill), name)
        if self.request.replay is None and self.trainer.state.step == self.start_of(folder)[0]:
            self.engine.account(folder, refill, drawn, n * len(chosen), self.settings.sampling)
        return drawn.rows

    def prompts_of(self, number: int, refill: int) -> Sequence[Prompt]:
        """Return the prompts of a round or of a refill of it: the batch after those of all rounds before."""
        loop, prompts = self.settings.loop, self.prompts.prompts
        batch = number + refill
        if loop.refills:
            batch = refill + sum(card.num_prompts for card in self.cards[:number]) // loop.prompts_per_round
        places = prompts_of_round(batch, len(prompts), loop.prompts_per_round, self.prompts.digest, loop.seed)
        return [prompts[k] for k in places]

    def answers(
        self, number: int, prompts: Sequence[Prompt], n: int, path: Path, name: str, mixture: Mixture | None = None
    ) -> Samples:
        """Return answers: those on the disk, and the others drawn.

        Args:
            number: The round.
            prompts: What is answered.
            n: Answers to each prompt.
            path: Their file.
            name: What is drawn and when; another name has another seed.
            mixture: The reference, and its share in what draws; None: the policy alone.
        """
        sampling = self.settings.sampling
        chosen = replace(self.prompts, prompts=tuple(prompts))
        seed = seed_of(name, self.settings.loop.seed)
        request = SampleRequest(n=n, temperatures=(sampling.temperature,), seed=seed, output=path, resume=True)
        engine = self.engine.of(number, f"{self.prompts.digest} {name}", mixture)
        speaker = Speaker(engine, self.prompts.encoder, self.policy.end_token_ids)
        settings = SampleSettings(self.settings.model, self.settings.data, sampling)
        call = Call(settings, request, chosen, speaker, {sampling.temperature: sampling})
        return draw_answers(call, self.progress)

    def start_of(self, folder: RoundFolder) -> tuple[int, int]:
        """Return optimiser steps and trained tokens before a round: those noted when it began, else those of now."""
        begun, state = folder.start, self.trainer.state
        return (state.step, state.num_tokens) if begun is None or begun[0] > state.step else begun

    def behaviours(
        self, folder: RoundFolder, examples: Sequence[Example], *, is_past: bool = False
    ) -> list[list[NDArray[np.float32] | None]]:
        """Return the log-probability of each token under what drew it; None for the policy that the round begins with.

        Args:
            folder: The round that drew the samples.
            examples: Its examples.
            is_past: It is an earlier round.
        """
        if not self.settings.engine.is_exact:
            parts = [folder.samples_of(refill) for refill in range(self.settings.loop.refills + 1)]
            return behaviours_of(examples, [row for path in parts if path.exists() for row in read_answers(path)])
        if is_past:
            return [[*logps] for logps in folder.old_logps(examples)]
        return [[None] * len(example.responses) for example in examples]

    def train(
        self,
        folder: RoundFolder,
        first: int,
        own: Sequence[Example],
        past: Sequence[tuple[RoundFolder, Sequence[Example]]],
        digest: str,
    ) -> float | None:
        """Train on the examples of a round that begins after `first` steps, and on those of earlier rounds.

        Returns:
            The effective number of samples as a share of all, if there are corrections.
        """
        examples = [*own, *(example for _, earlier in past for example in earlier)]
        if not examples:
            return None
        start = partial(
            self.trainer.next_round, fingerprint=digest, first_step=first, restarts=self.settings.loop.restarts
        )
        start(examples)
        effective = None
        objective, correction = self.trainer.stepper.objective, self.settings.correction
        is_corrected = correction.kind != "none"
        if isinstance(objective, PolicyGradient) and (self.trainer.timetable.num_steps > 1 or is_corrected):
            examples = folder.with_old_logps(examples, partial(token_numbers_of, self.trainer.stepper))
            if is_corrected:
                behaviours = self.behaviours(folder, own)
                for earlier, theirs in past:
                    behaviours += self.behaviours(earlier, theirs, is_past=True)
                examples = corrected(examples, behaviours, correction)
                effective = effective_share(examples)
            if not examples:
                return effective
            start(examples)
        with self.trainer.stopping():
            if not self.is_prepared:
                self.trainer.prepare(check=self.trainer.state.step == 0)
                self.is_prepared = True
            self.trainer.run_to_end()
        return effective


def scores_of(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return the scores of each prompt's samples, NaN where the judge failed; nothing from a judge that compares."""
    found: dict[str, list[float]] = {}
    for one in verdicts:  # a prompt has a line for each of its bought pairs
        if "scores" in one:
            found.setdefault(one["id"], []).extend(math.nan if value is None else value for value in one["scores"])
    return found


def own_scores(rows: Sequence[AnswerRow], verdicts: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return the scores of the policy's own samples of each prompt, which stand before those of rivals."""
    found, sizes = scores_of(verdicts), {row.id: len(row.answers) for row in rows}
    return {name: own[: sizes[name]] for name, own in found.items()}


def tree_of(row: AnswerRow) -> Tree:
    """Return the samples of a prompt for a forward."""
    assert row.prompt_ids is not None, "the sampler gives tokens"
    assert row.token_ids is not None, "the sampler gives tokens"
    return Tree(row.prompt_ids, tuple(Response(ids) for ids in row.token_ids))


def token_numbers_of(stepper: Stepper, examples: Sequence[Example]) -> NDArray[np.float32]:
    """Return the log-probability of every scored token of all samples, in their order, and with a critic the values.

    Returns:
        [1, M], or [2, M] with the values in the second row.
    """
    found: dict[tuple[int, int], NDArray[np.float32]] = {}  # by the object: two rows of data may have one id
    (packs,) = cut_into_packs(examples, LARGER * stepper.max_tokens, 1)
    for pack in packs:
        with torch.no_grad():
            responses = stepper.policy_logps(pack.trees, stepper.objective.extras)
        assert isinstance(responses, ResponseLogps)
        numbers = torch.stack([responses.token_logps, *responses.extras.values()]).float().cpu()
        pieces = torch.split(numbers, responses.num_tokens.tolist(), dim=1)
        for example, slots in zip(pack.examples, pack.slots, strict=True):
            found |= {(id(example), k): pieces[slot].numpy() for k, slot in enumerate(slots)}
    return np.concatenate([found[id(one), k] for one in examples for k in range(len(one.responses))], axis=1)


def with_signal(formed: Formed, most: int) -> Formed:
    """Return at most so many examples, the first ones that have an advantage other than 0, and count the others."""
    live = [example for example in formed.examples if any(credit.advantage for credit in example.credits)]
    causes = Counter({"no_signal": len(formed.examples) - len(live), "surplus": max(0, len(live) - most)})
    return Formed(live[:most], formed.dropped + +causes)


def spent_tokens(
    loop: Rounds,
    folder: RoundFolder,
    rows: Sequence[AnswerRow],
    examples: Sequence[Example],
    past: Sequence[tuple[RoundFolder, Sequence[Example]]],
    trained: int,
) -> Tokens:
    """Return the tokens of a round, from its files and its steps.

    Args:
        loop: The loop, after the training of the round.
        folder: The files of the round.
        rows: The samples of the policy.
        examples: The examples of the round.
        past: Those of earlier rounds.
        trained: Tokens that its steps read.
    """
    drawn = [row for path in folder.answers for row in read_answers(path)]
    of_examples = tokens_of_trees(build_trees([*examples, *(one for _, own in past for one in own)])[0])
    is_apart = not isinstance(loop.reference, ModelReference) or loop.reference is not loop.initial
    forward = tokens_of_trees(map(tree_of, rows)) if loop.request.replay is None else 0
    forward += of_examples * (loop.trainer.stepper.objective.needs_reference and is_apart)
    forward += of_examples * folder.has_old_logps
    return Tokens(
        prompts=sum(len(ids) for row in drawn if (ids := row.prompt_ids) is not None),
        sampled=sum(len(ids) for row in drawn for ids in row.token_ids or ()),
        forward=forward,
        trained=trained,
    )


def num_weights(module: PolicyModule) -> int:
    """Return the weights of a policy without its input embedding, unless that is its head too."""
    embedding, head = module.get_input_embeddings(), module.get_output_embeddings()
    is_tied = head is not None and head.weight is embedding.weight
    return sum(p.numel() for p in module.parameters()) - (0 if is_tied else embedding.weight.numel())


def cost_of(verdicts: Sequence[Mapping[str, Any]]) -> float | None:
    """Return what the judge of a round cost; None if a price is not known."""
    costs = [one.get("cost", 0.0) for one in verdicts]
    return None if None in costs else math.fsum(costs)


def planned_steps(settings: LoopRunSettings) -> int:
    """Return the optimiser steps of a loop whose every prompt gives one example."""
    loop, training = settings.loop, settings.training
    sizes = [loop.prompts_per_round * (1 + min(number, loop.past_rounds)) for number in range(loop.rounds)]
    return training.num_epochs * sum(-(-size // training.batch_size) for size in sizes)


def figures(card: Card) -> dict[str, float]:
    """Return the numbers of a card that are shown beside the progress bar."""
    return {
        name: value.estimate
        for name, value in (("reward", card.reward), ("held-out", card.held_out), ("kl", card.kl))
        if value is not None
    }
