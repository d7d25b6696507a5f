"""Caches: every kind of file that is made once and read again, damaged on disk. What comes of it is what would have come, or a refusal.

Stages of a run (clips, autoencoder, latents, features), a cell's weights and checkpoint, and the sets that `score` remembers.
"""

import functools
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from bench.commands.score.collection import find_collection
from bench.commands.score.windows import SeededCut, cached_set
from bench.data.files import StoreError
from bench.data.progress import silent
from bench.data.ragged import Frames, Ragged
from bench.records.artefacts import WEIGHTS, load_frames, save_tensors
from bench.records.store import write_record
from bench.run.job import SampleJob
from bench.run.samples import build_backbone, sample_more
from bench.run.stages import reference_set, training_set
from bench.shapes import Refusal
from bench.study.cell import Cell
from tests import report_factory
from tests.fuzz.case import SPECIAL, Case, Domain, Finding, packed, place
from tests.fuzz.damage import damaged_bytes, damaged_json
from tests.fuzz.media import moving
from tests.tiny import linear_trainer, tiny_cell

CPU = torch.device("cpu")
CELL_FOLDER = "tiny/cell"
Values = dict[str, str]  # what came of it -> its hash


def cell(seed: int = 0) -> Cell:
    """A cell whose stages take a second; of another seed, other clips of the same size."""
    data = {"source": "worlds", "num_frames": 2, "height": 8, "width": 8, "num_train": 4, "num_val": 2, "num_test": 2, "seed": seed}
    return tiny_cell(
        backbone="tests.small:DiT-XXS/2",
        data={**data, "num_substeps": 2},
        autoencoder={"kind": "trained", "num_steps": 2, "width": 8, "spatial_stride": 2, "batch_size": 2},
        evaluation={"extractors": ["random3d"], "num_samples": 2, "untrained": False},
        sampler={"num_steps": 1},
    )


def digest(value: Any) -> str:
    """Of arrays, tensors and plain data, types and shapes included."""
    if isinstance(value, Ragged):
        return digest([np.asarray(clip) for clip in value])
    if isinstance(value, list | tuple):
        return hashlib.sha256(" ".join(map(digest, value)).encode()).hexdigest()
    if isinstance(value, dict):
        return digest([[key, value[key]] for key in sorted(value)])
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        return hashlib.sha256(f"{value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes()).hexdigest()
    return hashlib.sha256(repr(value).encode()).hexdigest()


def stages(results: Path, folder: Path) -> Values:
    """All that a cell is given by its stages."""
    training = training_set(cell(), results, CPU, silent)
    reference = reference_set(cell(), training, results, CPU, silent)
    clips, autoencoder = training.clips, training.autoencoder
    found: dict[str, Any] = {
        "facts of the clips": [clips.digest, clips.label_names, clips.fps, clips.skipped, clips.lost, clips.notes],
        "autoencoder": [autoencoder.key, autoencoder.unshuffle, autoencoder.shift, autoencoder.scale, dict(autoencoder.state_dict())],
        "configuration of the autoencoder": {key: value for key, value in autoencoder.network.config.items() if not key.startswith("_")},
        "spec": training.spec,
        "training latents": _frames(training.train.latents),
        "validation latents": _frames(training.val.latents),
        "labels": [training.train.labels, training.val.labels, training.labels],
        "ledger": training.ledger,
        "reconstructions": _frames(reference.reconstructed),
        "features": reference.features["random3d"],
    }
    for split, clip_set in clips.splits.items():
        found[f"clips of {split}"] = [_frames(clip_set.frames), clip_set.labels, clip_set.clip_ids]
        found[f"truth of {split}"] = clip_set.truth
    for fact in ("class_name", "num_params", "loss", "train_loss"):
        found[f"{fact} of the autoencoder"] = autoencoder.facts.get(fact)
    return {name: digest(value) for name, value in found.items()}


def _frames(frames: Frames) -> Any:
    return frames if isinstance(frames, Ragged) else np.asarray(frames)


def samples(results: Path, folder: Path) -> Values:
    """What `sample` makes of a cell's weights."""
    out = results / "more.npz"
    sample_more(
        SampleJob(label="x", matrix="tiny", results=results, cell=cell(), folder=results / CELL_FOLDER, num_clips=2, shape=None, out=out),
        silent,  # type: ignore[arg-type]
    )
    return {"samples": digest(_frames(load_frames(out)))}


def resumed(results: Path, folder: Path) -> Values:
    """Where a run goes on, and with what."""
    trainer = linear_trainer(tiny_cell(), results)
    step = trainer.train_step
    fresh = trainer.state.step == 0
    state = trainer.state.model_dump(exclude={"machines", "commits"} | (set(trainer.state.model_fields_set) if fresh else set()))
    found = {
        "state": state,
        "weights": dict(step.backbone.state_dict()),
        "average": step.ema.state_dict(),
        "optimiser": step.optimizer.state_dict(),
    }
    values = {name: digest(_plain(value)) for name, value in found.items()}
    return {"fresh": ""} if fresh else values | {"generator": digest(torch.get_rng_state())}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def remembered(results: Path, folder: Path) -> Values:
    """A set that `score` read before."""
    found = cached_set(find_collection(results / "clips"), SeededCut(num_frames=2), None, silent, results / "cache")
    plain = found.model_dump(exclude={"frames"})
    return {"set": digest(repr(plain)), "frames": digest(np.asarray(found.frames[:]))}


def make_stages(results: Path) -> None:
    """Of two cells, so that files can be taken for each other's."""
    for seed in (0, 1):
        training = training_set(cell(seed), results, CPU, silent)
        reference_set(cell(seed), training, results, CPU, silent)


def make_samples(results: Path) -> None:
    """Weights as `run` leaves them, never trained."""
    training = training_set(cell(), results, CPU, silent)
    backbone = build_backbone(cell(), training)
    (results / CELL_FOLDER).mkdir(parents=True)
    torch.manual_seed(0)
    weights = {name: 0.1 * torch.randn_like(tensor) for name, tensor in backbone.state_dict().items()}  # at first they make zeros
    save_tensors(results / CELL_FOLDER / WEIGHTS, weights)
    autoencoder = {"key": training.autoencoder.key, **training.autoencoder.facts}
    data = {"digest": training.clips.digest, "num_clips": {}, "label_names": training.clips.label_names, "fps": training.clips.fps}
    known = {"cell": cell().model_dump(mode="json"), "fingerprint": cell().fingerprint(), "data": data, "autoencoder": autoencoder}
    write_record(results / CELL_FOLDER, report_factory.record("dit:DiT-XS/2", 0, **known))


def make_resumed(results: Path) -> None:
    """The checkpoint of a run that ended."""
    linear_trainer(tiny_cell(), results).train()


def make_remembered(results: Path) -> None:
    """Two arrays, and what was read of them."""
    (results / "clips").mkdir(parents=True)
    for k in range(2):
        np.save(results / "clips" / f"{k}.npy", moving(4 + k))
    remembered(results, results)


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path, Path], Values], tuple[str, ...]]] = {
    "stages": (make_stages, stages, ("cache/",)),
    "weights": (make_samples, samples, (CELL_FOLDER,)),
    "checkpoints": (make_resumed, resumed, ("checkpoint.pt",)),
    "sets": (make_remembered, remembered, ("cache/",)),
}


@functools.cache
def base(kind: str) -> tuple[dict[str, bytes], Values]:
    """Relative name -> content of undamaged files, and what comes of them."""
    make, values, _ = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        make(results)
        files = {path.relative_to(results).as_posix(): path.read_bytes() for path in sorted(results.rglob("*")) if path.is_file()}
        expected = values(results, Path(folder))
        again = {path.relative_to(results).as_posix(): path.read_bytes() for path in sorted(results.rglob("*")) if path.is_file()}
        assert {name: again[name] for name in files if "more" not in name} == files, "reading changes what is read"
        return files, expected


def draw(kind: str, rng: Random) -> Case:
    """One or two files damaged: bytes, a cut, a swap with another of the same name, an edited JSON, gone, or something else."""
    files, _ = base(kind)
    mine = [name for name in files if name.startswith(KINDS[kind][2])]
    case = {}
    for _ in range(rng.choice((1, 1, 1, 2))):
        name = rng.choice(mine)
        content, how = files[name], rng.randrange(20)
        alike = [other for other in mine if other != name and Path(other).suffix == Path(name).suffix]
        if how < 6 and name.endswith(".json"):
            content = damaged_json(rng, content)
        elif how < 12:
            content = damaged_bytes(rng, content)
        elif how < 14:
            content = content[: rng.randrange(len(content) + 1)]
        elif how < 17 and content:
            data = bytearray(content)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            content = bytes(data)
        elif how < 19 and alike:
            content = files[rng.choice(alike)]
        case[name] = packed(content)
        if how == 19:
            case[name] = rng.choice((*SPECIAL, "gone"))
    return {"files": case}


def attempt(kind: str, case: Case, folder: Path) -> None:
    """The same values as of undamaged files, or a refusal that names a file."""
    files, expected = base(kind)
    results = folder / "results"
    for name, content in files.items():
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_bytes(content)
    place(results, {name: content for name, content in case["files"].items() if content != "gone"})
    for name in (name for name, content in case["files"].items() if content == "gone"):
        (results / name).unlink()
    try:
        found = KINDS[kind][1](results, folder)
    except (Refusal, OSError) as error:
        if str(results.name) not in str(error) and not any(Path(name).name in str(error) for name in case["files"]):
            raise Finding(f"a refusal names no file: {type(error).__name__}", error) from error
        raise
    if found == {"fresh": ""}:
        return
    changed = [name for name in expected if found.get(name) != expected[name]]
    if changed:
        raise Finding(f"silently another value: {changed[0]}", *changed, *case["files"])
    if left := list(results.rglob(".*.tmp")):
        raise StoreError(f"{left[0]} is left behind")


DOMAINS = tuple(
    Domain(name=kind, share=share, draw=functools.partial(draw, kind), attempt=functools.partial(attempt, kind))
    for kind, share in (("stages", 4), ("weights", 1), ("checkpoints", 1), ("sets", 3))
)
