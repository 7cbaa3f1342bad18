"""The loop: draw samples, judge them, make examples, train, and again with the policy that came out.

Every file of a round is written whole, and everything that follows from it is a pure function. So a loop that was
stopped goes on where it was, and then gives the same bytes as one that was not.
"""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tiltlm.core import ConfigError, Tree
from tiltlm.core.example import Example, Response
from tiltlm.data.dataset import load_data, survey
from tiltlm.data.distinct_prompts import PromptSet, find_prompts
from tiltlm.data.files.sources import read_rows
from tiltlm.data.rows.columns import detect_prompts
from tiltlm.distributed import Ranks
from tiltlm.evaluation.answers.contests import text_of
from tiltlm.judging import (
    Comparer,
    JudgementCache,
    JudgeSettings,
    Role,
    Scorer,
    build_judge,
    cached,
    check_roles,
    check_trains,
)
from tiltlm.judging.cache import CachedComparer, CachedScorer
from tiltlm.judging.roles import RULES, has_audit
from tiltlm.models import Policy, load_policy
from tiltlm.models.folders import check_reachable, locate, short_name
from tiltlm.objectives import Objective, compose, describe_spec
from tiltlm.online.cards import Card, make_card
from tiltlm.online.example_rules import form_examples
from tiltlm.online.rounds import RoundFolder, prompts_of_round, seed_of_round
from tiltlm.online.stopping import Stop, find_stop
from tiltlm.recipes.answers.sample import Call, Speaker, draw_answers
from tiltlm.recipes.answers.sample_settings import SampleRequest, SampleSettings
from tiltlm.recipes.answers.systems import open_judge, refuse_own_family
from tiltlm.recipes.online.judging import groups_of, judge_round
from tiltlm.recipes.online.loop_run import LoopRequest, LoopRunSettings
from tiltlm.recipes.online.looped import LoopedRun
from tiltlm.recipes.prepare import encoder_of, note_all
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.run_settings import is_set
from tiltlm.recipes.train import listener, save_model, versions
from tiltlm.reference import Reference
from tiltlm.reference.build import build_round_references
from tiltlm.reference.model import ModelReference
from tiltlm.reference.moving import MovingReference
from tiltlm.report import to_plain
from tiltlm.report.studies.rounds import SHOWN, LoopRecord, write_rounds
from tiltlm.runs import RunDirectory, run_log
from tiltlm.sampling.answers import AnswerRow, read_answers
from tiltlm.sampling.engines.own import OwnEngine
from tiltlm.training import Trainer, build_trainer
from tiltlm.training.optim.optimizer import learning_rate_factor, whole_weights

log = logging.getLogger(__name__)

FREE = frozenset({"loop.save_every", "output", "training.log_every", "training.keep_checkpoints", "training.trackers"})
"""Settings that may change when a loop goes on, as those of `stop` may; `loop.rounds` too, if the learning rate does
not depend on it."""


def loop(settings: LoopRunSettings, request: LoopRequest, *, progress: ProgressCallback = silent) -> LoopedRun:
    """Run the rounds of a loop, save the policy and write the page.

    Raises:
        TiltError: something is wrong; what can be seen before a model is loaded is refused then.
    """
    Ranks.single("loop")
    if request.replay is not None:
        recorded_rounds(request.replay)
    objective = compose(settings.objective)
    check_loop(settings, objective)
    with run_log() as messages:
        progress("load the judge", 0, 0)
        judge = None if request.judge is None else build_judge(request.judge, role="train")
        if request.judge is not None and judge is not None:
            check_trains(request.judge, judge, unaudited=request.unaudited)
        measuring = open_held_out(request.held_out_judge, judge)
        progress("load model and data", 0, 0)
        check_reachable(locate(settings.model.path, settings.model.adapter))
        policy = load_policy(settings.model)
        note_all(policy.notes)
        prompts = read_prompts(settings, policy)
        with (
            RunDirectory.open(settings.output, resume=request.resume, overwrite=request.overwrite) as run,
            JudgementCache() as cache,
        ):
            messages.write_to(run.path)
            asked = None if judge is None else cached(judge, cache)
            judges = asked, None if measuring is None else cached(measuring, cache)
            rounds = Rounds.of(run, settings, request, objective, policy, prompts, judges, progress)
            return rounds.run_all(resume=request.resume)


def check_loop(settings: LoopRunSettings, objective: Objective) -> None:
    """Refuse what the rule for examples, the objective and the sampling rule out together.

    Raises:
        ConfigError: they do not fit.
    """
    kind, n = settings.examples.kind, settings.loop.n
    if kind.shape != objective.shape:
        raise ConfigError(
            f"examples.rule={settings.examples.rule} makes {kind.shape}, and the objective trains on "
            f"{objective.shape}; change one of the two",
            code="wrong_data_shape",
            key="examples.rule",
        )
    if n < kind.min_samples or (kind.max_samples is not None and n > kind.max_samples):
        needed = f"exactly {kind.max_samples}" if kind.max_samples else f"at least {kind.min_samples}"
        raise ConfigError(
            f"loop.n is {n}, and examples.rule={settings.examples.rule} needs {needed} samples of each prompt",
            code="too_few_samples" if n < kind.min_samples else "too_many_samples",
            key="loop.n",
        )
    if settings.sampling.temperature == 0 and n > 1:
        raise ConfigError(
            "sampling.temperature is 0, so all samples of a prompt would be equal; set it above 0",
            code="out_of_range",
            key="sampling.temperature",
        )
    for name in ("best_metric", "early_stopping", "eval_every", "save_every", "max_steps"):
        if is_set(settings, f"training.{name}"):
            raise ConfigError(
                f"training.{name} has no effect: nothing is held out, and loop.rounds and loop.save_every say how long "
                "a loop is and when it saves; remove it",
                code="no_effect",
                key=f"training.{name}",
            )
    if settings.loop.reference == "reset" and settings.reference.name != "auto":
        raise ConfigError(
            f"reference.name={settings.reference.name} has no effect: loop.reference is reset; remove one of the two",
            code="no_effect",
            key="reference.name",
        )


def open_held_out(settings: JudgeSettings | None, judge: Scorer | Comparer | None) -> Scorer | None:
    """Return the judge that measures; None without settings.

    Raises:
        ConfigError: it compares, or is the judge that trains.
    """
    if settings is None:
        return None
    found = open_judge(settings)
    if not isinstance(found, Scorer):
        raise ConfigError(
            f"held_out_judge: {found.name} compares, and the samples of a round have no rival; use one that scores",
            code="not_supported",
            key="held_out_judge",
        )
    check_roles([found] if judge is None else [judge, found])
    return found


def describe(run: RunDirectory, settings: dict[str, Any]) -> None:
    """Write configuration and versions; of a loop that goes on, require the configuration that it began with.

    Raises:
        ConfigError: a setting differs that decides what is drawn, judged or trained.
    """
    path = run.path / "config.yaml"
    if path.exists():
        known, now = (flat(plain) for plain in (yaml.safe_load(path.read_text(encoding="utf-8")), settings))
        is_constant = now.get("training.schedule") == "constant" and now.get("training.warmup_ratio") == 0
        free = FREE | ({"loop.rounds"} if is_constant else set())
        for key in sorted(known.keys() | now.keys()):
            if known.get(key) != now.get(key) and key not in free and not key.startswith("stop."):
                raise ConfigError(
                    f"--resume: {key} was {known.get(key)} and is {now.get(key)}. Restore the setting, or start again "
                    "with --overwrite",
                    code="other_run",
                    key=key,
                )
    run.write_text("config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    run.write_json("versions.json", versions())


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found


def recorded_rounds(folder: Path) -> int:
    """Return how many rounds of a loop are done.

    Raises:
        ConfigError: there is none.
    """
    found = sorted((folder / "rounds").glob("[0-9]*"))
    number = 0
    while number < len(found) and RoundFolder(found[number]).last_step is not None:
        number += 1
    if number == 0:
        raise ConfigError(f"replay: {folder} holds no finished round of a loop", code="no_rounds", key="replay")
    return number


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


def responses_of_data(settings: LoopRunSettings, policy: Policy) -> dict[bytes, Response]:
    """Return the response that the data has to each prompt, the first of several, by the tokens of the prompt."""
    whole = replace(settings.data, eval_fraction=0.0)
    found: dict[bytes, Response] = {}
    for example in load_data(whole, encoder_of(policy), "demonstrations").train:
        found.setdefault(example.prompt_ids.tobytes(), example.responses[0])
    return found


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
    progress: ProgressCallback
    of_data: Mapping[bytes, Response]
    """Tokens of a prompt → the response that the data has; empty for rules that compare samples only."""
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
            is_needed=objective.needs_reference,
            resets=settings.loop.reference == "reset",
            max_tokens=settings.training.max_tokens,
        )
        describe(run, {**to_plain(settings), **request.judges})
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
        )
        of_data = responses_of_data(settings, policy) if "data" in settings.examples.kind.origins else {}
        return cls(run, settings, request, policy, prompts, *judges, reference, initial, trainer, progress, of_data)

    def run_all(self, *, resume: bool) -> LoopedRun:
        """Run all rounds that are not done, save the policy and return what came out."""
        if resume:
            self.trainer.restore()
        cards: list[Card] = []
        stop: Stop | None = None
        try:
            while stop is None and len(cards) < self.settings.loop.rounds:
                folder = RoundFolder.of(self.run.path, len(cards))
                known = folder.card if (folder.last_step or 0) <= self.trainer.state.step else None
                cards.append(known or self.run_round(len(cards), folder))
                stop = find_stop(cards, self.settings.stop)
            self.trainer.checkpoints.commit(self.trainer.state, self.trainer.window)
        finally:
            self.trainer.recorder.close()
        stop = stop or Stop("rounds", f"all {self.settings.loop.rounds} rounds are done")
        log.info("the loop ends: %s", stop.text, extra={"event": "loop_stopped", "rule": stop.rule})
        save_model(self.policy, self.prompts.encoder, self.prompts.end_token_id, self.run.path)
        write_rounds(self.run.path, self.record(cards, stop))
        return LoopedRun(self.run.path, self.request.preset, tuple(cards), stop)

    def record(self, cards: Sequence[Card], stop: Stop) -> LoopRecord:
        """Return what the page shows."""
        settings = self.settings
        facts = {
            "Model": short_name(settings.model.path),
            "Judge": "none" if self.judge is None else self.judge.name,
            "Held-out judge": "none" if self.measuring is None else self.measuring.name,
            "Preset": self.request.preset or "none",
            "Objective": describe_spec(settings.objective),
            "Examples": settings.examples.rule,
            "Prompts": f"{len(self.prompts.prompts):,}, {settings.loop.prompts_per_round:,} a round",
            "Samples of a prompt": f"{settings.loop.n}",
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
            folder.copy_draws(RoundFolder.of(self.request.replay, number))
        rows = self.draw(number, folder)
        verdicts = self.judged("train", rows, folder)
        scale = 1.0 if self.judge is None else self.judge.scale
        groups = groups_of(rows, verdicts, number, scale=scale, of_data=self.of_data)
        formed = form_examples(groups, self.settings.examples)
        digest = folder.write_examples(groups, formed.examples)
        is_own = self.request.replay is None  # samples of another policy say nothing about the KL of this one
        initial = self.initial.sums([tree_of(row) for row in rows]) if is_own else None
        first = self.train(folder, formed.examples, digest)
        if (number + 1) % self.settings.loop.save_every == 0:
            self.trainer.checkpoints.commit(self.trainer.state, self.trainer.window)
        step = self.trainer.state.step
        card = make_card(
            number,
            rows,
            groups,
            initial,
            held_out=scores_of(self.judged("held_out", rows, folder)),
            num_examples=len(formed.examples),
            dropped=formed.dropped,
            statuses=sum((Counter(one["statuses"]) for one in verdicts), Counter()),
            num_steps=step - first,
            losses=[line["loss"] for line in self.trainer.recorder.history if line["step"] > first and "loss" in line],
        )
        folder.close(step, card)
        self.progress("rounds", number + 1, self.settings.loop.rounds, **figures(card))
        return card

    def judged(self, role: Role, rows: Sequence[AnswerRow], folder: RoundFolder) -> list[dict[str, Any]]:
        """Return what a judge says about the samples of a round; nothing if there is none with this role."""
        judge = self.judge if role == "train" else self.measuring
        if judge is None:
            return []
        verdicts = folder.verdicts(role)
        if verdicts is None:
            refuse_own_family(judge.judge, self.request.judge if role == "train" else self.request.held_out_judge, rows)
            verdicts = judge_round(judge, rows, self.progress)
            folder.write_verdicts(verdicts, role)
        return verdicts

    def draw(self, number: int, folder: RoundFolder) -> tuple[AnswerRow, ...]:
        """Return the samples of a round: those on the disk, and the others drawn."""
        loop, sampling = self.settings.loop, self.settings.sampling
        places = prompts_of_round(
            number, len(self.prompts.prompts), loop.prompts_per_round, self.prompts.digest, loop.seed
        )
        chosen = replace(self.prompts, prompts=tuple(self.prompts.prompts[k] for k in places))
        request = SampleRequest(
            n=loop.n,
            temperatures=(sampling.temperature,),
            seed=seed_of_round(number, loop.seed),
            output=folder.samples,
            resume=True,
        )
        engine = OwnEngine(self.policy.module, f"{self.prompts.digest} round {number}")
        speaker = Speaker(engine, self.prompts.encoder, self.policy.end_token_ids)
        settings = SampleSettings(self.settings.model, self.settings.data, sampling)
        call = Call(settings, request, chosen, speaker, {sampling.temperature: sampling})
        return draw_answers(call, self.progress).rows

    def train(self, folder: RoundFolder, examples: Sequence[Example], digest: str) -> int:
        """Train on the examples of a round, and return the steps before it."""
        state = self.trainer.state
        begun = folder.first_step
        first = state.step if begun is None or begun > state.step else begun
        folder.begin_training(first, digest)
        if isinstance(self.reference, MovingReference) and state.step == first:
            self.reference.move(whole_weights(self.policy.module))
        if not examples:
            return first
        self.trainer.next_round(examples, digest, first)
        with self.trainer.stopping():
            if not self.is_prepared:
                self.trainer.prepare(check=state.step == 0)
                self.is_prepared = True
            self.trainer.run_to_end()
        return first


def scores_of(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return the scores of each prompt's samples, NaN where the judge failed."""
    return {one["id"]: [math.nan if value is None else value for value in one["scores"]] for one in verdicts}


def tree_of(row: AnswerRow) -> Tree:
    """Return the samples of a prompt for a forward."""
    assert row.prompt_ids is not None, "the sampler gives tokens"
    assert row.token_ids is not None, "the sampler gives tokens"
    return Tree(row.prompt_ids, tuple(Response(ids) for ids in row.token_ids))


def planned_steps(settings: LoopRunSettings) -> int:
    """Return the optimiser steps of a loop whose every prompt gives one example."""
    per_round = -(-settings.loop.prompts_per_round // settings.training.batch_size)
    return settings.loop.rounds * settings.training.num_epochs * per_round


def figures(card: Card) -> dict[str, float]:
    """Return the numbers of a card that are shown beside the progress bar."""
    return {
        name: value.estimate
        for name, value in (("reward", card.reward), ("held-out", card.held_out), ("kl", card.kl))
        if value is not None
    }
