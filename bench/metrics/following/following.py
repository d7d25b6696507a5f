"""Does a clip show what it was told? Captions of worlds against what is read from pixels: shares of clips, beside what a blind guess gets.

Of several objects the one that agrees with most of the caption is the one that is meant. Combinations that were never trained on have
numbers of their own, under the same names with `_unseen` behind. No torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from bench.data.files import sha256_texts
from bench.data.ragged import Frames
from bench.data.worlds.caption import COLOURS, DIRECTIONS, Told, told_by
from bench.data.worlds.combinations import Combination
from bench.data.worlds.drawing import SHAPES
from bench.metrics.distances.interval import binomial_interval
from bench.metrics.following.reading import FORMS, MOST, THRESHOLDS, WEIGHTS, Seen, read
from bench.metrics.following.values import ALL, UNSEEN, WORDS
from bench.metrics.pixels.contract import SHARE
from bench.records.record import REAL, Measurement

NAME, VERSION = "following", 1  # in the protocol; raise it with any change of a value
INTERVAL = "Wilson's, over clips, 95 %"
CHANCE = "what a blind guess gets: the real test clips under one another's captions, all pairs"
PARTS = ("shape", "colour", "direction")


def follows(seen: Seen, told: Sequence[Told]) -> dict[str, np.ndarray]:
    """What is seen in N clips, and what each was told -> measure: (N,) 1 where it shows that, 0 where not, NaN where it was not told it."""
    return _agreement(seen, _places(told), [each.number for each in told])


def by_chance(seen: Seen, told: Sequence[Told], asked: np.ndarray) -> dict[str, float | None]:
    """The mean of the same over every pair of a clip and the caption of another, of the captions `asked` (N,) bool; None without any."""
    places, sums, pairs = _places(told), dict.fromkeys(WORDS, 0.0), dict.fromkeys(WORDS, 0)
    for caption in np.flatnonzero(asked).tolist():
        others = np.arange(len(told)) != caption
        found = _agreement(seen, np.broadcast_to(places[caption], places.shape), [told[caption].number] * len(told))
        for name, values in found.items():
            counted = values[others & ~np.isnan(values)]
            sums[name] += float(counted.sum())
            pairs[name] += len(counted)
    return {name: sums[name] / pairs[name] if pairs[name] else None for name in WORDS}


def _places(told: Sequence[Told]) -> np.ndarray:
    """(N, 3) places of shape, colour and direction; -1 of a direction that is not told."""
    ways = list(DIRECTIONS)
    return np.array(
        [(SHAPES.index(t.shape), COLOURS.index(t.colour), -1 if t.direction is None else ways.index(t.direction)) for t in told]
    )


def _agreement(seen: Seen, places: np.ndarray, number: Sequence[int]) -> dict[str, np.ndarray]:
    agrees = np.stack([getattr(seen, part) == places[:, [k]] for k, part in enumerate(PARTS)], axis=-1)  # (N, MOST, 3)
    agrees &= (places >= 0)[:, None]
    meant = agrees.sum(axis=-1).argmax(axis=1)  # of equal ones the one that is seen longest
    own = agrees[np.arange(len(agrees)), meant].astype(float)  # (N, 3)
    own[places < 0] = np.nan
    found = {f"follows_{part}": own[:, k] for k, part in enumerate(PARTS)}
    return {ALL: own.prod(axis=1), **found, "follows_number": (seen.number == np.array(number)).astype(float)}


def measurements(
    captions: Sequence[str], clips: Mapping[str, Frames], unseen: Collection[Combination], source: str, num_objects: int
) -> list[Measurement]:
    """Every share of every subject's clips, which are of these captions in this order; `REAL` are the clips that the captions are of.

    `unseen`: combinations that were not trained on. `source`: identity of the real clips. `num_objects`: the most; of 1 no number is told.
    """
    told, seen = [told_by(caption) for caption in captions], {subject: read(list(frames)) for subject, frames in clips.items()}
    new = np.array([(each.colour, each.shape, each.direction) in unseen for each in told])
    found = []
    for end, group in (("", ~new), (UNSEEN, new)):
        chance = by_chance(seen[REAL], told, group)
        protocol = {
            "measure": NAME,
            "version": VERSION,
            "clips": source,
            "captions_sha256": sha256_texts([caption for caption, own in zip(captions, group, strict=True) if own]),
            "forms": FORMS.tolist(),
            "weights": WEIGHTS.tolist(),
            "most_objects": MOST,
            **asdict(THRESHOLDS),
        }
        for name in WORDS if num_objects > 1 else [name for name in WORDS if name != "follows_number"]:
            for subject, own in seen.items():
                values = follows(own, told)[name][group]
                values = values[~np.isnan(values)]
                if not len(values):
                    continue
                low, high = binomial_interval(float(values.sum()), len(values))
                found.append(
                    Measurement(
                        name=name + end,
                        subject=subject,
                        value=float(values.mean()),
                        unit=SHARE,
                        better="higher",
                        low=float(low),
                        high=float(high),
                        interval=INTERVAL,
                        floor=chance[name],
                        floor_source=CHANCE,
                        protocol=protocol | {"num_clips": len(values)},
                    )
                )
    return found
