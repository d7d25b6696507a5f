"""What several processes for one cell cost and give on one machine: rates, memory and losses against one process, DDP and FSDP by gloo.

    python -m bench.perf.evidence.spread

The cells are run as any study is; the table is made of their records.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from bench.data.files import write_text
from bench.data.progress import say
from bench.records.environment import commit, read_environment
from bench.records.record import Record
from bench.records.store import latest, read_run
from bench.report.render.markdown import markdown_table
from bench.run.launch import run_all
from bench.study.matrix import load_study

BACKBONES = ("baselines:UNet-XS", "dit:DiT-XS/2")
WAYS = (("none", 1), ("ddp", 2), ("ddp", 4), ("fsdp", 1), ("fsdp", 2), ("fsdp", 4))  # kind, processes
STEPS, SEEDS = 30, (0, 1)
DEFAULTS: dict[str, Any] = {
    "data": {"source": "worlds", "num_frames": 8, "height": 32, "width": 32, "num_train": 64, "num_val": 16, "num_test": 16},
    "autoencoder": {"kind": "trained", "num_steps": 20, "width": 16},
    "batching": {"batch_size": 8},
    "budget": {"steps": STEPS},
    "evaluation": {"num_samples": 0},
    "device": "cpu",
}
PAGE = """# Several processes for one cell

{steps} steps on 8 clips of 8 frames of 32x32, latents of 8x8; seeds {seeds}, seed by seed; gloo, every process on one thread. Rates are of
the whole cell, medians over seeds; "of one" is over the rate of one process at the same seed, with the least and the most of the seeds;
"each" is its part of an ideal in which every process gives as much as one alone. "losses apart": the largest difference of any step's
loss from that of one process at the same seed, over the loss. Memory is the largest resident set of any process.

{table}

**Read it with care: {cpus} processors were there, and {most} processes share them**, so that more than {cpus} cannot be faster; what
the table shows is that losses are equal, what the communication of weights and gradients costs where there is no network, and that memory
of what training keeps falls with sharding, beside what every process needs for itself. Nothing here is of a GPU.

One machine, `{cpu}`; commit {commit}. Made by `python -m bench.perf.evidence.spread`.
"""


def matrix(folder: Path) -> Path:
    """Every way of every backbone."""
    cells = [
        {"backbone": backbone, "parallel.kind": kind, "parallel.processes": processes} for backbone in BACKBONES for kind, processes in WAYS
    ]
    path = folder / "spread.yaml"
    about = {"description": "One cell by one process and by several.", "primary": None, "include": cells, "seeds": list(SEEDS)}
    path.write_text(yaml.safe_dump({**about, "defaults": DEFAULTS}))
    return path


def rows(records: list[Record]) -> list[list[str]]:
    """A row for each way of each backbone."""
    found = []
    for backbone in BACKBONES:
        own = [record for record in records if record.cell.backbone == backbone]
        one = [record for record in own if record.cell.parallel.kind == "none"]
        for kind, processes in WAYS:
            these = [record for record in own if (record.cell.parallel.kind, record.cell.parallel.processes) == (kind, processes)]
            ratios = [rate_of([this]) / rate_of([alone]) for this in these for alone in one if alone.cell.seed == this.cell.seed]
            ratio = statistics.median(ratios)
            gap = max(loss_gap(this, alone) for this in these for alone in one if alone.cell.seed == this.cell.seed)
            memory = statistics.median(value_of(record, "peak_rss_bytes") for record in these) / 2**20
            name = backbone.partition(":")[2] if kind == "none" else ""
            way = "one process" if kind == "none" else f"{kind}, {processes}"
            found.append(
                [
                    name,
                    way,
                    f"{rate_of(these):.1f}",
                    f"{ratio:.2f} [{min(ratios):.2f}, {max(ratios):.2f}]",
                    f"{100 * ratio / processes:.0f} %",
                    f"{gap:.1e}",
                    f"{memory:.0f}",
                ]
            )
    return found


def rate_of(records: list[Record]) -> float:
    """Clips a second."""
    return statistics.median(value_of(record, "train_clips_per_s") for record in records)


def value_of(record: Record, name: str) -> float:
    """A measurement of the training."""
    found = record.measurement(name)
    assert found is not None
    return found.value


def loss_gap(record: Record, alone: Record) -> float:
    """Largest relative difference of a step's loss."""
    assert record.training and alone.training
    return max(abs(own - right) / abs(right) for own, right in zip(record.training.loss, alone.training.loss, strict=True))


def main(out: Annotated[Path, typer.Option(help="Folder of spread.md.")] = Path("reports/scale")) -> None:
    """Run the cells and write the page."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        run_all(load_study(str(matrix(Path(folder)))), results, say, "python -m bench.perf.evidence.spread")
        found = [latest(results / "spread" / cell.folder) for cell in read_run(results / "spread").cells]
    head = ["backbone", "by", "clips/s", "of one", "each", "losses apart", "MiB"]
    environment = read_environment()
    page = PAGE.format(
        steps=STEPS,
        seeds=" and ".join(map(str, SEEDS)),
        table=markdown_table(head, rows([record for record in found if record is not None]), figures=range(2, len(head))),
        cpus=environment.num_cpus,
        most=max(processes for _, processes in WAYS),
        cpu=environment.cpu_id or environment.cpu,
        commit=commit(),
    )
    write_text(out / "spread.md", page)


if __name__ == "__main__":
    typer.run(main)
