"""Cut the examples of a step into forwards: packs of whole trees, the same number on every rank."""

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
    """For each example the numbers of its responses in the forward."""
    counted: bool = True
    """False for a forward that is repeated only so that every process runs the same number; its weight is zero."""

    @classmethod
    def of(cls, examples: Sequence[Example], part: ForestPart = "responses", counted: bool = True) -> "Pack":
        """Build the pack of these examples, with their responses or with their partners."""
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
    """Return the packs of every rank, the same number on each.

    This is a pure function of its arguments: every process computes the same packs without communication.
    """
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
