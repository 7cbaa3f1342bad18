"""The loop: draw samples, judge them, make examples, train, and again with the policy that came out.

Every file of a round is written whole, and everything that follows from it is a pure function. So a loop that was
stopped goes on where it was, and then gives the same bytes as one that was not.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

from tiltlm.core.example import Response
from tiltlm.data.dataset import survey
from tiltlm.data.distinct_prompts import Prompt, PromptSet, find_prompts
from tiltlm.data.files.sources import read_rows
from tiltlm.data.rows.columns import detect_prompts
from tiltlm.diagnostics import Interval
from tiltlm.distributed import Ranks
from tiltlm.distributed.sharding import Sharding
from tiltlm.evaluation.answers.contests import text_of
from tiltlm.judging import (
    JudgementCache,
)
from tiltlm.judging.roles import RULES, has_audit
from tiltlm.logprobs import PolicyModule
from tiltlm.models import Policy, load_policy
from tiltlm.models.folders import check_reachable, locate, short_name
from tiltlm.objectives import Objective, compose, describe_spec
from tiltlm.objectives.shapes.rollouts import PolicyGradient
from tiltlm.online.cards import Card, make_card, reward_of
from tiltlm.online.examples.rules import Formed, form_examples, with_signal
from tiltlm.online.groups import Group
from tiltlm.online.ledger import Clock
from tiltlm.online.rounds import RoundFolder, prompts_of_round, seed_of
from tiltlm.online.stopping import Stop, find_stop
from tiltlm.recipes.engines.policy_folders import PolicyFolders
from tiltlm.recipes.engines.synced_server import PROBES, SyncedServer
from tiltlm.recipes.online.drawing.draws import Draws, interleaved, responses_of_data, reviser_of, share
from tiltlm.recipes.online.drawing.loop_engines import LoopEngine, facts_of
from tiltlm.recipes.online.judging.judges import Judges, open_training_judge
from tiltlm.recipes.online.judging.learned_judge import load_learned_judge
from tiltlm.recipes.online.judging.verdicts import (
    JudgedRow,
    cost_of,
    groups_of,
    own_scores,
    scores_of,
    with_rivals,
)
from tiltlm.recipes.online.loop_checks import check_loop
from tiltlm.recipes.online.loop_run import LoopRequest, LoopRunSettings
from tiltlm.recipes.online.looped import LoopedRun
from tiltlm.recipes.online.request_checks import (
    check_engine,
    check_request,
    describe,
    open_held_out,
    recorded_rounds,
    warn_uncorrected,
)
from tiltlm.recipes.online.round_tokens import num_weights, spent_tokens, tree_of
from tiltlm.recipes.online.round_training import RoundExamples, RoundTraining
from tiltlm.recipes.prepare import encoder_of, note_all
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.train import listener, origin_of, refuse_different, save_together
from tiltlm.reference import Reference, model_digest
from tiltlm.reference.build import build_round_references
from tiltlm.reference.model import ModelReference
from tiltlm.reference.moving import MovingReference
from tiltlm.report import to_plain
from tiltlm.report.studies.rounds import SHOWN, LoopRecord, write_rounds
from tiltlm.runs import RunDirectory, run_log
from tiltlm.runs.chat import Chat
from tiltlm.sampling.answers import AnswerRow, read_answers
from tiltlm.training import build_trainer
from tiltlm.training.guards import explained_stop
from tiltlm.training.optim.optimizer import learning_rate_factor, whole_weights

log = logging.getLogger(__name__)


def loop(settings: LoopRunSettings, request: LoopRequest, *, progress: ProgressCallback = silent) -> LoopedRun:
    """Run the rounds of a loop, save the policy and write the page.

    Raises:
        TiltError: something is wrong; what can be seen before a model is loaded is refused then.
    """
    ranks = Ranks.join()
    objective = compose(settings.objective)
    check_loop(settings, objective)
    check_engine(settings, request)
    sharding = Sharding.of(settings.training.parallelism, ranks)
    with run_log() as messages:
        policy: Policy | None = None
        if request.is_own_judge:
            policy = open_policy(settings, objective, progress, ranks, sharding)
        progress("load the judge", 0, 0)
        judge = open_training_judge(request, policy, ranks)
        check_request(settings, request, objective, judge)
        measuring = open_held_out(request.held_out_judge, judge)
        policy = policy or open_policy(settings, objective, progress, ranks, sharding)
        pupil = load_learned_judge(settings, measuring)
        prompts = read_prompts(settings, policy)
        refuse_different({"prompts": prompts.digest, "model": model_digest(policy.module)}, ranks)
        with (
            explained_stop("what is done is kept. Continue with --resume"),
            RunDirectory.open(
                settings.output, resume=request.resume, overwrite=request.overwrite, ranks=ranks, waits=request.waits
            ) as run,
            JudgementCache() as cache,
        ):
            if ranks.is_first:
                messages.write_to(run.path)
            judges = Judges.of(request, policy, judge, measuring, cache, progress, ranks)
            rounds = Rounds.of(run, settings, request, objective, policy, prompts, judges, progress, ranks)
            if ranks.is_first and pupil is not None:
                judges.add_learned(pupil, run, rounds.settings, prompts.digest)
            return rounds.run_all(resume=request.resume)


def open_policy(
    settings: LoopRunSettings,
    objective: Objective,
    progress: ProgressCallback,
    ranks: Ranks,
    sharding: Sharding | None,
) -> Policy:
    """Load the model that is trained, with the value head of a critic if the objective has one."""
    progress("load model and data", 0, 0)
    check_reachable(locate(settings.model.path, settings.model.adapter))
    has_critic = isinstance(objective, PolicyGradient) and objective.critic is not None
    add = partial(PolicyModule.add_value_head, shares_body=settings.critic.shares_body) if has_critic else None
    policy = load_policy(settings.model, ranks.device, sharding=sharding, add=add)
    note_all(policy.notes)
    return policy


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


def open_engine(
    run: RunDirectory, settings: LoopRunSettings, policy: Policy, prompts: PromptSet, ranks: Ranks
) -> LoopEngine:
    """Return the engine that draws samples, with the folders through which a server gets the weights."""
    whole = settings.engine.sync == "full"
    folders = PolicyFolders(run.path.absolute() / "sync", policy, prompts.encoder, prompts.end_token_id, whole)
    probes = [prompt.token_ids for prompt in prompts.prompts[:PROBES]]
    seed = seed_of("probe", settings.loop.seed)
    server = SyncedServer(settings.engine, policy, folders, probes, settings.sampling.max_new_tokens, seed, ranks)
    return LoopEngine(settings.engine, policy, server, run.path, ranks)


@dataclass(eq=False)
class Rounds:
    """A loop in progress, with all its parts."""

    run: RunDirectory
    settings: LoopRunSettings
    request: LoopRequest
    policy: Policy
    prompts: PromptSet
    judges: Judges
    reference: Reference
    """That of the objective."""
    initial: ModelReference
    """The policy before the first round."""
    training: RoundTraining
    progress: ProgressCallback
    clock: Clock
    """What the phases took."""
    of_data: Mapping[bytes, tuple[Response, str]]
    """Tokens of a prompt → the response that the data has, and its text; empty unless it is a rival."""
    draws: Draws
    """Who speaks."""
    ranks: Ranks
    cards: list[Card] = field(default_factory=list)
    """The card of each round that is done."""

    @classmethod
    def of(
        cls,
        run: RunDirectory,
        settings: LoopRunSettings,
        request: LoopRequest,
        objective: Objective,
        policy: Policy,
        prompts: PromptSet,
        judges: Judges,
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
        Chat(prompts.encoder.given_template, prompts.end_token_id).write(run)
        origin = origin_of(policy, model_digest(policy.module))
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
            schedule=learning_rate_factor(settings.training, settings.planned_steps),
            value_learning_rate=settings.critic.value_learning_rate,
            origin=origin,
        )
        of_data = responses_of_data(settings, policy) if settings.rivals.data else {}
        reviser = reviser_of(settings, policy, prompts) if settings.rivals.revisions else None
        clock = Clock(run.path / "ledger.jsonl", writes=ranks.is_first)
        if isinstance(objective, PolicyGradient):
            warn_uncorrected(settings)
        engine = open_engine(run, settings, policy, prompts, ranks)
        draws = Draws(settings, prompts, policy, engine, reference, reviser, ranks, progress)
        parts = (
            judges,
            reference,
            initial,
            RoundTraining(settings, trainer, ranks),
            progress,
            clock,
            of_data,
            draws,
            ranks,
        )
        return cls(run, settings, request, policy, prompts, *parts)

    def run_all(self, *, resume: bool) -> LoopedRun:
        """Run all rounds that are not done, save the policy and return what came out."""
        training, cards = self.training, self.cards
        if resume:
            training.trainer.restore()
        if self.settings.stop.held_out_falls and training.step == 0:
            training.commit()  # the best round may be the first
        stop: Stop | None = None
        try:
            while stop is None and len(cards) < self.settings.loop.rounds:
                folder = RoundFolder.of(self.run.path, len(cards))
                card, last_step = self.ranks.first(partial(card_of, folder))
                known = card if (last_step or 0) <= training.step else None
                cards.append(known or self.run_round(len(cards), folder))
                stop = find_stop(cards, self.settings.stop, self.ranks.first(lambda: self.clock.hours))
            training.commit()
            training.trainer.checkpoints.wait()
        finally:
            training.trainer.close()
        stop = stop or Stop("rounds", "all rounds are done")
        log.info("the loop ends: %s", stop.text, extra={"event": "loop_stopped", "rule": stop.rule})
        if stop.best is not None:
            best, _ = training.start_of(RoundFolder.of(self.run.path, stop.best))
            training.trainer.checkpoints.restore_weights(best)
        prompts = self.prompts
        save_together(self.policy, prompts.encoder, prompts.end_token_id, self.run.path, self.ranks)
        self.ranks.first(lambda: self.conclude(cards, stop))
        return LoopedRun(self.run.path, self.request.preset, tuple(cards), stop)

    def conclude(self, cards: Sequence[Card], stop: Stop) -> None:
        """Write a learned judge and the page, in the first process."""
        if self.judges.learned is not None:
            self.judges.learned.save(len(cards))
        write_rounds(self.run.path, self.record(cards, stop))

    def record(self, cards: Sequence[Card], stop: Stop) -> LoopRecord:
        """Return what the page shows."""
        settings, judges = self.settings, self.judges
        facts = {
            "Model": short_name(settings.model.path),
            "Judge": "none" if judges.training is None else judges.training.name,
            **({} if judges.learned is None else {"Learned judge": judges.learned.description}),
            "Held-out judge": "none" if judges.held_out is None else judges.held_out.name,
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
        warmup = int(settings.planned_steps * settings.training.warmup_ratio)
        in_warmup = not settings.loop.restarts and self.training.step < warmup
        return LoopRecord(facts, tuple(cards), stop.rule, stop.text, samples, *known, in_warmup)

    def run_round(self, number: int, folder: RoundFolder) -> Card:
        """Run one round, or what is missing of it, and return its card. Only the first process touches files."""
        replay, first_only = self.request.replay, self.ranks.first
        if replay is not None:
            learns = bool(self.settings.learned_judge.labels)
            first_only(lambda: folder.copy_draws(RoundFolder.of(replay, number), learns=learns))
        training = self.training
        first, tokens = training.start_of(folder)
        rows, verdicts, groups, formed = self.gather(number, folder)
        digest = first_only(lambda: folder.write_examples(groups, formed.examples))
        with self.clock.measures(number, "measure"):
            initial = self.initial_sums(rows) if replay is None else None  # others' samples say nothing about its KL
        measured = self.judges.judge("held_out", rows, folder)
        held_out = reward_of(scores_of(measured))
        first_only(lambda: folder.begin_training(first, tokens, digest))
        if self.settings.stop.held_out_falls:
            self.keep_best(held_out, first)
        coef, past, before = training.steer_kl(self.cards[:number]), self.past_examples(number), training.step
        with self.clock.measures(number, "train"):
            effective = training.train(folder, first, formed.examples, past, digest)
        state = training.trainer.state
        if isinstance(self.reference, MovingReference) and state.step > before:
            self.reference.move(whole_weights(self.policy.module))  # before the checkpoint, which holds it
        if (number + 1) % self.settings.loop.save_every == 0:
            training.commit()

        def close() -> Card:
            judgements = verdicts if self.judges.learned is None else folder.gold or []
            history = training.trainer.recorder.history
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
                tokens=spent_tokens(
                    folder,
                    rows if replay is None else (),
                    [*formed.examples, *chain.from_iterable(earlier for _, earlier in past)],
                    has_own_reference=training.needs_reference and self.reference is not self.initial,
                    trained=state.num_tokens - tokens,
                ),
                num_weights=num_weights(self.policy.module),
                recomputes=self.settings.model.gradient_checkpointing,
                cost=cost_of([*judgements, *measured]),
                engine=facts_of(folder.engine),
                kl_coef=coef,
                effective=effective,
                learned=folder.lesson,
            )
            if card_of(folder)[0] is None:  # a round that is trained again has been sent
                training.trainer.recorder.add_round(card.as_dict(), state.step)
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
            step = first
        else:
            step, _ = self.training.start_of(RoundFolder.of(self.run.path, best[1]))
        self.training.trainer.checkpoints.kept = step

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
                verdicts += self.judges.label(number, own, more, folder, refill)
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
        if self.request.replay is None and self.training.step == self.training.start_of(folder)[0]:
            self.draws.engine.account(folder, refill, drawn, settings.loop.n * len(chosen), settings.sampling)
        return drawn.rows

    def with_rivals(
        self, number: int, folder: RoundFolder, rows: Sequence[AnswerRow], prompts: Sequence[Prompt]
    ) -> list[JudgedRow]:
        """Return the samples of each prompt together with those of others."""
        rivals = self.draws.rivals(number, prompts, folder, rows)
        return with_rivals(rows, rivals, self.settings.rivals.who, self.of_data)

    def form(
        self, number: int, rows: Sequence[JudgedRow], verdicts: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Group], Formed]:
        """Return the judged samples of each prompt, and their examples; none if no sample could change the policy."""
        settings = self.settings
        groups = groups_of(
            rows,
            verdicts,
            number,
            scale=1.0 if settings.learned_judge.labels else self.judges.scale,
            shaping=settings.shaping,
            max_tokens=settings.sampling.max_new_tokens,
        )
        past = [card.reward.estimate for card in self.cards[:number] if card.reward is not None]
        formed = form_examples(groups, settings.examples, past)
        objective = self.training.trainer.stepper.objective
        if isinstance(objective, PolicyGradient) and not any(map(objective.without_idle, formed.examples)):
            formed = Formed([], formed.dropped + Counter({"no_signal": len(formed.examples)}))
        return groups, formed

    def past_examples(self, number: int) -> list[RoundExamples]:
        """Return the examples of the rounds before, as many as `loop.past_rounds` says, made again from their files."""
        found: list[RoundExamples] = []
        for earlier in range(max(0, number - self.settings.loop.past_rounds), number):
            folder = RoundFolder.of(self.run.path, earlier)
            rows, verdicts = self.ranks.first(partial(files_of, folder))
            together = self.with_rivals(earlier, folder, rows, self.prompts_of(earlier, 0))
            _, formed = self.form(earlier, together, verdicts or [])
            own = [replace(example, id=f"{example.id} of round {earlier}") for example in formed.examples]
            found.append((folder, own))
        return found

    def prompts_of(self, number: int, refill: int) -> Sequence[Prompt]:
        """Return the prompts of a round or of a refill of it: the batch after those of all rounds before."""
        loop, prompts = self.settings.loop, self.prompts.prompts
        batch = number + refill
        if loop.refills:
            batch = refill + sum(card.num_prompts for card in self.cards[:number]) // loop.prompts_per_round
        places = prompts_of_round(batch, len(prompts), loop.prompts_per_round, self.prompts.digest, loop.seed)
        return [prompts[k] for k in places]


def card_of(folder: RoundFolder) -> tuple[Card | None, int | None]:
    """Return the card of a round and its last step; None if it is not closed."""
    return folder.card, folder.last_step


def files_of(folder: RoundFolder) -> tuple[list[AnswerRow], list[dict[str, Any]] | None]:
    """Return the samples of a round and what the judge said about them."""
    return read_answers(folder.samples), folder.verdicts("train")


def figures(card: Card) -> dict[str, float]:
    """Return the numbers of a card that are shown beside the progress bar."""
    return {
        name: value.estimate
        for name, value in (("reward", card.reward), ("held-out", card.held_out), ("kl", card.kl))
        if value is not None
    }
