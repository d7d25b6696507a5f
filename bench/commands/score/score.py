"""Scores one set of clips against another: anybody's folders in, every number with its floor, interval and protocol out. Trains nothing.

from bench.commands.score.score import score
found = score(Path("real_videos"), Path("generated_videos"))
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from bench.commands.score import published
from bench.commands.score.collection import Collection, find_collection, natural
from bench.commands.score.pair import ClipSets, SetReader, block, find_device, rates_of, read_pair
from bench.commands.score.record import GENERATED, PublishedValue, Score, ScoredGroup, ScoredSet
from bench.commands.score.windows import ReadSet, SeededCut
from bench.data.frozen import content_hash
from bench.data.progress import Progress
from bench.meters.process import device_name
from bench.metrics.distances.table import FRECHET
from bench.metrics.extractors.custom import SUFFIXES
from bench.metrics.extractors.manifest import FRAME, MANIFESTS
from bench.metrics.extractors.motion import load_motion
from bench.metrics.extractors.table import EXTRACTORS, Extractor, load_extractor
from bench.metrics.pixels.contract import PixelSets
from bench.metrics.pixels.table import pixel_measures
from bench.metrics.protocol import CANONICAL_EXTRACTOR, read_name
from bench.metrics.quality import FeatureSets, feature_measurements, pixel_measurements
from bench.metrics.weights import table as weights
from bench.metrics.weights.cache import cache_folder
from bench.records.environment import commit, read_environment
from bench.records.record import REAL, Measurement
from bench.shapes import Refusal, did_you_mean, shape_text

DEFAULT_EXTRACTORS = ("i3d", "motion")
DEFAULT_CUT = SeededCut(num_frames=16)
MIN_GROUP_CLIPS = 16  # of a class or shape in each set; fewer are named, not scored


def score(
    real: Path,
    generated: Path,
    *,
    cut: SeededCut = DEFAULT_CUT,
    num_clips: int | None = None,
    extractors: Sequence[str] = DEFAULT_EXTRACTORS,
    protocols: Sequence[str] = (),
    device: str = "cpu",
    cache: Path | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Score:
    """Every distance between the clips in `real` and those in `generated`; bench.commands.score.collection says what these may be.

    Clips are cut by `cut`. `num_clips`: of each set; None = as many as the smaller one has. Twice as many real ones are read where
    there are, so that the floor is measured at the same n. Refusal for what cannot be compared, with the remedy.
    """
    for name in extractors:
        check_extractor(name, cut.num_frames)
    chosen = [published.find_protocol(name) for name in protocols]
    if num_clips is not None and num_clips < 2:
        raise Refusal(f"--num-clips must be at least 2, got {num_clips}")
    where = find_device(device)
    reader = SetReader(cache or cache_folder() / "score", progress)
    collections = find_collection(real), find_collection(generated)
    pair = read_pair(*collections, cut, num_clips, reader)
    # Networks come after the clips and before any work: a wrong folder is found in a moment, damaged weights before minutes are spent.
    networks = [load_extractor(name, where) for name in dict.fromkeys(extractors)]
    tools = [(tool, load_extractor(tool.extractor, where)) for tool in chosen]
    sets = [features_of(pair, network, reader) for network in networks]
    if FRAME.weights_sha256 in {found.block.weights_sha256 for found in sets}:
        sets.append(frame_features(pair, reader, where))  # the frame encoder is a part of that network
    measured = [measurement for each in sets for measurement in feature_measurements(each)] + by_pixels(pair)
    canonical = next((found for found in measured if read_name(found.name) == (FRECHET, CANONICAL_EXTRACTOR)), None)
    frames, height, width = pair.real.shape
    return Score(
        real=side(collections[0], pair.real, pair.n),
        generated=side(collections[1], pair.generated, pair.n),
        n=pair.n,
        num_frames=frames,
        height=height,
        width=width,
        rule=cut.describe(),
        measurements=measured,
        groups=groups(pair, sets),
        published=[published_value(*tool, collections, cut, num_clips, reader, canonical) for tool in tools],
        notes=pair.notes(),
        environment=read_environment(torch.get_num_threads(), device_name(where)),
        commit=commit(),
    )


def check_extractor(name: str, num_frames: int) -> None:
    """Before anything is read: Refusal for an unknown extractor, or one that clips of `num_frames` are no food for; WeightsError."""
    if name not in MANIFESTS:
        if name.endswith(SUFFIXES) or ":" in name:  # one's own, whose manifest comes with it
            return
        known = f"{', '.join(EXTRACTORS)}, a TorchScript file, or module:factory"
        raise Refusal(f"unknown extractor {name!r}{did_you_mean(name, list(EXTRACTORS))}; there are {known}")
    MANIFESTS[name].check_frames(num_frames, "--num-frames ")
    if name in weights.SOURCES and not all(file.exists() for file in weights.find_source(name).paths):
        weights.files(name)  # raises, with the command that gets them; the hash is checked when they are loaded


def features_of(pair: ClipSets, extractor: Extractor, reader: SetReader) -> FeatureSets:
    """Features of the pair's clips by one extractor, and what they were made under."""
    real = reader.features(extractor, pair.real, "real clips")
    generated = reader.features(extractor, pair.generated, "generated clips")
    sampling = f"{pair.cut.start} start, seed {pair.cut.seed}"
    made = block(extractor, pair.cut.describe(), sampling, pair.cut.stride, pair.real, pair.generated, pair.n, pair.n)
    return FeatureSets(real=real[: pair.n], spare=real[pair.n :], subjects={GENERATED: generated[: pair.n]}, block=made)


def frame_features(pair: ClipSets, reader: SetReader, device: torch.device) -> FeatureSets:
    """Features of every single frame, which know nothing of the others: the quality of pictures alone."""
    num_frames = pair.real.shape[0]
    network = load_motion(device)
    every = Extractor(
        manifest=replace(FRAME, dim=num_frames * FRAME.dim),
        device=device,
        batch_size=16,
        features=lambda frames: network.frame_features(frames).reshape(len(frames), -1),
    )
    found = features_of(pair, every, reader)
    apart = (-1, num_frames, FRAME.dim)
    return FeatureSets(
        real=found.real.reshape(apart),
        spare=None if found.spare is None else found.spare.reshape(apart),
        subjects={subject: features.reshape(apart) for subject, features in found.subjects.items()},
        block=found.block.model_copy(update={"dim": FRAME.dim}),
    )


def by_pixels(pair: ClipSets) -> list[Measurement]:
    """What the pair's clips show as they are, and spare real ones where there are as many."""
    source = content_hash([pair.real.clip_list(pair.n), pair.cut.describe()])
    facts = PixelSets(clips={}, test=pair.real.frames, source=source)
    if not any(measure.applies(facts) for measure in pixel_measures()):
        return []  # cached frames need not be read
    real = pair.real.frames  # each counts once, as `SeededCut` takes none twice
    clips = {GENERATED: pair.generated.frames[: pair.n]}
    clips |= {REAL: real[pair.n : 2 * pair.n]} if len(real) >= 2 * pair.n else {}
    return pixel_measurements(replace(facts, clips=clips, test=real[: pair.n]))


def groups(pair: ClipSets, measured: Sequence[FeatureSets]) -> list[ScoredGroup]:
    """Distances of each class that both sets have, and of each shape that clips came in, where there is more than one."""
    found = []
    for by in ("class", "shape"):
        sides = pair.real, pair.generated
        names = [(clips.labels if by == "class" else list(map(shape_text, clips.shapes)))[: pair.n] for clips in sides]
        counts = [Counter(side_names) for side_names in names]
        known = counts[0] | counts[1]
        if None in known or len(known) < 2:
            continue
        for name in sorted(counts[0].keys() & counts[1].keys(), key=lambda name: natural(str(name))):
            n = min(counts[0][name], counts[1][name])
            rows = [[row for row, other in enumerate(side_names) if other == name][:n] for side_names in names]
            values = {}
            if n >= MIN_GROUP_CLIPS:
                for over in measured:
                    for kind, statistic in over.kinds.items():
                        title = over.block.model_copy(update={"n_real": n, "n_fake": n}).name(kind)
                        values[title] = statistic(over.real[rows[0]], over.subjects[GENERATED][rows[1]])
            found.append(
                ScoredGroup(
                    by=by, name=str(name), num_real=counts[0][name], num_generated=counts[1][name], n=n if values else 0, values=values
                )
            )
    return found


def side(collection: Collection, clips: ReadSet, n: int) -> ScoredSet:
    used = clips.rows[:n]
    return ScoredSet(
        path=str(collection.path),
        num_items=len(collection.items),
        num_read=len(clips),
        num_used=n,
        num_untried=clips.num_untried,
        num_copies=clips.num_copies,
        skipped=list(clips.skipped),
        labels=dict(Counter(label for row in used if (label := clips.labels[row]) is not None)),
        shapes=dict(Counter(shape_text(clips.shapes[row]) for row in used)),
        fps=rates_of(clips),
        digest=clips.digest,
    )


def published_value(
    tool: published.Published,
    network: Extractor,
    collections: tuple[Collection, Collection],
    cut: SeededCut,
    num_clips: int | None,
    reader: SetReader,
    canonical: Measurement | None,
) -> PublishedValue:
    """The value as the tool measures it, on the same folders."""
    sets, cuts = [], {}
    for of, collection in zip(("real", "generated"), collections, strict=True):
        limit = tool.limit(of, num_clips)
        rule = tool.rule(of, cut, limit)
        sets.append(reader.clips(collection, rule, limit))
        cuts[of] = rule.describe()
    real, fake = sets
    features = [reader.features(network, clips, f"{what} clips") for clips, what in ((real, "real"), (fake, "generated"))]
    value, exact = published.distance_over_n(features[0], features[1], real_first=tool.real_first)
    distinct = [len(set(clips.rows)) for clips in (real, fake)]
    made = block(network, cuts, f"as {tool.name}", cut.stride, real, fake, len(real), len(fake)).model_copy(
        update={"covariance": "n", "root": "sqrtm"}
    )
    name = made.model_copy(update={"n_real": distinct[0], "n_fake": distinct[1]}).name(FRECHET.key)
    return PublishedValue(
        tool=tool.name,
        measurement=Measurement(
            name=f"{name} ({tool.name} protocol)",
            subject=GENERATED,
            value=math.nan if value is None else value,
            unit=FRECHET.unit,
            better="lower",
            protocol=made.describe(),
            invalid="its matrix root fails on these features" if value is None else None,
        ),
        exact_root=exact,
        n_real=len(real),
        n_fake=len(fake),
        distinct_real=distinct[0],
        distinct_fake=distinct[1],
        choices=tool.choices,
        skipped=[*real.skipped, *fake.skipped],
        canonical_name=canonical.name if canonical else None,
        canonical_value=canonical.value if canonical else None,
    )
