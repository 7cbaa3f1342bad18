"""Revisions: the policy criticises its own answer by a principle, and writes it again."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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


def _nothing(prompts: Sequence[Prompt], path: Path) -> Sequence[AnswerRow]:
    del prompts, path
    return ()


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
    ask: Ask = _nothing

    def revise(self, rows: Sequence[AnswerRow], folder: Path) -> list[AnswerRow]:
        """Return the revision of the first sample of each row, in a row without answers where there is none.

        Args:
            rows: The samples of the policy.
            folder: Where critiques and revisions are kept.
        """
        drafts = {row.id: row.answers[0] for row in rows}
        texts = dict(drafts)
        for number in range(self.times):
            asked = {row.id: choose(self.principles, f"{row.id}/{number}", self.seed) for row in rows}
            critiques = self._asked(rows, texts, asked, {}, folder / f"critiques-{number}.jsonl.gz")
            texts = self._asked(rows, texts, asked, critiques, folder / f"revisions-{number}.jsonl.gz")
        causes: Counter[str] = Counter()
        found = [self._as_sample(row, drafts[row.id], texts.get(row.id), causes) for row in rows]
        if causes:
            extra = {"event": "not_revised", "causes": dict(causes)}
            log.info("%d of %d drafts have no revision: %s", causes.total(), len(rows), dict(causes), extra=extra)
        return found

    def _asked(
        self,
        rows: Sequence[AnswerRow],
        drafts: dict[str, str],
        principles: dict[str, Principle],
        critiques: dict[str, str],
        path: Path,
    ) -> dict[str, str]:
        """Return the critique of each draft; with critiques, its revision. Requests that are too long have none."""
        requests = []
        for row in rows:
            if row.id not in drafts or (critiques and row.id not in critiques):
                continue
            turns = [drafts[row.id], principles[row.id].asks_critique]
            if critiques:
                turns += [critiques[row.id], principles[row.id].asks_revision]
            content = self._request(row.prompt, turns)
            ids = self.prompts.encoder.encode_prompt(Record(row.id, row.id, content, ()))
            if len(ids) <= self.window:
                requests.append(Prompt(row.id, content, ids, row.id))
        if not requests:
            return {}
        return {answer.id: answer.answers[0].strip() for answer in self.ask(requests, path) if answer.answers}

    def _request(self, prompt: str | Conversation, turns: Sequence[str]) -> str | Conversation:
        """Return a prompt continued by turns of model and person in alternation, the last one the person's."""
        if self.wraps or not isinstance(prompt, str):
            first = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)
            roles = ("assistant", "user") * (len(turns) // 2)
            return first + tuple({"role": role, "content": text} for role, text in zip(roles, turns, strict=True))
        names = ("", *("\n\nRequest: ", "\n\nAnswer: ") * len(turns))
        return prompt + "".join(f"{name}{text}" for name, text in zip(names, (*turns, ""), strict=False))

    def _as_sample(self, row: AnswerRow, draft: str, revision: str | None, causes: Counter[str]) -> AnswerRow:
        """Return the revision as a sample of the row's prompt; without answers if it is not used."""
        cause = "too_long" if revision is None else why_not(draft, revision)
        if not cause and revision is not None:
            response = self._tokens(row, revision)
            if response is not None:
                return replace(
                    row, answers=(revision,), ended=(True,), token_ids=(response.token_ids,), logps=None,
                    behaviour_logps=None,
                )  # fmt: skip
            cause = "other_prompt"
        causes[cause] += 1
        return replace(row, answers=(), ended=(), token_ids=(), logps=None, behaviour_logps=None)

    def _tokens(self, row: AnswerRow, text: str) -> Response | None:
        """Return a text as a response to the row's own prompt; None if the prompt has other tokens with it."""
        assert row.prompt_ids is not None, "the sampler gives tokens"
        record = Record(row.id, row.id, row.prompt, (text,))
        if self.wraps or not isinstance(row.prompt, str):
            turns = ({"role": "user", "content": row.prompt},) if isinstance(row.prompt, str) else tuple(row.prompt)
            record = Record(row.id, row.id, turns, (({"role": "assistant", "content": text},),))
        encoded = self.prompts.encoder.encode(record)
        is_same = encoded.prompt_ids.tobytes() == row.prompt_ids.tobytes()
        return encoded.responses[0] if is_same else None
