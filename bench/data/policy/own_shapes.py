"""Clips at their own shapes, cut to multiples of a patch, any mix in a batch: what the policies `pack` and `pad` do.

Held-out clips are seen so under every policy.
"""

import math
from collections.abc import Callable, Sequence

from bench.data.policy.contract import Item, Lost, Rules
from bench.shapes import Refusal, Shape, bounding_shape, num_voxels, shape_text

OPEN_PACKS = 16  # packs that a clip is tried in before the fullest is closed


def at_own_shapes(shapes: Sequence[Shape], rules: Rules) -> list[list[Item] | Lost]:
    """Every clip whole but for what is cut from its sides, evenly; lost where it is smaller than a patch or larger than a batch."""
    return [_cut(clip, shape, rules) for clip, shape in enumerate(shapes)]


def _cut(clip: int, shape: Shape, rules: Rules) -> list[Item] | Lost:
    _, height, width = shape
    fitted = native_shape(shape, rules.multiple)
    if min(fitted[1:]) == 0:
        return Lost(clip, "small", f"is {height}x{width} pixels, smaller than one patch of {rules.multiple}x{rules.multiple}; enlarge it")
    if math.prod(fitted) > rules.max_pixels:
        times = math.prod(fitted) / rules.max_pixels
        return Lost(
            clip, "large", f"is {shape_text(fitted)}, {times:.2g} times what batching.voxel_budget holds; raise it or shorten the clip"
        )
    top, left = (height - fitted[1]) // 2, (width - fitted[2]) // 2
    return [Item(clip, 0, (left, top, left + fitted[2], top + fitted[1]), fitted)]


def native_shape(shape: Shape, multiple: int) -> Shape:
    """(T, H, W) with height and width cut down to multiples of `multiple`; 0 where a side is smaller."""
    num_frames, height, width = shape
    return (num_frames, height // multiple * multiple, width // multiple * multiple)


def packed(order: Sequence[int], shapes: Sequence[Shape], cost: Callable[[int], int], voxel_budget: int) -> list[list[int]]:
    """Every item in one pack, up to a budget of voxels; after NaViT (2307.06304, section 2.1)."""
    return [[order[place] for place in pack] for pack in pack_greedily([cost(item) for item in order], voxel_budget)]


def pack_greedily(costs: Sequence[int], budget: int) -> list[list[int]]:
    """Places of `costs`, in packs whose costs add up to `budget` or less. Each place is in one pack. Refusal for one that fits none.

    First fit among the open packs, in the order given, so that packs stay random; when a clip fits none of `OPEN_PACKS`, the fullest
    is closed. What is open at the end is packed again, largest first, and comes in a fresh order of its first places.

    >>> pack_greedily([3, 4, 2, 1], 5)
    [[0, 2], [1, 3]]
    """
    if costs and max(costs) > budget:
        raise Refusal(
            f"a clip of {max(costs)} latent voxels is larger than the budget of {budget}; raise batching.voxel_budget or leave it out"
        )
    closed, still_open = _first_fit(range(len(costs)), costs, budget, OPEN_PACKS)
    rest = sorted((place for pack in still_open for place in pack), key=lambda place: (-costs[place], place))
    return closed + sorted(sorted(pack) for pack in _first_fit(rest, costs, budget, len(costs))[1])


def _first_fit(places: Sequence[int], costs: Sequence[int], budget: int, most_open: int) -> tuple[list[list[int]], list[list[int]]]:
    """Packs closed on the way, and those open at the end."""
    closed: list[list[int]] = []
    packs: list[list[int]] = []
    rooms: list[int] = []  # of the open packs
    for place in places:
        index = next((index for index, room in enumerate(rooms) if costs[place] <= room), None)
        if index is None:
            if len(packs) == most_open:
                fullest = rooms.index(min(rooms))
                closed.append(packs.pop(fullest))
                rooms.pop(fullest)
            index = len(packs)
            packs.append([])
            rooms.append(budget)
        packs[index].append(place)
        rooms[index] -= costs[place]
    return closed, packs


def as_they_come(order: Sequence[int], shapes: Sequence[Shape], cost: Callable[[int], int], voxel_budget: int) -> list[list[int]]:
    """As many items as fit the budget when each takes the room of all of them together's largest frames, height and width."""
    batches: list[list[int]] = []
    for item in order:
        together = [*batches[-1], item] if batches else []
        if together and len(together) * num_voxels(bounding_shape([shapes[member] for member in together])) <= voxel_budget:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches
