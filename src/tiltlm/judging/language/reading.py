"""The rungs of the ladder: how each one asks a server, and how the reply is read.

A reply that is no answer is an error, never a number: text that cannot be read, one that was cut, a refusal,
probabilities that are none. `Unsupported` means that the server does not know this way of asking.
"""

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tiltlm.judging.language.question import Label, Mode, Question, Reply, read_masses
from tiltlm.judging.language.server import CHAT, DECISIONS
from tiltlm.judging.language.templates import by_probability, written

TOP = 20
"""Alternatives of the first token that are asked for; the most that servers give."""
MAX_QUESTIONS = 200
"""Questions of one decisions call."""


class Unsupported(Exception):
    """The server does not know this way of asking, or ignores it."""


class Unreadable(Exception):
    """The reply is no answer; the message says why."""


@dataclass(frozen=True)
class Sampling:
    """How a model writes its answer."""

    temperature: float
    max_new_tokens: int


class Rung(ABC):
    """One way to ask."""

    mode: ClassVar[Mode]
    route: ClassVar[str] = CHAT
    writes: ClassVar[bool] = False
    """True if the model writes its answer, so that drawing several answers makes sense."""
    together: ClassVar[int] = 1
    """Questions of one call."""

    @abstractmethod
    def body(self, questions: Sequence[Question], sampling: Sampling) -> dict[str, Any]:
        """Return the body of the request, without the model."""

    @abstractmethod
    def read(self, questions: Sequence[Question], body: Mapping[str, Any]) -> list[Reply]:
        """Return one reply for each question.

        Raises:
            Unsupported: The server ignored what was asked.
            Unreadable: The reply is no answer.
        """


class Decisions(Rung):
    """Probabilities of the answers, computed by the server; no text is generated."""

    mode = "decisions"
    route = DECISIONS
    together = MAX_QUESTIONS

    def body(self, questions: Sequence[Question], sampling: Sampling) -> dict[str, Any]:  # noqa: ARG002
        """Return one question after the other, about the same input."""
        return {"input": questions[0].data, "questions": [_decision(question) for question in questions]}

    def read(self, questions: Sequence[Question], body: Mapping[str, Any]) -> list[Reply]:
        """Return the probabilities of each question."""
        answers = body.get("answers")
        if not isinstance(answers, list) or len(answers) != len(questions):
            raise Unsupported(f"{DECISIONS} gave no list of {len(questions)} answers")
        return [_read_decision(q, answer) for q, answer in zip(questions, answers, strict=True)]


def _decision(question: Question) -> dict[str, Any]:
    if question.kind == "predicate":
        return {"type": "predicate", "instructions": question.task}
    name, place = ("value", "choices") if question.kind == "choice" else ("label", "levels")
    options = [{name: label.word, "description": label.meaning} for label in question.labels]
    return {"type": question.kind, "instructions": question.task, place: options}


def _read_decision(question: Question, answer: Any) -> Reply:
    try:
        if answer["type"] == "refusal":
            return Reply(error="the model refused to answer", finish_reason="refusal")
        if question.kind == "predicate":
            yes = float(answer["probability"])
            return read_masses({"yes": yes, "no": 1 - yes})
        name = "value" if question.kind == "choice" else "label"
        found = {str(entry[name]): float(entry["probability"]) for entry in answer["probabilities"]}
        return read_masses({label.word: found[label.word] for label in question.labels})
    except (KeyError, TypeError, ValueError) as error:
        return Reply(error=f"the decision cannot be read: {error!r} in {_short(answer)}")


class Logprobs(Rung):
    """Probabilities of the labels as the first token of the answer."""

    mode = "logprobs"

    def body(self, questions: Sequence[Question], sampling: Sampling) -> dict[str, Any]:  # noqa: ARG002
        """Return a request for one token and its alternatives, at temperature 1."""
        (question,) = questions
        return {
            "messages": _message(by_probability(question)),
            "max_tokens": 1,
            "temperature": 1.0,
            "logprobs": True,
            "top_logprobs": TOP,
        }

    def read(self, questions: Sequence[Question], body: Mapping[str, Any]) -> list[Reply]:
        """Return the normalised probabilities of the labels. Here the answer is meant to be cut after one token."""
        (question,) = questions
        choice = _choice(body)
        given = choice.get("logprobs")
        content = given.get("content") if isinstance(given, Mapping) else None
        if not content:
            raise Unsupported("the server gives no log-probabilities")
        try:
            found = [(str(entry["token"]), float(entry["logprob"])) for entry in content[0]["top_logprobs"]]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise Unreadable(f"the log-probabilities cannot be read: {error!r}") from error
        if not found:
            raise Unsupported("the server gives no alternatives of the first token")
        if any(math.isnan(logprob) or logprob > 1e-3 for _, logprob in found):
            raise Unreadable(f"log-probabilities that are none: {_short(found)}")
        masses = {label.word: _mass(label, found) for label in question.labels}
        return [replace(read_masses(masses), raw=str(content[0].get("token", "")))]


def _mass(label: Label, found: Sequence[tuple[str, float]]) -> float:
    """Return the probability of all tokens that spell a label: with a space before it or not; words in any case."""

    def key(text: str) -> str:
        return text.strip().casefold() if len(label.mark) > 1 else text.strip()

    return math.fsum(math.exp(logprob) for token, logprob in found if key(token) == key(label.mark))


class _Written(Rung):
    """The model writes its answer."""

    writes = True
    as_json: ClassVar[bool] = True

    def body(self, questions: Sequence[Question], sampling: Sampling) -> dict[str, Any]:
        """Return a request for a reason and an answer."""
        (question,) = questions
        asked = {
            "messages": _message(written(question, as_json=self.as_json)),
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
        }
        form = self.form(question)
        return asked if form is None else {**asked, "response_format": form}

    def form(self, question: Question) -> dict[str, Any] | None:  # noqa: ARG002
        """Return the `response_format` of the request; None for plain text."""
        return None

    def read(self, questions: Sequence[Question], body: Mapping[str, Any]) -> list[Reply]:
        """Return the answer that was written."""
        (question,) = questions
        choice = _choice(body)
        reason = str(choice.get("finish_reason") or "")
        message = choice.get("message")
        message = message if isinstance(message, Mapping) else {}
        text = message.get("content")
        text = text if isinstance(text, str) else ""
        if message.get("refusal") or reason == "content_filter":
            return [Reply(error="the model refused to answer", raw=text, finish_reason=reason)]
        if reason == "length":
            error = "the answer was cut before its end; raise judge.max_new_tokens"
            return [Reply(error=error, raw=text, finish_reason=reason)]
        found = self.find(question, text)
        if found is None:
            if self.as_json and not _is_object(text):
                raise Unsupported(f"the server was asked for JSON and gave {_short(text)}")
            return [Reply(error=f"no {question.field} in {_short(text)}", raw=text, finish_reason=reason)]
        word, rationale = found
        return [Reply(word=word, rationale=rationale, raw=text, finish_reason=reason)]

    def find(self, question: Question, text: str) -> tuple[str, str] | None:
        """Return label and reason in JSON; None if there is no label."""
        value = _parse(text)
        if not isinstance(value, Mapping):
            return None
        word = value.get(question.field)
        word = str(word).strip() if isinstance(word, str | int) and not isinstance(word, bool) else ""
        return (word, str(value.get("reason", ""))) if word in {label.word for label in question.written} else None


class Schema(_Written):
    """JSON under a schema that the server enforces."""

    mode = "schema"

    def form(self, question: Question) -> dict[str, Any]:
        """Return the schema: the reason comes first."""
        words = [label.word for label in question.written]
        schema = {
            "type": "object",
            "properties": {"reason": {"type": "string"}, question.field: {"type": "string", "enum": words}},
            "required": ["reason", question.field],
            "additionalProperties": False,
        }
        return {"type": "json_schema", "json_schema": {"name": question.field, "strict": True, "schema": schema}}


class JsonObject(_Written):
    """JSON of any form."""

    mode = "json"

    def form(self, question: Question) -> dict[str, Any]:  # noqa: ARG002
        """Return the wish for any JSON object."""
        return {"type": "json_object"}


class LastLine(_Written):
    """Text, whose last line is read."""

    mode = "regex"
    as_json = False

    def find(self, question: Question, text: str) -> tuple[str, str] | None:
        """Return the label on the last line that is not empty, and the text before it."""
        lines = [line for line in text.splitlines() if line.strip()]
        words = "|".join(re.escape(label.word) for label in question.written)
        pattern = rf"[\s*_#>`]*{question.field}[\s*_`]*:[\s*_`]*({words})[\s*_`.]*"
        match = re.fullmatch(pattern, lines[-1], re.IGNORECASE) if lines else None
        return None if match is None else (match[1].lower(), "\n".join(lines[:-1]))


LADDER: tuple[Rung, ...] = (Decisions(), Logprobs(), Schema(), JsonObject(), LastLine())
"""From the best way to ask to the plainest."""


def _message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _choice(body: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise Unreadable("the reply has no choice")
    return choices[0]


def _parse(text: str) -> Any:
    """Return the JSON value of a text, also in a block of code; None if there is none."""
    match = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n\s*```\s*", text, re.DOTALL)
    try:
        return json.loads(match[1] if match else text)
    except (ValueError, RecursionError):
        return None


def _is_object(text: str) -> bool:
    return isinstance(_parse(text), Mapping)


def _short(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 200 else f"{text[:200]}…")
