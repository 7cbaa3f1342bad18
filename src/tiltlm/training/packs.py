"""How the examples of a step become forwards: packs of whole trees, as many on every rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tiltlm.core import Example, Tree, build_trees
from tiltlm.logprobs.planner import plan_ranks

ForestPart = Literal["responses", "partners"]


@dataclass(frozen=True, eq=False)
class Pack:
    """Examples whose trees make one forward. Examples with the same prompt are always in the same pack."""

    examples: tuple[Example, ...]
    trees: Sequence[Tree]
    slots: Sequence[Sequence[int]]
    counted: bool = True
    """False for a forward repeated only so that every process runs as many; its weight is zero."""

    @classmethod
    def of(cls, examples: Sequence[Example], part: ForestPart = "responses", counted: bool = True) -> "Pack":
        trees, slots = build_trees(examples, part)
        return cls(tuple(examples), trees, slots, counted)

    @property
    def num_targets(self) -> int:
        """Scored tokens of the pack."""
        return sum(r.num_tokens for tree in self.trees for r in tree.responses)

    @property
    def num_responses(self) -> int:
        """Distinct responses of the pack."""
        return sum(len(tree.responses) for tree in self.trees)


def cut_into_packs(
    examples: Sequence[Example], max_tokens: int, num_ranks: int, part: ForestPart = "responses"
) -> list[list[Pack]]:
    """The packs of every rank, as many on each: a pure function of the examples, so no process needs to be told."""
    trees, slots = build_trees(examples, part)
    tree_of = [t for t, tree in enumerate(trees) for _ in tree.responses]
    members: list[list[Example]] = [[] for _ in trees]
    for example, slot in zip(examples, slots, strict=True):
        members[tree_of[slot[0]]].append(example)
    sizes = [tree.num_tokens for tree in trees]
    smallest = sizes.index(min(sizes))
    return [
        [Pack.of([e for t in pack or [smallest] for e in members[t]], part, counted=bool(pack)) for pack in packs]
        for packs in plan_ranks(sizes, max_tokens, num_ranks)
    ]
