"""The packs that a run will cut, by the trainer's own planner for this data, this batch size and these processes.

Where there is no data, examples with typical lengths stand for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tiltlm.core.errors import ConfigError
from tiltlm.core.example import Comparison, Example, Response, token_ids
from tiltlm.core.forest import Tree
from tiltlm.reference.reference_packs import contexts_and_responses, reference_packs
from tiltlm.training.packs import cut_into_packs
from tiltlm.training.timetable import Timetable
from tiltlm.training.training_settings import TrainingSettings

TYPICAL = (256, 192, 192)
"""Tokens of prompt, chosen and rejected response where neither data nor lengths are given."""
TYPICAL_ROWS = 1000
MOST_STEPS = 64
"""Steps whose packs are cut; of a longer run as many are taken at equal distances."""


@dataclass(frozen=True)
class PackSize:
    """What one forward and backward has to do."""

    tokens: int
    """Input tokens."""
    targets: int
    """Scored tokens."""
    attended: int
    """Pairs of tokens that attend."""

    @classmethod
    def of(cls, trees: Sequence[Tree]) -> "PackSize":
        """Return the size of a pack of trees."""
        return cls(
            sum(tree.num_tokens for tree in trees),
            sum(response.num_tokens for tree in trees for response in tree.responses),
            sum(map(attended_pairs, trees)),
        )


def attended_pairs(tree: Tree) -> int:
    """Return how often a token attends to one: causal in the prompt, each response to its prompt and to itself."""
    prompt = len(tree.prompt_ids)
    branches = [len(response.token_ids) - 1 for response in tree.responses]
    return prompt * (prompt + 1) // 2 + sum(n * prompt + n * (n + 1) // 2 for n in branches)


@dataclass(frozen=True, eq=False)
class Plan:
    """The packs of some steps of a run, and how long the run is."""

    steps: tuple[tuple[tuple[PackSize, ...], ...], ...]
    """Step → process → pack."""
    largest: tuple[Tree, ...]
    """The trees of the pack with most tokens."""
    packs_per_step: int
    """Packs of one process in a step, the most there are."""
    reference_tokens: int
    """Input tokens of the largest pack of a reference pass."""
    longest: int
    """Tokens of the longest tree, which is never cut."""
    num_examples: int
    batch_size: int
    """Examples of a step, over all processes."""
    num_steps: int
    source: str
    """Where the lengths come from, for the page."""

    @property
    def tokens_per_step(self) -> float:
        """Input tokens of a step over all processes, mean."""
        sizes = [sum(pack.tokens for packs in step for pack in packs) for step in self.steps]
        return sum(sizes) / len(sizes)


def plan_of(
    examples: Sequence[Example],
    fingerprint: str,
    settings: TrainingSettings,
    num_processes: int,
    larger: int,
    source: str,
) -> Plan:
    """Return the packs of a run.

    Args:
        examples: The training data.
        fingerprint: Its digest, which decides the order.
        settings: Batch size, token budget, epochs.
        num_processes: Processes that share a step.
        larger: Token budget of a reference pack in units of training's.
        source: Where the lengths come from.
    """
    table = Timetable.of(examples, fingerprint, settings)
    chosen = sorted({round(i) for i in np.linspace(0, table.num_steps - 1, min(MOST_STEPS, table.num_steps))})
    steps: list[tuple[tuple[PackSize, ...], ...]] = []
    largest: tuple[Tree, ...] = ()
    most = 0
    seen: dict[bytes, Tree] = {}
    for step in chosen:
        ranks = cut_into_packs([examples[i] for i in table.rows(step)], settings.max_tokens, num_processes)
        steps.append(tuple(tuple(PackSize.of(pack.trees) for pack in packs) for packs in ranks))
        most = max(most, *(len(packs) for packs in ranks))
        for pack in (pack for packs in ranks for pack in packs):
            seen |= {tree.prompt_ids.tobytes(): tree for tree in pack.trees}
            if sum(t.num_tokens for t in pack.trees) > sum(t.num_tokens for t in largest):
                largest = tuple(pack.trees)
    trees = list(seen.values())
    first = next(reference_packs(contexts_and_responses(trees), larger * settings.max_tokens))
    if len(chosen) < table.num_steps:
        source += f", {len(chosen)} of {table.num_steps:,} steps"
    return Plan(
        tuple(steps), largest, most, sum(t.num_tokens for t in first), max(t.num_tokens for t in trees), len(examples),
        min(settings.batch_size, len(examples)), table.num_steps, source,
    )  # fmt: skip


def parse_lengths(text: str) -> tuple[int, ...]:
    """Return token counts from a text such as `256,192,192`: of the prompt, then of each response.

    Raises:
        ConfigError: it is no such list.
    """
    try:
        lengths = tuple(int(part) for part in text.split(","))
    except ValueError:
        lengths = ()
    if len(lengths) < 2 or min(lengths) < 1:
        raise ConfigError(
            f"--tokens {text}: write the tokens of the prompt and of each response, such as 256,192,192",
            code="wrong_type",
            key="tokens",
        )
    return lengths


def typical_examples(lengths: Sequence[int], num_rows: int) -> list[Example]:
    """Return examples with these lengths, all with prompts of their own.

    Args:
        lengths: Tokens of the prompt, then of each response.
        num_rows: How many.
    """
    prompt, *responses = lengths

    def words(first: int, count: int) -> np.ndarray:
        return token_ids([first, *range(1, count)])

    branches = tuple(Response(words(1 + k, count)) for k, count in enumerate(responses))
    pairs = (Comparison(0, 1),) if len(branches) == 2 else ()
    return [Example(f"typical:{row}", words(row, prompt), branches, pairs) for row in range(num_rows)]
