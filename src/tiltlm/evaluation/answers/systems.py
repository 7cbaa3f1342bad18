"""Systems to compare: their answers to the same prompts, brought side by side.

Prompts are matched by their content, not by ids, so that outputs of other tools can be compared with ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from tiltlm.core import ConfigError, DataError
from tiltlm.data.distinct_prompts import prompt_digest
from tiltlm.data.rows.cells import Conversation
from tiltlm.sampling.answers import AnswerRow

REFUSALS = (
    *("i'm sorry", "i am sorry", "sorry, ", "i apologize", "my apologies", "unfortunately, i"),
    *("i can't", "i cannot", "i can not", "i'm unable", "i am unable", "i'm not able", "i am not able"),
    *("i won't", "i will not", "i must decline", "as an ai", "as a language model", "as an artificial intelligence"),
)
"""Openings that are counted as refusals, without regard to capitals. It is a plain list: it misses refusals in other
words and languages, and it counts an answer that only begins with an apology."""


def is_refusal(answer: str) -> bool:
    """Return whether an answer opens like a refusal."""
    return answer.strip().lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").startswith(REFUSALS)


@dataclass(frozen=True, eq=False)
class System:
    """A model, or anything else that answered prompts."""

    name: str
    """Short name, different from those of the other systems."""
    rows: tuple[AnswerRow, ...]
    """One row for each prompt and temperature."""
    trained_on: frozenset[str] | None = None
    """Keys of the prompts that it was trained on (`prompt_key`); None if that is not known."""
    labelled_by: frozenset[str] = frozenset()
    """Digests of the judges that made the labels it was trained on, as far as that is known."""

    @property
    def temperatures(self) -> tuple[float | None, ...]:
        """The temperatures of its answers, in ascending order; None stands for answers whose temperature is unknown."""
        found = {row.temperature for row in self.rows}
        return tuple(sorted(found, key=lambda t: (t is not None, t or 0.0)))


def prompt_key(prompt: str | Conversation) -> str:
    """Return the key that a prompt is matched by; one user turn is the same prompt as its text alone."""
    if not isinstance(prompt, str) and len(prompt) == 1 and prompt[0].get("role") == "user":
        content = prompt[0].get("content")
        prompt = content if isinstance(content, str) else prompt
    return prompt_digest(prompt.strip() if isinstance(prompt, str) else prompt)


@dataclass(frozen=True, eq=False)
class Aligned:
    """Rows of all systems by prompt and temperature."""

    systems: tuple[System, ...]
    prompts: tuple[str, ...]
    """Keys of the prompts, sorted: no number depends on the order of a file or of the systems."""
    temperatures: tuple[float | None, ...]
    """Temperatures that are compared. A system with a single setting takes part in all of them."""
    rows: Mapping[tuple[str, float | None, str], AnswerRow]
    """(system, temperature, prompt) → its answers."""


def align(systems: Sequence[System]) -> Aligned:
    """Bring the answers of systems side by side.

    Raises:
        ConfigError: there are fewer than two systems, two have one name, or their temperatures differ.
        DataError: a system has no answers or two rows for one prompt, or systems answered different prompts.
    """
    names = [system.name for system in systems]
    if len(systems) < 2:
        raise ConfigError("a comparison needs at least two systems", code="too_few_systems", key="systems")
    if len(set(names)) < len(names):
        raise ConfigError(
            f"two of the systems {', '.join(names)} have the same name; write NAME=PATH to give each its own",
            code="duplicate",
            key="systems",
        )
    tables = {system.name: _table(system) for system in systems}
    _check_prompts(tables)
    temperatures = _common_temperatures(systems)
    prompts = sorted({prompt for _, prompt in tables[names[0]]})
    rows = {}
    for system in systems:
        own = system.temperatures
        for temperature in temperatures:
            used = own[0] if len(own) == 1 else temperature
            for prompt in prompts:
                if (used, prompt) not in tables[system.name]:
                    raise DataError(
                        f"{system.name} has no answer at temperature {used} to a prompt that it answers at another "
                        "one; give a row for every prompt and temperature",
                        code="missing_value",
                        key="systems",
                        row=prompt,
                    )
                rows[system.name, temperature, prompt] = tables[system.name][used, prompt]
    return Aligned(tuple(systems), tuple(prompts), temperatures, rows)


def _table(system: System) -> dict[tuple[float | None, str], AnswerRow]:
    """Return a system's rows by temperature and prompt.

    Raises:
        DataError: there are none, or two for one prompt.
    """
    if not system.rows:
        raise DataError(f"{system.name} has no answers; there is nothing to compare", code="empty", key="systems")
    table: dict[tuple[float | None, str], AnswerRow] = {}
    for row in system.rows:
        key = row.temperature, prompt_key(row.prompt)
        if key in table:
            raise DataError(
                f"{system.name} has two rows for one prompt ({table[key].id} and {row.id}); put several answers to a "
                "prompt into one row",
                code="duplicate",
                key="systems",
                row=row.id,
            )
        table[key] = row
    return table


def _check_prompts(tables: Mapping[str, Mapping[tuple[float | None, str], AnswerRow]]) -> None:
    """Require that all systems answered the same prompts.

    Raises:
        DataError: they did not; the message names prompts of both.
    """
    named = {name: {prompt: row.id for (_, prompt), row in table.items()} for name, table in tables.items()}
    for (a, of_a), (b, of_b) in combinations(named.items(), 2):
        only = [[ids[prompt] for prompt in ids if prompt not in other] for ids, other in ((of_a, of_b), (of_b, of_a))]
        if only[0] or only[1]:
            said = " and ".join(
                f"{len(ids)} that only {name} answered ({', '.join(ids[:3])}{', …' * (len(ids) > 3)})"
                for name, ids in zip((a, b), only, strict=True)
                if ids
            )
            raise DataError(
                f"{a} and {b} have different prompts: {said}. Compare answers to the same prompts",
                code="other_prompts",
                key="systems",
                row=(only[0] + only[1])[0],
            )


def _common_temperatures(systems: Sequence[System]) -> tuple[float | None, ...]:
    """Return the temperatures to compare at.

    Raises:
        ConfigError: two systems have several temperatures each, and not the same ones.
    """
    several = [system for system in systems if len(system.temperatures) > 1]
    for system in several[1:]:
        if system.temperatures != several[0].temperatures:
            raise ConfigError(
                f"{several[0].name} has answers at temperatures {several[0].temperatures}, {system.name} at "
                f"{system.temperatures}; sample both at the same ones",
                code="other_temperatures",
                key="temperatures",
            )
    if several:
        return several[0].temperatures
    found = {system.temperatures[0] for system in systems}
    return (found.pop(),) if len(found) == 1 else (None,)
