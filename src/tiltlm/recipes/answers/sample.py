"""The sampling recipe: answers of a model to prompts, as a file that training and judges read."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from tiltlm.core import ConfigError
from tiltlm.core.notes import Note
from tiltlm.data import Encoder
from tiltlm.data.dataset import survey
from tiltlm.data.distinct_prompts import Prompt, PromptSet, find_prompts
from tiltlm.data.files.sources import Rows as DataRows
from tiltlm.data.files.sources import read_rows
from tiltlm.data.files.text_files import Row
from tiltlm.data.rows.columns import detect_prompts
from tiltlm.distributed import Ranks
from tiltlm.logprobs.selfcheck import Choice
from tiltlm.models import Policy, load_policy, load_tokenizer
from tiltlm.models.folders import check_reachable, locate
from tiltlm.recipes.answers.answers_file import AnswersFile, Rows, check_output, open_answers
from tiltlm.recipes.answers.sample_settings import SampleRequest, SampleSettings
from tiltlm.recipes.answers.samples import Samples
from tiltlm.recipes.prepare import encoder_of, note_all
from tiltlm.recipes.progress import ProgressCallback, silent
from tiltlm.recipes.run_settings import is_set
from tiltlm.reference import model_digest
from tiltlm.sampling import SamplingSettings
from tiltlm.sampling.answers import AnswerRow, read_answers, to_answers, to_plain
from tiltlm.sampling.engines import Engine, EngineAnswer
from tiltlm.sampling.engines.generate_batch import GenerateBatchEngine
from tiltlm.sampling.engines.own import OwnEngine
from tiltlm.sampling.engines.server import ServerEngine

log = logging.getLogger(__name__)

STOCK = Choice("padded", None, 0.0, 0.0)
"""Answers are drawn with the model's own attention, so no layout has to be found equal to it."""
Known = TypeVar("Known")
FIRST_ROWS = 1000
"""Rows whose columns are checked before the model is loaded."""


class Speaker(NamedTuple):
    """What answers: an engine, and how text becomes its tokens."""

    engine: Engine
    encoder: Encoder
    end_token_ids: tuple[int, ...]


def sample(
    settings: SampleSettings,
    request: SampleRequest,
    *,
    rows: Iterable[Row] | None = None,
    policy: Policy | None = None,
    progress: ProgressCallback = silent,
) -> Samples:
    """Draw answers to all distinct prompts of some data.

    The prompts are answered in chunks. A finished chunk is on the disk, so a call that was stopped is continued with
    `resume`. With an exact engine the file then equals that of an unbroken call, byte for byte.

    Args:
        settings: Model, data, sampling and engine.
        request: How many answers are drawn, and where they go.
        rows: The rows with the prompts, if they are in memory; None: those of `settings.data`.
        policy: The loaded model; None: `settings.model` is loaded.
        progress: Called with the number of answers that are drawn.

    Raises:
        ConfigError: The output exists, another process writes it, or the settings contradict each other.
        DataError: The prompts cannot be read.
        ModelError: The model cannot be used.
        RunError: A server failed, or the file cannot be written.
    """
    Ranks.single("sample")
    draws = {t: at_temperature(settings.sampling, t, len(request.temperatures)) for t in request.temperatures}
    check_output(request)
    found = read_rows(settings.data) if rows is None else rows
    detect_prompts(survey([islice(found, FIRST_ROWS)])[0], settings.data)
    speaker = speaker_of(settings, policy)
    prompts = find_prompts(
        found, settings.data, speaker.encoder, max_new_tokens=settings.sampling.max_new_tokens, limit=request.limit,
        too_long=request.too_long,
    )  # fmt: skip
    note_all([*(found.notes if isinstance(found, DataRows) else ()), *prompts.notes, *_notes(request)])
    return draw_answers(Call(settings, request, prompts, speaker, draws), progress)


def draw_answers(call: "Call", progress: ProgressCallback = silent, ranks: Ranks | None = None) -> Samples:
    """Draw the answers of a call that are not on the disk already, and return all of them.

    Args:
        call: What is drawn. With several processes they share the prompts of each chunk inside its engine.
        progress: Called with the number of answers that are drawn.
        ranks: Processes that draw together; all must call this function together, and rank 0 alone touches files. None:
            this one alone.
    """
    request, ranks = call.request, ranks or Ranks()
    if ranks.first(lambda: request.resume and request.output is not None and request.output.exists()):
        return ranks.first(lambda: _finished(request, call))
    with ExitStack() as stack:
        files: list[AnswersFile] = []  # one in rank 0, none in the others

        def begin() -> int:
            files.append(stack.enter_context(open_answers(request, call.identity)))
            return len(files[0].chunks)

        def end() -> tuple[Rows, Counter[str]]:
            files[0].finish()
            return files[0].rows, files[0].dropped

        num_finished = ranks.first(begin)
        for number, part in enumerate(call.parts[num_finished:], num_finished):
            chunk = call.answer(part, number, progress)
            ranks.first(partial(lambda rows, causes: files[0].append(rows, causes), *chunk))
        rows, dropped = ranks.first(end)
    if dropped:
        extra = {"event": "answers_dropped", "causes": dict(dropped)}
        log.warning("%d answers are missing: %s", dropped.total(), dict(dropped), extra=extra)
    answers = tuple(to_answers(Row(f"answers[{i}]", row)) for i, row in enumerate(rows))
    return Samples(answers, request.output, dict(dropped))


def at_temperature(settings: SamplingSettings, temperature: float, num_temperatures: int) -> SamplingSettings:
    """Return the settings at one of several temperatures. At 0 a truncation changes nothing, so it is left out.

    Raises:
        ConfigError: The only temperature is 0, and there is a truncation.
    """
    if temperature == 0 and num_temperatures > 1:
        return replace(settings, temperature=0.0, top_k=None, top_p=None, min_p=None)
    return replace(settings, temperature=temperature)


def speaker_of(settings: SampleSettings, policy: Policy | None) -> Speaker:
    """Load what the engine needs: the model, or for a server only its tokenizer.

    Raises:
        ConfigError: There is a setting for the weights of a model of which only the tokenizer is loaded.
    """
    engine = settings.engine
    if engine.is_server and not engine.score and policy is None:
        for key in ("model.dtype", "model.precision"):
            if is_set(settings, key):
                raise ConfigError(
                    f"{key} has no effect: the server has the weights, and only the tokenizer is loaded here; remove "
                    "it, or set engine.score=true",
                    code="no_effect",
                    key=key,
                )
        tokenizer, window, num_embeddings, _ = load_tokenizer(settings.model)
        encoder = Encoder(tokenizer, tokenizer.eos_token_id, window, num_embeddings=num_embeddings)
        ends = (tokenizer.eos_token_id,)
        return Speaker(ServerEngine.connect(engine, None, ""), encoder, ends)
    if policy is None:
        check_reachable(locate(settings.model.path, settings.model.adapter))
        policy = load_policy(settings.model, choice=STOCK)
    digest = model_digest(policy.module)
    made: Engine
    if engine.is_server:
        scores = engine.score
        made = ServerEngine.connect(engine, policy.module if scores else None, digest if scores else "")
    elif engine.name == "generate_batch":
        made = GenerateBatchEngine(policy.module, digest)
    else:
        made = OwnEngine(policy.module, digest)
    return Speaker(made, encoder_of(policy), policy.end_token_ids)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of the recipe: everything that decides its answers."""

    settings: SampleSettings
    request: SampleRequest
    prompts: PromptSet
    speaker: Speaker
    draws: Mapping[float, SamplingSettings]
    """Settings of each temperature."""

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal to continue an earlier call, as plain values."""
        return {
            **asdict(self.settings.sampling),
            "n": self.request.n,
            "temperatures": list(self.draws),
            "seed": self.request.seed,
            "engine": self.settings.engine.name,
            "engine.logprobs": self.settings.engine.logprobs,
            "model": self.settings.model.path,
            "model_digest": self.speaker.engine.digest,
            "prompts": self.prompts.digest,
        }

    @property
    def parts(self) -> list[Sequence[Prompt]]:
        """The prompts in chunks; one chunk with its answers is as large as a batch."""
        size, prompts = max(1, self.settings.sampling.max_rows // self.request.n), self.prompts.prompts
        return [prompts[start : start + size] for start in range(0, len(prompts), size)]

    def num_answers(self, temperature: float) -> int:
        """Return how many answers a prompt gets: at temperature 0 all would be equal, so one is drawn."""
        return self.request.n if temperature > 0 else 1

    def answer(
        self, part: Sequence[Prompt], number: int, progress: ProgressCallback
    ) -> tuple[list[dict[str, Any]], Counter[str]]:
        """Answer a chunk of prompts at all temperatures.

        Returns:
            Its rows as plain values, prompt by prompt, and the causes of missing answers.
        """
        ends = sorted({*self.speaker.end_token_ids, self.prompts.end_token_id})
        each = sum(map(self.num_answers, self.draws))
        before, total = number * len(self.parts[0]) * each, len(self.prompts.prompts) * each
        rows: list[list[dict[str, Any]]] = [[] for _ in part]
        dropped: Counter[str] = Counter()
        progress("sample", before, total)
        for temperature, drawn in self.draws.items():
            n = self.num_answers(temperature)
            batch = self.speaker.engine.draw(
                [prompt.token_ids for prompt in part],
                n,
                drawn,
                seed=self.request.seed,
                end_token_ids=ends,
                progress=lambda done, _, before=before: progress("sample", before + done, total),  # type: ignore[misc]
            )
            before += n * len(part)
            dropped += batch.dropped
            for own, prompt, answers in zip(rows, part, batch.answers, strict=True):
                own += [to_plain(self.row(prompt, answers, drawn))] if answers else []
        return [row for own in rows for row in own], dropped

    def row(self, prompt: Prompt, answers: Sequence[EngineAnswer], drawn: SamplingSettings) -> AnswerRow:
        """Return the row of a prompt at one temperature."""
        engine = self.speaker.engine
        return AnswerRow(
            id=prompt.id,
            prompt=prompt.content,
            answers=tuple(self.prompts.encoder.plain_text(answer.token_ids) for answer in answers),
            ended=tuple(answer.ended for answer in answers),
            prompt_ids=prompt.token_ids,
            token_ids=tuple(answer.token_ids for answer in answers),
            logps=_known([answer.logp for answer in answers]),
            behaviour_logps=_known([answer.behaviour_logp for answer in answers]),
            behaviour_token_logps=_known([answer.behaviour_token_logps for answer in answers]),
            temperature=drawn.temperature,
            seed=self.request.seed,
            model=self.settings.model.path,
            model_digest=engine.digest,
            engine=engine.name,
            exact=engine.is_exact,
            is_untruncated=not drawn.truncation,
            row=prompt.row,
        )


def _known(values: Sequence[Known | None]) -> tuple[Known, ...] | None:
    """Return the values; None if one is not known."""
    known = tuple(value for value in values if value is not None)
    return known if len(known) == len(values) else None


def _finished(request: SampleRequest, call: Call) -> Samples:
    """Return the answers that an earlier call of the same request has finished.

    Raises:
        ConfigError: The file holds other answers.
    """
    assert request.output is not None
    rows = tuple(read_answers(request.output))
    prompts = {prompt.id for prompt in call.prompts.prompts}
    expected = {"model_digest": call.speaker.engine.digest, "seed": request.seed, "engine": call.speaker.engine.name}
    wrong = [name for name, value in expected.items() if any(getattr(row, name) != value for row in rows)]
    wrong += ["temperatures"] * ({row.temperature for row in rows} != {*call.draws})
    wrong += ["n"] * (max((len(row.answers) for row in rows), default=0) > request.n)
    wrong += ["prompts"] * bool({row.id for row in rows} - prompts)
    if wrong:
        raise ConfigError(
            f"{request.output} is finished, and its answers differ from this call in {', '.join(wrong)}; replace it"
            " (--overwrite), or name another file",
            code="other_request",
            key=wrong[0],
        )
    log.info("%s is already finished", request.output, extra={"event": "answers_finished"})
    return Samples(rows, request.output)


def _notes(request: SampleRequest) -> list[Note]:
    notes = []
    if 0 in request.temperatures and request.n > 1:
        notes.append(Note("temperature 0 gives one answer to each prompt: all would be equal", code="greedy_once"))
    if request.output is None:
        notes.append(Note("the answers are not written to a file; output=FILE does that", code="not_written"))
    return notes
