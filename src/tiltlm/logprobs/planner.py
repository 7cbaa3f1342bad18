"""Plans: a training step, or a pass over data, split into packs of trees under a token budget, one forward each.

A tree is never split and a prompt is never computed twice. So a plan changes memory and time, and numbers only by
rounding. Plans are pure functions of the sizes.
"""

from collections.abc import Sequence


def plan(sizes: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Split trees into packs of at most `max_tokens` by best-fit decreasing.

    Args:
        sizes: Tokens of each tree (`Tree.num_tokens`).
        max_tokens: Budget of a pack. A larger tree is a pack of its own.

    Returns:
        Indices into `sizes` per pack. Every index occurs once. Indices ascend within a pack, and packs are
        sorted by their first index.
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
    """Assign indices to parts of nearly equal total cost: largest first, each to the cheapest part so far."""
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    totals = [0] * num_parts
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        cheapest = min(range(num_parts), key=lambda p: (totals[p], p))
        parts[cheapest].append(index)
        totals[cheapest] += costs[index]
    return [sorted(part) for part in parts]


def plan_ranks(sizes: Sequence[int], max_tokens: int, num_ranks: int) -> list[list[list[int]]]:
    """Plan packs for each rank, the same number on every rank: `[rank][pack][tree]`.

    Every rank must run the same number of forwards; otherwise the collectives of data parallelism deadlock. Trees are
    assigned to ranks by size, and each rank plans its own. Ranks with fewer packs split their largest pack until all
    have the same number. Only a rank with fewer trees than packs keeps empty packs: there it repeats one of its
    forwards with weight zero.
    """
    shares = balance(sizes, num_ranks)
    ranks = [[[own[i] for i in pack] for pack in plan([sizes[t] for t in own], max_tokens)] for own in shares]
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
