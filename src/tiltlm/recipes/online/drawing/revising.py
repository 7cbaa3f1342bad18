"""Revisions: the policy criticises its own answer by a principle, and writes it again."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tiltlm.core.example import Response
from tiltlm.data.distinct_prompts import Prompt, PromptSet
from tiltlm.data.rows.cells import Conversation
from tiltlm.data.rows.records import Record
from tiltlm.online.constitution import Principle, choose, why_not
from tiltlm.sampling.answers import AnswerRow

log = logging.getLogger(__name__)

Ask = Callable[[Sequence[Prompt], Path], Sequence[AnswerRow]]
"""Draws one answer to each of these prompts, or reads them from the file, where they are kept."""


@dataclass(frozen=True)
class Reviser:
    """What revises the drafts of a round."""

    prompts: PromptSet
    """The prompts of the loop."""
    principles: Sequence[Principle]
    times: int
    """Passes of critique and revision over each draft."""
    seed: int
    window: int
    """Most tokens of a request."""
    wraps: bool
    """True if a prompt of text is a user's turn."""

    def revise(self, rows: Sequence[AnswerRow], folder: Path, ask: Ask) -> list[AnswerRow]:
        """Return the revision of the first sample of each row, in a row without answers where there is none.

        Args:
            rows: The samples of the policy.
            folder: Where critiques and revisions are kept.
            ask: What answers the requests.
        """
        drafts = {row.id: row.answers[0] for row in rows}
        texts = dict(drafts)
        for number in range(self.times):
            asked = {row.id: choose(self.principles, f"{row.id}/{number}", self.seed) for row in rows}
            turns = {name: [text, asked[name].asks_critique] for name, text in texts.items()}
            critiques = self._answers(rows, turns, folder / f"critiques-{number}.jsonl.gz", ask)
            turns = {name: [*turns[name], text, asked[name].asks_revision] for name, text in critiques.items()}
            texts = self._answers(rows, turns, folder / f"revisions-{number}.jsonl.gz", ask)
        causes: Counter[str] = Counter()
        found = [self._as_sample(row, drafts[row.id], texts.get(row.id), causes) for row in rows]
        if causes:
            extra = {"event": "not_revised", "causes": dict(causes)}
            log.info("%d of %d drafts have no revision: %s", causes.total(), len(rows), dict(causes), extra=extra)
        return found

    def _answers(
        self, rows: Sequence[AnswerRow], turns: Mapping[str, Sequence[str]], path: Path, ask: Ask
    ) -> dict[str, str]:
        """Return the answers to prompts continued by these turns, by name; a request that is too long has none."""
        requests = []
        for row in rows:
            if row.id in turns:
                content = self._request(row.prompt, turns[row.id])
                ids = self.prompts.encoder.encode_prompt(Record(row.id, row.id, content, ()))
                if len(ids) <= self.window:
                    requests.append(Prompt(row.id, content, ids, row.id))
        answered = ask(requests, path) if requests else ()
        return {answer.id: answer.answers[0].strip() for answer in answered if answer.answers}

    def _request(self, prompt: str | Conversation, turns: Sequence[str]) -> str | Conversation:
        """Return a prompt continued by turns of model and person in alternation, the last one the person's."""
        first = self._conversation(prompt)
        if first is None:
            names = ("", *("\n\nRequest: ", "\n\nAnswer: ") * len(turns))
            return str(prompt) + "".join(f"{name}{text}" for name, text in zip(names, (*turns, ""), strict=False))
        roles = ("assistant", "user") * (len(turns) // 2)
        return first + tuple({"role": role, "content": text} for role, text in zip(roles, turns, strict=True))

    def _conversation(self, prompt: str | Conversation) -> Conversation | None:
        """Return a prompt in turns; None if it is plain text."""
        if not isinstance(prompt, str):
            return tuple(prompt)
        return ({"role": "user", "content": prompt},) if self.wraps else None

    def _as_sample(self, row: AnswerRow, draft: str, revision: str | None, causes: Counter[str]) -> AnswerRow:
        """Return the revision as a sample of the row's prompt; without answers if it is not used."""
        cause = "too_long" if revision is None else why_not(draft, revision)
        if not cause and revision is not None:
            response = self._tokens(row, revision)
            if response is not None:
                return row.with_answers((revision,), (True,), (response.token_ids,))
            cause = "other_prompt"
        causes[cause] += 1
        return row.with_answers((), (), ())

    def _tokens(self, row: AnswerRow, text: str) -> Response | None:
        """Return a text as a response to the row's own prompt; None if the prompt has other tokens with it."""
        assert row.prompt_ids is not None, "the sampler gives tokens"
        turns = self._conversation(row.prompt)
        record = (
            Record(row.id, row.id, row.prompt, (text,))
            if turns is None
            else Record(row.id, row.id, turns, (({"role": "assistant", "content": text},),))
        )
        encoded = self.prompts.encoder.encode(record)
        is_same = encoded.prompt_ids.tobytes() == row.prompt_ids.tobytes()
        return encoded.responses[0] if is_same else None
