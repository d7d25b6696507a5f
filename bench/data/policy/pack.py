"""The policy `pack`: every clip at its own shape, any mix in a batch up to a budget of voxels; after NaViT (2307.06304, section 2.1)."""

from collections.abc import Callable, Sequence

from bench.data.policy.contract import BatchingPolicy
from bench.data.policy.own_shapes import at_own_shapes
from bench.shapes import Refusal, Shape

OPEN_PACKS = 16  # packs that a clip is tried in before the fullest is closed


def packed(order: Sequence[int], shapes: Sequence[Shape], cost: Callable[[int], int], voxel_budget: int) -> list[list[int]]:
    """Every item in one pack."""
    return [[order[place] for place in pack] for pack in pack_greedily([cost(item) for item in order], voxel_budget)]


def pack_greedily(costs: Sequence[int], budget: int) -> list[list[int]]:
    """Places of `costs`, in packs whose costs add up to `budget` or less. Each place is in one pack. Refusal for one that fits none.

    First fit among the open packs, in the order given, so that packs stay random; when a clip fits none of `OPEN_PACKS`, the fullest
    is closed. What is open at the end is packed again, largest first, and comes in a fresh order of its first places.

    >>> pack_greedily([3, 4, 2, 1], 5)
    [[0, 2], [1, 3]]
    """
    closed: list[list[int]] = []
    open_packs: list[tuple[list[int], int]] = []
    for place, cost in enumerate(costs):
        if cost > budget:
            raise Refusal(
                f"a clip of {cost} latent voxels is larger than the budget of {budget}; raise batching.voxel_budget or leave it out"
            )
        for index, (pack, room) in enumerate(open_packs):
            if cost <= room:
                pack.append(place)
                open_packs[index] = (pack, room - cost)
                break
        else:
            if len(open_packs) == OPEN_PACKS:
                fullest = min(range(OPEN_PACKS), key=lambda index: open_packs[index][1])
                closed.append(open_packs.pop(fullest)[0])
            open_packs.append(([place], budget - cost))
    return closed + _largest_first([place for pack, _ in open_packs for place in pack], costs, budget)


def _largest_first(places: Sequence[int], costs: Sequence[int], budget: int) -> list[list[int]]:
    """First fit decreasing: what is left at the end of an epoch, in as few packs as this finds."""
    packs: list[tuple[list[int], int]] = []
    for place in sorted(places, key=lambda place: (-costs[place], place)):
        for index, (pack, room) in enumerate(packs):
            if costs[place] <= room:
                pack.append(place)
                packs[index] = (pack, room - costs[place])
                break
        else:
            packs.append(([place], budget - costs[place]))
    return sorted(sorted(pack) for pack, _ in packs)


PACK = BatchingPolicy(
    name="pack",
    word="packs",
    family="own shapes",
    fit=at_own_shapes,
    plan=packed,
    needs_ragged=True,
    drops_tokens=True,
    against="bucket",
)
