"""The folder of a loop's rounds: what each of them drew, judged, made and measured, and how far it came.

`rounds/0003/` holds `samples.jsonl.gz` and `rivals.jsonl.gz` (rows of answers), `verdicts.jsonl` (what the judge says
about each prompt; that of a held-out judge is beside it), `examples.jsonl` (what was trained on, by the ids of the
samples), `old-logps.npy` (log-probabilities of the samples' tokens when the round began, for policy gradients of
several steps, and values with a critic), `engine.json` (of an engine that is not exact: its weights, what it did not
give, and how far its log-probabilities are from the policy's), `card.json` and `state.json`. A learned judge adds
`bought.jsonl` (which pairs the judge labelled), `gold-verdicts.jsonl` (what it said) and `learned.json` (what the
learned judge took from it); then `verdicts.jsonl` is what the learned judge says. Files are written whole. Every number
of a round can be computed again from them.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiltlm.core.errors import RunError
from tiltlm.core.example import Example
from tiltlm.data.order import epoch_order
from tiltlm.judging.judge import Role
from tiltlm.online.cards import Card, Lesson
from tiltlm.online.groups import Group
from tiltlm.sampling.answers import write_plain_rows
from tiltlm.storage.files import finite_json, read_json, read_lines, write_bytes, write_json

Floats32 = NDArray[np.float32]


@dataclass(frozen=True)
class RoundFolder:
    """The files of one round."""

    path: Path

    @classmethod
    def of(cls, run: Path, number: int) -> "RoundFolder":
        """Return the folder of a round, which is made if it is new."""
        path = run / "rounds" / f"{number:04d}"
        path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    @property
    def samples(self) -> Path:
        """The samples, as a file of answers."""
        return self.path / "samples.jsonl.gz"

    @property
    def rivals(self) -> Path:
        """The samples of others than the policy, as a file of answers."""
        return self.path / "rivals.jsonl.gz"

    def samples_of(self, refill: int) -> Path:
        """Return the file of the samples of a refill of the round; 0: of its first batch of prompts."""
        return self.path / f"samples-{refill}.jsonl.gz" if refill else self.samples

    @property
    def answers(self) -> list[Path]:
        """All files of answers: of the policy, of rivals, critiques and revisions."""
        return sorted(self.path.glob("*.jsonl.gz"))

    @property
    def start(self) -> tuple[int, int] | None:
        """Optimiser steps and trained tokens before this round; None if its training has not begun."""
        state = self._state
        return (state["first_step"], state["first_tokens"]) if "first_step" in state else None

    @property
    def old_numbers(self) -> Floats32 | None:
        """What the policy said of every scored token when the round began; see `with_old_logps`."""
        path = self.path / "old-logps.npy"
        return np.load(path) if path.exists() else None

    def write_old_numbers(self, numbers: Floats32) -> None:
        """Write what the policy says of every scored token before the round trains, so a resumed round can read it."""
        buffer = io.BytesIO()
        np.save(buffer, numbers)
        write_bytes(self.path / "old-logps.npy", buffer.getvalue())

    @property
    def last_step(self) -> int | None:
        """Optimiser steps after this round; None if it is not closed."""
        return self._state.get("last_step")

    @property
    def _state(self) -> dict[str, Any]:
        return read_json(self.path / "state.json") or {}

    def begin_training(self, step: int, tokens: int, examples: str) -> None:
        """Note that training on these examples begins after so many steps and tokens."""
        write_json(self.path / "state.json", {"first_step": step, "first_tokens": tokens, "examples": examples})

    def close(self, step: int, card: Card) -> None:
        """Write the card, and note that the round is done."""
        write_json(self.path / "card.json", finite_json(card.as_dict()))
        write_json(self.path / "state.json", {**self._state, "last_step": step})

    @property
    def card(self) -> Card | None:
        """The card; None if the round is not closed."""
        values = None if self.last_step is None else read_json(self.path / "card.json")
        return None if values is None else Card.of(values)

    @property
    def engine(self) -> dict[str, Any]:
        """What was noted about an engine that is not exact; empty for the own sampler."""
        return read_json(self.path / "engine.json") or {}

    def note_engine(self, **facts: Any) -> None:
        """Note facts about the engine that draws this round, as plain values."""
        write_json(self.path / "engine.json", finite_json({**self.engine, **facts}))

    def copy_draws(self, other: "RoundFolder", *, learns: bool = False) -> None:
        """Copy samples and verdicts of another round, if this one has none yet.

        Args:
            other: The folder of the other round.
            learns: A learned judge will label them: copy what the judge said to it, and not what it said itself.

        Raises:
            RunError: The disk is full, or a file cannot be written.
        """
        left = "verdicts.jsonl" if learns else "gold-verdicts.jsonl"
        judged = sorted(path.name for path in other.path.glob("*verdicts*.jsonl") if path.name != left)
        others = ("engine.json", *(["bought.jsonl"] if learns else []))
        for name in (*judged, *others, *(path.name for path in other.answers)):  # samples are the last to come
            if (other.path / name).exists() and not (self.path / name).exists():
                write_bytes(self.path / name, (other.path / name).read_bytes())

    def write_verdicts(self, verdicts: Sequence[Mapping[str, Any]], role: Role, refill: int = 0) -> None:
        """Write one line for each prompt, from the judge with this role."""
        write_plain_rows(self._verdicts(role, refill), verdicts)

    def verdicts(self, role: Role, refill: int = 0) -> list[dict[str, Any]] | None:
        """Return what `write_verdicts` wrote; None if the judge with this role has not judged the round."""
        return _lines(self._verdicts(role, refill))

    def _verdicts(self, role: Role, refill: int) -> Path:
        name = "verdicts" if role == "train" else "held-out-verdicts"
        return self.path / (f"{name}-{refill}.jsonl" if refill else f"{name}.jsonl")

    def write_bought(self, pairs: Sequence[Mapping[str, Any]]) -> None:
        """Write which pairs the judge labels, one line each: `id` of the prompt, `pair` of places, `gap`."""
        write_plain_rows(self.path / "bought.jsonl", pairs)

    @property
    def bought(self) -> list[dict[str, Any]] | None:
        """What `write_bought` wrote; None if no pairs were chosen."""
        return _lines(self.path / "bought.jsonl")

    def write_gold(self, verdicts: Sequence[Mapping[str, Any]]) -> None:
        """Write what the judge said about the bought pairs, one line each."""
        write_plain_rows(self.path / "gold-verdicts.jsonl", verdicts)

    @property
    def gold(self) -> list[dict[str, Any]] | None:
        """What the judge said about the bought pairs; None if it was not asked."""
        return _lines(self.path / "gold-verdicts.jsonl")

    def write_lesson(self, lesson: Lesson) -> None:
        """Note what the learned judge learned."""
        write_json(self.path / "learned.json", asdict(lesson))

    @property
    def lesson(self) -> Lesson | None:
        """What the learned judge learned; None if it has not learned in this round."""
        values = read_json(self.path / "learned.json")
        return None if values is None else Lesson(**{**values, "agrees": tuple(values["agrees"])})

    def write_examples(self, groups: Sequence[Group], examples: Sequence[Example]) -> str:
        """Write the examples by the ids of their samples, and return their digest.

        Of samples with the same tokens the first one is named.

        Raises:
            RunError: Training of this round began on other examples; they are kept.
        """
        names: dict[tuple[bytes, tuple[bytes, bytes]], str] = {}
        for group in groups:
            for sample in group.samples:
                names.setdefault((group.prompt_ids.tobytes(), sample.response.key), sample.id)
        rows = []
        for example in examples:
            row: dict[str, Any] = {
                "id": example.id,
                "samples": [names[example.prompt_ids.tobytes(), response.key] for response in example.responses],
            }
            if example.comparisons:
                row["comparisons"] = [[c.chosen, c.rejected, c.preference, c.offset] for c in example.comparisons]
            if example.scores:
                row["scores"] = list(example.scores)
            if example.credits:
                row["advantages"] = [credit.advantage for credit in example.credits]
            rows.append(row)
        digest = blake2b(json.dumps(finite_json(rows)).encode(), digest_size=8).hexdigest()
        known = self._state.get("examples")
        if known not in (None, digest):
            raise RunError(
                f"{self.path}: training began on other examples ({known}) than the settings now make from the same "
                f"samples ({digest}). Restore the settings of `examples`, or start again with --overwrite",
                code="other_examples",
                key="examples.rule",
            )
        write_plain_rows(self.path / "examples.jsonl", rows)
        return digest


def with_old_logps(examples: Sequence[Example], numbers: Floats32) -> list[Example]:
    """Return the examples of rollouts with what policy and critic said of their tokens when the round began.

    Args:
        examples: The examples of the round.
        numbers: [1, M] the log-probability of every scored token of all samples, in their order; with a critic
            [2, M], the values too.
    """
    place, found = 0, []
    for example in examples:
        credits = []
        for response, credit in zip(example.responses, example.credits, strict=True):
            end = place + response.num_tokens
            logps, *values = numbers[:, place:end]
            credits.append(replace(credit, old_logps=logps, old_values=values[0] if values else None))
            place = end
        found.append(replace(example, credits=tuple(credits)))
    assert place == numbers.shape[1], "the numbers belong to these examples, whose digest was compared"
    return found


def old_logps(examples: Sequence[Example], numbers: Floats32) -> list[list[Floats32]]:
    """Return the log-probabilities in such numbers for the first examples of a round: [T] for each sample."""
    if not examples:
        return []
    lengths = [response.num_tokens for example in examples for response in example.responses]
    pieces = iter(np.split(numbers[0, : sum(lengths)], np.cumsum(lengths)[:-1]))
    return [[next(pieces) for _ in example.responses] for example in examples]


def _lines(path: Path) -> list[dict[str, Any]] | None:
    return read_lines(path) if path.exists() else None


def prompts_of_round(number: int, num_prompts: int, per_round: int, fingerprint: str, seed: int) -> list[int]:
    """Return the places of the prompts of a round: a pure function, so resuming needs only the round's number.

    Each pass over the data has its own order, and as many whole rounds as fit.

    Args:
        number: The round, from 0.
        num_prompts: Prompts of the data.
        per_round: Prompts of a round, at most `num_prompts`.
        fingerprint: Digest of the prompts.
        seed: Another seed gives another order.
    """
    pass_number, place = divmod(number, num_prompts // per_round)
    order = epoch_order(num_prompts, fingerprint, seed, pass_number)
    return [int(k) for k in order[place * per_round : (place + 1) * per_round]]


def seed_of(name: str, seed: int) -> int:
    """Return the seed of the samples of this name; each name has another one, so that equal models draw apart."""
    digest = blake2b(f"{seed}/{name}".encode(), digest_size=4).digest()
    return int(np.frombuffer(digest, dtype="<u4")[0])
