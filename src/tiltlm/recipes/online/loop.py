"""The loop: draw samples, judge them, make examples, train, and again with the policy that came out.

Every file of a round is written whole, and everything that follows from it is a pure function. So a loop that was
stopped goes on where it was, and then gives the same bytes as one that was not.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tiltlm.core import ResponseLogps, Tree, build_trees
from tiltlm.core.example import Example, Response
from tiltlm.data.dataset import survey
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
from tiltlm.online.examples.corrections import corrected, effective_share
from tiltlm.online.examples.rules import Formed, form_examples, with_signal
from tiltlm.online.groups import Group
from tiltlm.online.ledger import Clock, Tokens, tokens_of_trees
from tiltlm.online.rounds import RoundFolder, prompts_of_round
from tiltlm.online.stopping import Stop, find_stop
from tiltlm.recipes.answers.systems import refuse_own_family
from tiltlm.recipes.online.draws import Draws, interleaved, responses_of_data, reviser_of, share
from tiltlm.recipes.online.judging import (
    JudgedRow,
    cost_of,
    groups_of,
    judge_round,
    own_scores,
    scores_of,
    with_rivals,
)
from tiltlm.recipes.online.learned_judge import LearnedJudge, load_learned_judge
from tiltlm.recipes.online.loop_checks import (
    check_engine,
    check_loop,
    check_processes,
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
from tiltlm.recipes.prepare import encoder_of, note_all
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.train import listener, refuse_different, save_model
from tiltlm.reference import Reference, model_digest
from tiltlm.reference.build import LARGER, build_round_references
from tiltlm.reference.model import ModelReference
from tiltlm.reference.moving import MovingReference
from tiltlm.report import to_plain
from tiltlm.report.studies.rounds import SHOWN, LoopRecord, write_rounds
from tiltlm.runs import RunDirectory, run_log
from tiltlm.sampling.answers import AnswerRow, read_answers
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
    ranks = Ranks.join()
    check_processes(settings, ranks)
    objective = compose(settings.objective)
    check_loop(settings, objective)
    check_engine(settings, request)
    with run_log() as messages:
        policy: Policy | None = None
        if request.is_own_judge:
            policy = open_policy(settings, progress, ranks)
        progress("load the judge", 0, 0)
        judge = open_training_judge(request, policy)
        check_request(settings, request, objective, judge)
        measuring = open_held_out(request.held_out_judge, judge)
        policy = policy or open_policy(settings, progress, ranks)
        pupil = load_learned_judge(settings, measuring)
        prompts = read_prompts(settings, policy)
        refuse_different({"prompts": prompts.digest, "model": model_digest(policy.module)}, ranks)
        with (
            RunDirectory.open(settings.output, resume=request.resume, overwrite=request.overwrite, ranks=ranks) as run,
            JudgementCache() as cache,
        ):
            if ranks.is_first:
                messages.write_to(run.path)
            asked = None if judge is None else cached(judge, cache)
            judges = asked, None if measuring is None else cached(measuring, cache)
            rounds = Rounds.of(run, settings, request, objective, policy, prompts, judges, cache, progress, ranks)
            if ranks.is_first:
                rounds.add_learned_judge(pupil)
            return rounds.run_all(resume=request.resume)


def open_policy(settings: LoopRunSettings, progress: ProgressCallback, ranks: Ranks) -> Policy:
    """Load the model that is trained."""
    progress("load model and data", 0, 0)
    check_reachable(locate(settings.model.path, settings.model.adapter))
    policy = load_policy(settings.model, ranks.device)
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
    draws: Draws
    """Who speaks."""
    ranks: Ranks
    learned: LearnedJudge | None = None
    """What labels the samples after it has learned from the judge; None: the judge does, or another process has it."""
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
        ranks: Ranks,
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
        ranks.first(lambda: describe(run, {**to_plain(settings), **request.judges}))
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
            ranks=ranks,
            listener=listener(progress),
            schedule=learning_rate_factor(settings.training, planned_steps(settings)),
            value_learning_rate=settings.critic.value_learning_rate,
        )
        of_data = responses_of_data(settings, policy) if settings.rivals.data else {}
        reviser = reviser_of(settings, policy, prompts) if settings.rivals.revisions else None
        clock = Clock(run.path / "ledger.jsonl", writes=ranks.is_first)
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
        draws = Draws(settings, prompts, policy, engine, reference, reviser, ranks, progress)
        parts = (*judges, reference, initial, trainer, cache, progress, clock, of_data, draws, ranks)
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
                card, last_step = self.ranks.first(partial(card_of, folder))
                known = card if (last_step or 0) <= self.trainer.state.step else None
                cards.append(known or self.run_round(len(cards), folder))
                stop = find_stop(cards, self.settings.stop, self.ranks.first(lambda: self.clock.hours))
            self.trainer.checkpoints.commit(self.trainer.state, self.trainer.window)
        finally:
            self.trainer.recorder.close()
        stop = stop or Stop("rounds", f"all {self.settings.loop.rounds} rounds are done")
        log.info("the loop ends: %s", stop.text, extra={"event": "loop_stopped", "rule": stop.rule})
        if stop.best is not None:
            self.trainer.checkpoints.restore_weights(self.start_of(RoundFolder.of(self.run.path, stop.best))[0])
        self.ranks.first(lambda: self.save(cards, stop))
        return LoopedRun(self.run.path, self.request.preset, tuple(cards), stop)

    def save(self, cards: Sequence[Card], stop: Stop) -> None:
        """Write the model, a learned judge and the page, in the first process."""
        save_model(self.policy, self.prompts.encoder, self.prompts.end_token_id, self.run.path)
        if self.learned is not None:
            self.learned.save(len(cards))
        write_rounds(self.run.path, self.record(cards, stop))

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
        warmup = int(planned_steps(settings) * settings.training.warmup_ratio)
        in_warmup = not settings.loop.restarts and self.trainer.state.step < warmup
        return LoopRecord(facts, tuple(cards), stop.rule, stop.text, samples, *known, in_warmup)

    def run_round(self, number: int, folder: RoundFolder) -> Card:
        """Run one round, or what is missing of it, and return its card. Only the first process touches files."""
        replay, first_only = self.request.replay, self.ranks.first
        if replay is not None:
            learns = bool(self.settings.learned_judge.labels)
            first_only(lambda: folder.copy_draws(RoundFolder.of(replay, number), learns=learns))
        first, tokens = self.start_of(folder)
        rows, verdicts, groups, formed = self.gather(number, folder)
        digest = first_only(lambda: folder.write_examples(groups, formed.examples))
        with self.clock.measures(number, "measure"):
            initial = self.initial_sums(rows) if replay is None else None  # others' samples say nothing about its KL
        measured = first_only(lambda: self.judged("held_out", rows, folder))
        held_out = reward_of(scores_of(measured))
        first_only(lambda: folder.begin_training(first, tokens, digest))
        if self.settings.stop.held_out_falls:
            self.keep_best(held_out, first)
        coef, past, before = self.steer_kl(number), self.past_examples(number), self.trainer.state.step
        with self.clock.measures(number, "train"):
            effective = self.train(folder, first, formed.examples, past, digest)
        state = self.trainer.state
        if isinstance(self.reference, MovingReference) and state.step > before:
            self.reference.move(whole_weights(self.policy.module))  # before the checkpoint, which holds it
        if (number + 1) % self.settings.loop.save_every == 0:
            self.trainer.checkpoints.commit(state, self.trainer.window)

        def close() -> Card:
            judgements = verdicts if self.learned is None else folder.gold or []
            history = self.trainer.recorder.history
            card = make_card(
                number,
                rows,
                initial,
                scores=own_scores(rows, judgements),
                held_out=held_out,
                num_examples=len(formed.examples),
                dropped=formed.dropped,
                statuses=sum((Counter(one["statuses"]) for one in judgements), Counter()),
                num_steps=state.step - first,
                losses=[line["loss"] for line in history if line["step"] > first and "loss" in line],
                tokens=spent_tokens(self, folder, rows, formed.examples, past, state.num_tokens - tokens),
                num_weights=num_weights(self.policy.module),
                recomputes=self.settings.model.gradient_checkpointing,
                cost=cost_of([*judgements, *measured]),
                engine=facts_of(folder.engine),
                kl_coef=coef,
                effective=effective,
                learned=folder.lesson,
            )
            folder.close(state.step, card)
            return card

        card = first_only(close)
        self.progress("rounds", number + 1, self.settings.loop.rounds, **figures(card))
        return card

    def initial_sums(self, rows: Sequence[AnswerRow]) -> list[float]:
        """Return the log-probability of each sample under the policy before the first round, a share each process."""
        sums = iter(self.initial.sums([tree_of(row) for row in share(rows, self.ranks)]))
        mine = [[next(sums) for _ in row.answers] for row in share(rows, self.ranks)]
        return [value for own in interleaved(self.ranks.gather(mine), len(rows)) for value in own]

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
                more = self.with_rivals(number, folder, own, self.prompts_of(number, refill))
            with self.clock.measures(number, "judge"):
                verdicts += self.ranks.first(partial(self.labelled, number, own, more, folder, refill))
            rows += own
            together += more
            groups, formed = self.form(number, together, verdicts)
            if loop.refills:
                formed = with_signal(formed, loop.prompts_per_round)
            if len(formed.examples) >= loop.prompts_per_round:
                break
        return rows, verdicts, groups, formed

    def draw(self, number: int, folder: RoundFolder, refill: int) -> Sequence[AnswerRow]:
        """Return the samples of the policy in a round, or in a refill of it."""
        chosen, settings = self.prompts_of(number, refill), self.settings
        drawn = self.draws.samples(number, refill, chosen, folder)
        if self.request.replay is None and self.trainer.state.step == self.start_of(folder)[0]:
            num_asked, account = settings.loop.n * len(chosen), self.draws.engine.account
            self.ranks.first(lambda: account(folder, refill, drawn, num_asked, settings.sampling))
        return drawn.rows

    def with_rivals(
        self, number: int, folder: RoundFolder, rows: Sequence[AnswerRow], prompts: Sequence[Prompt]
    ) -> list[JudgedRow]:
        """Return the samples of each prompt together with those of others."""
        rivals = self.draws.rivals(number, prompts, folder, rows)
        return with_rivals(rows, rivals, self.settings.rivals.who, self.of_data)

    def labelled(
        self, number: int, own: Sequence[AnswerRow], more: Sequence[JudgedRow], folder: RoundFolder, refill: int
    ) -> list[dict[str, Any]]:
        """Return what the judge says about samples, or the learned one, in the first process."""
        if self.learned is not None:
            return self.learned.judge(number, own, folder)
        return self.judged("train", [one.row for one in more], folder, refill)

    def form(
        self, number: int, rows: Sequence[JudgedRow], verdicts: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Group], Formed]:
        """Return the judged samples of each prompt, and their examples; none if no sample could change the policy."""
        settings = self.settings
        groups = groups_of(
            rows,
            verdicts,
            number,
            scale=1.0 if self.judge is None or settings.learned_judge.labels else self.judge.scale,
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
            rows, verdicts = self.ranks.first(partial(files_of, folder))
            together = self.with_rivals(earlier, folder, rows, self.prompts_of(earlier, 0))
            _, formed = self.form(earlier, together, verdicts or [])
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

    def prompts_of(self, number: int, refill: int) -> Sequence[Prompt]:
        """Return the prompts of a round or of a refill of it: the batch after those of all rounds before."""
        loop, prompts = self.settings.loop, self.prompts.prompts
        batch = number + refill
        if loop.refills:
            batch = refill + sum(card.num_prompts for card in self.cards[:number]) // loop.prompts_per_round
        places = prompts_of_round(batch, len(prompts), loop.prompts_per_round, self.prompts.digest, loop.seed)
        return [prompts[k] for k in places]

    def start_of(self, folder: RoundFolder) -> tuple[int, int]:
        """Return optimiser steps and trained tokens before a round: those noted when it began, else those of now."""
        begun, state = self.ranks.first(lambda: folder.start), self.trainer.state
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
            return behaviours_of(examples, self.ranks.first(partial(all_samples, folder, self.settings.loop.refills)))
        if is_past:
            return [[*logps] for logps in self.ranks.first(lambda: folder.old_logps(examples))]
        return [[None] * len(example.responses) for example in examples]

    def token_numbers(self, examples: Sequence[Example]) -> NDArray[np.float32]:
        """Return what `token_numbers_of` says of the policy of now, of which each process computes a share."""
        stepper = replace(self.trainer.stepper, module=self.trainer.policy)  # unwrapped: shares have unlike many packs
        mine = share(examples, self.ranks)
        parts = split_by_example(token_numbers_of(stepper, mine), mine) if mine else []
        return np.concatenate(interleaved(self.ranks.gather(parts), len(examples)), axis=1)

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
            known = self.ranks.first(lambda: folder.has_old_logps)
            computed = None if known else self.token_numbers(examples)
            examples = self.ranks.first(partial(folder.with_old_logps, examples, computed))
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


def card_of(folder: RoundFolder) -> tuple[Card | None, int | None]:
    """Return the card of a round and its last step; None if it is not closed."""
    return folder.card, folder.last_step


def all_samples(folder: RoundFolder, refills: int) -> list[AnswerRow]:
    """Return the samples of a round and of its refills."""
    paths = [folder.samples_of(refill) for refill in range(refills + 1)]
    return [row for path in paths if path.exists() for row in read_answers(path)]


def files_of(folder: RoundFolder) -> tuple[list[AnswerRow], list[dict[str, Any]] | None]:
    """Return the samples of a round and what the judge said about them."""
    return read_answers(folder.samples), folder.verdicts("train")


def split_by_example(numbers: NDArray[np.float32], examples: Sequence[Example]) -> list[NDArray[np.float32]]:
    """Return the columns of each example, of numbers of all scored tokens."""
    lengths = [sum(response.num_tokens for response in one.responses) for one in examples]
    return np.split(numbers, np.cumsum(lengths)[:-1], axis=1)


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
