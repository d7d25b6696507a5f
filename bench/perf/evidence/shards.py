"""What a set of millions of items costs before and while it is drawn from: shards and a shuffle window, against one file and a permutation.

    python -m bench.perf.evidence.shards

Items are tiny, so that what is measured is what grows with their number. Every way is measured in a process of its own.
"""

import hashlib
import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer

from bench.data.files import write_text
from bench.data.progress import Reporter
from bench.data.sealed import SETTLED_S, check_seal, kept_or_made_in_parts
from bench.records.environment import commit, read_environment
from bench.report.render.markdown import markdown_table

ITEM = (4, 2, 2, 2)  # latents (C, T, H, W), 128 bytes
PER_SHARD = 8192  # items, 1 MiB
WINDOW = 8192
BATCH_SIZE = 100
DRAWS = 100_000
SIZES = (10**6, 10**7)
ITEM_BYTES, MIB = 4 * math.prod(ITEM), 2**20
RESUMES = 3
ONE_FILE = "latents.npy"
# Way -> whether latents are in shards, and the window of draws.
WAYS = {
    "shards, window": (True, WINDOW),
    "shards, permutation": (True, None),
    "one file, permutation": (False, None),
}


def make(items: int, folder: Path, progress: Reporter) -> None:
    """The same values as shards and as one file."""
    counts = _counts(items)

    def shard(index: int, path: Path) -> None:
        values = np.random.default_rng(index).standard_normal((counts[index], *ITEM), dtype=np.float32)
        with path.open("wb") as file:
            np.save(file, values)
        whole[index * PER_SHARD : index * PER_SHARD + counts[index]] = values
        progress(index + 1, len(counts), "making latents")

    folder.mkdir(parents=True)
    whole = np.lib.format.open_memmap(folder / ONE_FILE, mode="w+", dtype=np.float32, shape=(items, *ITEM))
    kept_or_made_in_parts(folder / "shards", "latents", _names(items), shard)
    whole.flush()


def _counts(items: int) -> list[int]:
    return [min(PER_SHARD, items - first) for first in range(0, items, PER_SHARD)]


def _names(items: int) -> list[str]:
    return [f"shard-{index:05d}.npy" for index in range(len(_counts(items)))]


def measure(way: str, items: int, draws: int, folder: Path) -> dict[str, Any]:
    """One way, in this process: seconds until the first batch, memory, files opened, and whether a resume draws the same."""
    import torch

    from bench.data.latents.latents import LatentSet
    from bench.data.policy.fitting import fit, training_rules
    from bench.data.policy.ledger import ledger
    from bench.data.repeated import Repeated
    from bench.data.shards import Sharded
    from bench.shapes import LatentSpec, Shape
    from bench.study.cell import Cell
    from bench.training.draws import Drawer

    in_shards, window = WAYS[way]
    shape: Shape = (2, 8, 8)  # in pixels
    spec = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=0)
    data = {"source": "worlds", "num_frames": 2, "height": 8, "width": 8, "num_train": 1, "num_val": 2, "num_test": 2}  # not looked at
    fields = {"data": data, "autoencoder": {"kind": "trained", "num_steps": 1}, "budget": {"steps": 1}, "evaluation": {"num_samples": 2}}
    batching = {"batch_size": BATCH_SIZE, "shuffle_window": window}
    cell = Cell.model_validate({**fields, "backbone": "dit:DiT-XS/2", "batching": batching})
    opened = _count_files(Sharded)
    paths = [folder / "shards" / name for name in _names(items)]

    def drawer() -> Drawer:
        latents = Sharded(paths, _counts(items), ITEM, np.float32) if in_shards else np.load(folder / ONE_FILE, mmap_mode="r")
        return Drawer(cell, LatentSet(latents=latents, labels=None, null_label=0), None, torch.device("cpu"))

    def batch(of: Drawer, index: int) -> bytes:
        drawn = of.draw(of.stream.batch(index))
        return hashlib.sha256(torch.stack([*drawn.targets, *drawn.latents]).numpy().tobytes()).digest()

    _warm_up(drawer, batch)
    imported_bytes = _memory()
    start_s = time.perf_counter()
    if in_shards:
        check_seal(folder / "shards")
    clips = Repeated(shape, items)
    fitted = fit(clips, training_rules(cell.data, cell.batching, spec))
    ledger(clips, fitted, cell.batching, spec, cell.seed)
    made = drawer()
    found = [batch(made, 0)]
    start_s, started_bytes = time.perf_counter() - start_s, _memory()
    opened.clear()
    begun_s, most_bytes = time.perf_counter(), started_bytes
    for index in range(1, draws // BATCH_SIZE):
        found.append(batch(made, index))
        if index % 50 == 0:
            most_bytes = max(most_bytes, _memory())
    draws_s = time.perf_counter() - begun_s
    num_opened = len(opened)
    rng, resumes = np.random.default_rng(0), []
    for _ in range(RESUMES):
        at = int(rng.integers(len(found) - 1))
        begun_s, again = time.perf_counter(), drawer()
        first = batch(again, at)
        resume_s = time.perf_counter() - begun_s
        resumes.append({"batch": at, "same": [first, batch(again, at + 1)] == found[at : at + 2], "resume_s": resume_s})
    return {
        "way": way,
        "start_s": start_s,
        "imported_bytes": imported_bytes,
        "started_bytes": started_bytes,
        "most_bytes": most_bytes,
        "files_opened": num_opened,
        "draws_per_s": (len(found) - 1) * BATCH_SIZE / draws_s,
        "resumes": resumes,
    }


def _warm_up(drawer: Callable[[], Any], batch: Callable[[Any, int], bytes]) -> None:
    """What the first draw of a process loads is not of the set: libraries, and the allocator's first blocks."""
    from bench.data.policy import order

    batch(drawer(), 0)
    order.window_clips.cache_clear()
    order._runs.cache_clear()


def _count_files(kind: Any) -> list[int]:
    """A list that gets a file's number each time one is opened."""
    opened: list[int] = []
    look_at = kind._look_at

    def counted(self: Any, file: int) -> Any:
        opened.append(file)
        return look_at(self, file)

    kind._look_at = counted
    return opened


def _memory() -> int:
    return int(psutil.Process().memory_info().rss)


def to_markdown(found: dict[str, Any]) -> str:
    """The page."""
    environment, header = found["environment"], ("items", "way", "start", "memory", "drawing", "files opened", "draws a second", "resume")
    lines = [
        "# Sets too large to be listed",
        "",
        "`python -m bench.perf.evidence.shards`. Latents of 4x2x2x2 float32, 128 bytes each, in shards of "
        f"{PER_SHARD:,} items and in one file.",
        f"{found['draws']:,} draws in batches of {BATCH_SIZE}, with a shuffle window of {WINDOW:,} or a permutation of the whole set.",
        "",
        *(
            f"- {made['items']:,} items: {made['items'] * ITEM_BYTES / MIB:,.0f} MiB in {made['shards']:,} shards, "
            f"written in {made['made_s']:.1f} s, hashed at the first start in {made['hashed_s']:.1f} s."
            for made in found["sets"]
        ),
        "",
        markdown_table(header, [_row(made["items"], way) for made in found["sets"] for way in made["ways"]], figures=[0, *range(2, 8)]),
        "",
        "- **start**: the seal of the shards, fitting, the ledger, the first batch; imports are not counted. Files were in the page cache.",
        "- **memory**: resident, over that of the process with its imports, after the start; **drawing**: the most that came on top.",
        "  Of one file they are pages of its map, which the system takes back where memory is short, and reads from the disk again.",
        "- **files opened**: by all draws after the first batch, with 32 held open: how far reads jump.",
        f"- **resume**: a new reader at a random batch, the slowest of {RESUMES}. "
        + ("All drew what the first reader drew there." if _all_same(found) else "**Not all drew what the first reader drew there.**"),
        "",
        f"On {environment['cpu']} ({environment['cpu_id']}), {environment['num_cpus']} CPUs, commit {found['commit'][:12]}.",
        "",
    ]
    return "\n".join(lines)


def _all_same(found: dict[str, Any]) -> bool:
    return all(resume["same"] for made in found["sets"] for way in made["ways"] for resume in way["resumes"])


def _row(items: int, way: dict[str, Any]) -> list[str]:
    started, imported = way["started_bytes"], way["imported_bytes"]
    return [
        f"{items:,}",
        way["way"],
        f"{way['start_s']:.3f} s",
        f"{(started - imported) / MIB:.1f} MiB",
        f"{(way['most_bytes'] - started) / MIB:.1f} MiB",
        f"{way['files_opened']:,}" if WAYS[way["way"]][0] else "-",
        f"{way['draws_per_s']:,.0f}",
        f"{max(resume['resume_s'] for resume in way['resumes']):.3f} s",
    ]


def run(
    items: Annotated[list[int] | None, typer.Option(help="Latents of a set; give it again for another.")] = None,
    draws: Annotated[int, typer.Option(help="Draws of each way.", min=2 * BATCH_SIZE)] = DRAWS,
    out: Annotated[Path, typer.Option(help="Folder for shards.md and shards.json.")] = Path("reports/scale"),
) -> None:
    """Make sets in a temporary folder, measure each way, write the page."""
    sets = []
    with Reporter("shards").live() as progress:
        for num in items or SIZES:
            with tempfile.TemporaryDirectory() as temp:
                sets.append(_measured(num, draws, Path(temp) / "set", progress))
    found = {"draws": draws, "sets": sets, "commit": commit(), "environment": read_environment().model_dump()}
    page = to_markdown(found)
    write_text(out / "shards.json", json.dumps(found, indent=1) + "\n")
    write_text(out / "shards.md", page)
    typer.echo(page)


def _measured(items: int, draws: int, folder: Path, progress: Reporter) -> dict[str, Any]:
    begun_s = time.perf_counter()
    make(items, folder, progress)
    made_s = time.perf_counter() - begun_s
    time.sleep(SETTLED_S + 0.1)  # else the seal does not yet trust the times of the files
    begun_s = time.perf_counter()
    check_seal(folder / "shards")
    hashed_s, ways = time.perf_counter() - begun_s, []
    for done, way in enumerate(WAYS):
        progress(done, len(WAYS), f"{way} of {items:,}")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            ways.append(pool.apply(measure, (way, items, draws, folder)))
    return {"items": items, "shards": len(_counts(items)), "made_s": made_s, "hashed_s": hashed_s, "ways": ways}


if __name__ == "__main__":
    typer.run(run)
