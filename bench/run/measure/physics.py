"""Physics: clips of each region gone on with from their known frames and scored by the world's scorecard, beside floors; and twins.

What does not depend on the backbone, the floors, is scored once and cached for all rivals.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data.clips import Clips
from bench.data.frozen import content_hash
from bench.data.latents.autoencoder import decode_clips, encode_clips
from bench.data.physics.regions import Region
from bench.data.physics.table import WORLDS
from bench.data.progress import Progress
from bench.data.sealed import kept_or_made
from bench.data.source import SourceConfig, load_clips
from bench.data.sources.physics import OUTSIDE, Config
from bench.metrics.distances.interval import binomial_interval
from bench.metrics.physics.contract import PerClip, Scorecard, Stage
from bench.metrics.physics.scoring import TWINS, frozen, measurements, nearest, score_clips
from bench.metrics.physics.table import scorecard_of
from bench.metrics.pixels.contract import SHARE
from bench.records.record import Measurement
from bench.run.stages import TrainingSet, cache_folder, known_of
from bench.study.cell import Cell
from bench.training.preference import TIMESTEPS, preferred
from bench.training.sampling import SamplePlan, sample

MOVED = 0.01  # of every parameter of a start, in the clips that say how far chaos goes
DRAWN, SHOWN = 8, 4  # clips of a region whose readings, and whose frames, are kept for the report


@dataclass(frozen=True, kw_only=True)
class PhysicsFound:
    """What was measured, and what a report draws."""

    measurements: list[Measurement]
    arrays: dict[str, np.ndarray]  # "<region>/<subject>/<score>" (N,), "<region>/outside" (N,), "<region>/drawn/<reading>/trained", ...


def physics_sets(cell: Cell) -> list[SourceConfig]:
    """What is filmed beside the cell's own clips: test clips of every region, the same from starts that were moved, and twins."""
    if not isinstance(cell.data, Config):
        return []
    asked, known = cell.evaluation, cell.objective.known_frames
    regions = [cell.data.tested(region, asked.region_samples, moved) for region in asked.regions for moved in (0.0, MOVED)]
    laws = WORLDS.find(cell.data.world).twins if asked.twins else ()
    return [*regions, *(cell.data.paired(law, asked.twins, known) for law in laws)]


def measure_physics(
    cell: Cell,
    backbone: Any,
    initial: Callable[[], Any],
    training: TrainingSet,
    results: Path,
    device: torch.device,
    progress: Progress,
) -> PhysicsFound:
    """Every region of the cell, and its twins; `initial` makes the backbone with the weights that it began with."""
    found = _measure_regions(cell, backbone, training, results, device, progress)
    if cell.evaluation.twins:
        found.measurements.extend(_measure_twins(cell, backbone, training, results, device, progress, "trained"))
        if cell.evaluation.untrained:
            began = initial().to(device).eval()
            found.measurements.extend(_measure_twins(cell, began, training, results, device, progress, "untrained"))
    return found


def _measure_regions(
    cell: Cell, backbone: Any, training: TrainingSet, results: Path, device: torch.device, progress: Progress
) -> PhysicsFound:
    assert isinstance(cell.data, Config)
    card, found, arrays = scorecard_of(cell.data.world), list[Measurement](), dict[str, np.ndarray]()
    for done, region in enumerate(cell.evaluation.regions):
        progress(done, len(cell.evaluation.regions), f"physics, region {region}")
        clips, stage = _stage(cell, region, results)
        true = clips.splits["test"].frames
        assert isinstance(true, np.ndarray)
        generated = _continued(cell, backbone, training, true, device)
        readings = card.read(generated, stage)
        scores = {"trained": dict(card.score(readings, stage)), **_floors(cell, card, training, clips, stage, region, results)}
        found += measurements(card, scores, stage, region, clips.digest)
        arrays |= {f"{region}/{subject}/{name}": values for subject, own in scores.items() for name, values in own.items()}
        arrays[f"{region}/{OUTSIDE}"] = np.asarray(stage.truth[OUTSIDE])[:, 0, 0]
        for name, (read, real) in card.drawn(readings, stage).items():
            arrays |= {f"{region}/drawn/{name}/trained": read[:DRAWN], f"{region}/drawn/{name}/real": real[:DRAWN]}
        arrays |= {f"{region}/frames/trained": generated[:SHOWN], f"{region}/frames/real": np.asarray(true[:SHOWN])}
    return PhysicsFound(measurements=found, arrays=arrays)


def _stage(cell: Cell, region: Region, results: Path) -> tuple[Clips, Stage]:
    """The true clips of a region, and what a scorecard is told of them."""
    assert isinstance(cell.data, Config)
    config = cell.data.tested(region, cell.evaluation.region_samples)
    clips = load_clips(config, cache_folder(results))
    truth = clips.splits["test"].truth
    assert isinstance(config, Config) and truth is not None
    return clips, Stage(config=config, fps=clips.fps, known=cell.objective.known_frames, truth=truth)


def _continued(cell: Cell, backbone: Any, training: TrainingSet, true: np.ndarray, device: torch.device) -> np.ndarray:
    """Clips (N, T, H, W, 3) as the backbone goes on with them from their known frames; those are as the autoencoder gives them back."""
    given = known_of(training.autoencoder, true, cell.objective.known_frames)
    shapes = [(clip.shape[1], clip.shape[2], clip.shape[3]) for clip in given]
    plan = SamplePlan(cell=cell, spec=training.spec, shapes=shapes, labels=[0] * len(given), given=given)
    latents, _ = sample(backbone, plan, device)
    return np.asarray(decode_clips(training.autoencoder, latents))


def _floors(
    cell: Cell, card: Scorecard, training: TrainingSet, clips: Clips, stage: Stage, region: Region, results: Path
) -> dict[str, PerClip]:
    """The scores of every subject that is no model, from the cache or made now."""
    identity = {
        "card": [card.name, card.version, dict(card.settings)],
        "clips": clips.digest,
        "train": training.clips.digest,
        "autoencoder": training.autoencoder.key,
        "known": stage.known,
        "moved": MOVED,
    }
    folder = cache_folder(results) / "physics" / content_hash(identity)[:16]

    def make(temp: Path) -> None:
        scores = score_clips(card, _without_model(cell, card, training, clips, stage, region, results), stage)
        arrays: dict[str, Any] = {f"{subject}/{name}": values for subject, own in scores.items() for name, values in own.items()}
        np.savez(temp / "scores.npz", **arrays)

    kept_or_made(folder, "physics floors", make)
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(folder / "scores.npz") as stored:
        for key, values in stored.items():
            subject, _, name = key.partition("/")
            found.setdefault(subject, {})[name] = values
    return dict(found)


def _without_model(
    cell: Cell, card: Scorecard, training: TrainingSet, clips: Clips, stage: Stage, region: Region, results: Path
) -> Mapping[str, np.ndarray]:
    """Subject -> its clips (N, T, H, W, 3)."""
    assert isinstance(cell.data, Config)
    true, known = np.asarray(clips.splits["test"].frames), stage.known
    moved = load_clips(cell.data.tested(region, len(true), MOVED), cache_folder(results))
    latents = encode_clips(training.autoencoder, true)
    train = training.clips.splits["train"].frames
    assert isinstance(train, np.ndarray)
    return {
        "real": true,
        "reconstruction": np.asarray(decode_clips(training.autoencoder, list(latents))),
        "twin": np.asarray(moved.splits["test"].frames),
        "nearest": nearest(true, train, known),
        "continued": card.continued(true, stage),
        "frozen": frozen(true, known),
    }


def _measure_twins(
    cell: Cell, backbone: Any, training: TrainingSet, results: Path, device: torch.device, progress: Progress, subject: str
) -> list[Measurement]:
    """Of every law of the world: share of pairs whose valid clip has the lower denoising loss, 1/2 by chance; and over all laws."""
    assert isinstance(cell.data, Config)
    laws, num, known = WORLDS.find(cell.data.world).twins, cell.evaluation.twins, cell.objective.known_frames
    found, every, sources = list[Measurement](), list[np.ndarray](), list[str]()
    for done, law in enumerate(laws):
        progress(done, len(laws), f"twins, {law}")
        clips = load_clips(cell.data.paired(law, num, known), cache_folder(results))
        latents = list(encode_clips(training.autoencoder, np.asarray(clips.splits["test"].frames)))
        shares = preferred(backbone, latents[::2], latents[1::2], cell, device)
        found.append(_preference(f"{TWINS}_{law}", shares, subject, clips.digest, cell, of_one_law=True))
        every.append(shares)
        sources.append(clips.digest)
    return [_preference(TWINS, np.concatenate(every), subject, content_hash(sources)[:32], cell, of_one_law=False), *found]


def _preference(name: str, shares: np.ndarray, subject: str, source: str, cell: Cell, *, of_one_law: bool) -> Measurement:
    """The share of n pairs (n,), with Wilson's interval; of all laws together none, since these break the same clips."""
    num, share = len(shares), float(shares.mean())
    low, high = binomial_interval(float(shares.sum()), num) if of_one_law else (None, None)
    protocol = {"measure": "twin preference", "version": 1, "clips": source, "num_pairs": num, "timesteps": list(TIMESTEPS)}
    return Measurement(
        name=name,
        subject=subject,
        value=share,
        unit=SHARE,
        better="higher",
        low=low,
        high=high,
        interval="Wilson's, over pairs, 95 %" if of_one_law else "none: the laws share their valid clips",
        floor=0.5,
        floor_source="chance",
        protocol=protocol | {"known_frames": cell.objective.known_frames, "objective": cell.objective.name},
    )
