"""Which trees go into which pack: a step of training, or a pass over data, cut into forwards under a token budget.

A tree is never cut and a prompt never computed twice, so what a plan changes is memory and time, never a number beyond
rounding. Plans are pure functions of the sizes.
"""

from collections.abc import Sequence


def plan(sizes: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Packs of whole trees, each at most `max_tokens`, by best-fit decreasing.

    Args:
        sizes: Tokens of each tree (`Tree.num_tokens`).
        max_tokens: Budget of a pack. A tree larger than that is a pack of its own.

    Returns:
        Indices into `sizes` per pack: every index once, ascending within a pack, packs by their first index.
    """
    packs: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        fits = [p for p, left in enumerate(room) if left >= sizes[index]]
        if fits:
            best = min(fits, key=lambda p: room[p])
            packs[best].append(index)
            room[best] -= sizes[index]
        else:
            packs.append([index])
            room.append(max_tokens - sizes[index])
    return sorted(sorted(pack) for pack in packs)


def balance(costs: Sequence[int], num_parts: int) -> list[list[int]]:
    """Indices dealt to parts of nearly equal total cost: largest first, each to the cheapest part so far."""
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    totals = [0] * num_parts
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        cheapest = min(range(num_parts), key=lambda p: (totals[p], p))
        parts[cheapest].append(index)
        totals[cheapest] += costs[index]
    return [sorted(part) for part in parts]


def plan_ranks(sizes: Sequence[int], max_tokens: int, num_ranks: int) -> list[list[list[int]]]:
    """Packs for each rank, the same number on every rank: `[rank][pack][tree]`.

    Every rank must run the same number of forwards, or the collectives of data parallelism wait for ever. Trees are
    dealt to ranks by size, each rank plans its own, and ranks with fewer packs split their largest until all have as
    many. Only a rank with fewer trees than packs is left with empty packs: it repeats a forward it has, with weight
    zero.
    """
    dealt = balance(sizes, num_ranks)
    ranks = [[[own[i] for i in pack] for pack in plan([sizes[t] for t in own], max_tokens)] for own in dealt]
    num_packs = max((len(packs) for packs in ranks), default=0)
    for packs in ranks:
        while len(packs) < num_packs and any(len(pack) > 1 for pack in packs):
            largest = max((p for p in packs if len(p) > 1), key=lambda p: (sum(sizes[i] for i in p), -p[0]))
            halves = balance([sizes[i] for i in largest], 2)
            packs.remove(largest)
            packs += [[largest[i] for i in half] for half in halves]
        packs.sort()
        packs += [[] for _ in range(num_packs - len(packs))]
    return ranks
