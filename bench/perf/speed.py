"""Tables of what the benchmarks of the backbones' steps found: `python -m bench.perf.speed BENCHMARK.json ... --out reports/speed`.

Reads the files that `--benchmark-json` wrote and takes the rows that benchmarks left in `extra_info`; times nothing itself. A table of a
later file takes the place of an earlier one's: a part measured again. Every kind of processor has a folder of its own.
"""

import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from scipy.stats import binom

from bench.report.render.catalogue import DASH
from bench.report.render.markdown import markdown_table
from bench.shapes import Refusal

TITLES = {
    "rivals": "A training step (forward, mean square, backward) against plain diffusers with the same weights",
    "contenders": "A training step against that of other contenders of as many parameters: seconds of theirs over its own",
    "precision": "bfloat16 under autocast against float32",
    "peak": "Share of the measured matrix-product peak",
    "gains": "What each change gains: the step with the plain code it replaced, over the step as it is",
    "packing": "A step of a mixed pack against other ways to train on such clips; `padding` is the share of filling in the padded batch",
    "packed_gains": "What each change gains in packs: the step with the plain code it replaced, over the step as it is",
    "dropping": "Half of the tokens dropped: the step with all of them over the step with half",
    "attention": "Attention alone, forward and backward, inside each clip of a mixed pack: each way's time over ours",
    "peers": "A training step against that of other libraries at equal depth, width and heads",
    "allocator": "Freed memory kept: the step of a process as glibc has it, over the step of one that keeps what it frees",
    "units": "Autoregressive over units of a clip: its time over that of the DiT of the same size",
    "harness": "What the harness and its meters add: a step of the trainer over the least that a training step can be",
    "memory": "Peak of tensor storage of a training step: measured again and again, and predicted",
}


def write(paths: Sequence[Path], out: Path) -> list[Path]:
    """Tables of the benchmarks in `paths`, as Markdown together, named after the folder and the tox environment, and as CSV each; in
    `out`, or of a processor that says what it is in a folder there.

    ValueError where a file has no rows, or is of another processor or torch than the first.
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    commits: dict[str, str] = {}  # of each table
    machines, libraries = [], set()
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise Refusal(f"{path} is no JSON of benchmarks ({error}); write it with `tox -e speed`") from error
        rows: list[dict[str, Any]] = [row for benchmark in content["benchmarks"] for row in benchmark["extra_info"].get("rows", [])]
        if not rows:
            raise Refusal(f"{path} has no rows for a table; write it with `tox -e speed`")
        names = {row["table"] for row in rows}
        tables |= {name: [row for row in rows if row["table"] == name] for name in names}
        commits |= dict.fromkeys(names, content["commit_info"]["id"][:9])
        processor = content["machine_info"]["cpu"].get("brand_raw", "an unnamed processor")
        if kind := _first(content, "cpu_id"):  # many processors have one name
            processor += f" ({kind})"
        gpu = _first(content, "gpu")
        machines.append(f"{gpu or processor}, torch {_first(content, 'torch') or 'unknown'}")
        libraries |= {told(products) for benchmark in content["benchmarks"] if (products := benchmark["extra_info"].get("products"))}
        if machines[-1] != machines[0]:
            raise Refusal(f"{path} is of {machines[-1]} and {paths[0]} of {machines[0]}; measure both on one machine")
    folder = out / processor_folder(kind) if kind and not gpu else out
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "# The backbones' steps",
        "",
        f"`tox -e {out.name}` on {machines[0]}. Every ratio is the median of pairs that alternate within one run; in brackets, a 95 %",
        "interval of that median. Memory is the peak of tensor storage, weights and gradients included, where it is not called resident.",
        "",
    ]
    if libraries and not gpu:
        lines += [f"Libraries of float32 products in these runs: {'; or '.join(sorted(libraries))}.", ""]
    written = []
    for table, title in TITLES.items():
        if table not in tables:
            continue
        frame = pd.DataFrame(tables[table]).drop(columns="table")
        written.append(folder / f"{table}.csv")
        frame.to_csv(written[-1], index=False, float_format="%.6g", lineterminator="\n")
        lines += [f"## {title}", "", f"Commit {commits[table]}.", "", *_markdown(frame), ""]
    page = folder / f"{out.name}.md"
    page.write_text("\n".join(lines), encoding="utf-8")
    return [page, *written]


def told(products: dict[str, str]) -> str:
    """Which library multiplies what, `bench.backbone.PRODUCTS`.

    >>> told({"forward": "onednn", "of_rows": "torch"})
    'forward onednn, of_rows torch'
    """
    return ", ".join(f"{kind} {library}" for kind, library in products.items())


def processor_folder(kind: str) -> str:
    """Vendor, family and model of a `cpu_id`.

    >>> processor_folder("GenuineIntel, family 6, model 143, stepping 8"), processor_folder("implementer 0x41, part 0xd40")
    ('genuineintel-6-143', 'implementer-0x41-part-0xd40')
    """
    words = kind.replace("family ", "").replace("model ", "").partition(", stepping")[0]
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def of_pairs(ratios: Sequence[float]) -> dict[str, float | int]:
    """Fields of a row: the median of pairs and its 95 % interval, from their order alone (binomial, conservative).

    >>> of_pairs([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8])
    {'ratio': 1.4, 'low': 1.1, 'high': 1.7, 'pairs': 9}
    """
    ordered, num = sorted(ratios), len(ratios)
    place = max(0, int(binom.ppf(0.025, num, 0.5)) - 1)
    return {"ratio": statistics.median(ordered), "low": ordered[place], "high": ordered[-1 - place], "pairs": num}


def _markdown(frame: pd.DataFrame) -> list[str]:
    """Bytes as MiB, the interval behind its ratio, everything else as it is."""
    shown = pd.DataFrame(index=frame.index)
    for column in frame.columns:
        if column in ("low", "high"):
            continue
        if column == "ratio" and "low" in frame:
            shown["ratio"] = [f"{r:.3f} [{low:.3f}, {high:.3f}]" for r, low, high in zip(frame.ratio, frame.low, frame.high, strict=True)]
        elif column.endswith("_bytes"):
            shown[column.removesuffix("_bytes").replace("_", " ") + ", MiB"] = [f"{value / 2**20:.1f}" for value in frame[column]]
        else:
            texts = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in frame[column]]
            shown[column] = [DASH if pd.isna(value) else text for value, text in zip(frame[column], texts, strict=True)]
    return [markdown_table(list(shown.columns), shown.to_numpy().tolist())]


def _first(content: dict[str, Any], name: str) -> str | None:
    """The first value that a benchmark left under this name."""
    return next((value for benchmark in content["benchmarks"] if (value := benchmark["extra_info"].get(name))), None)


def main(paths: list[Path], out: Annotated[Path, typer.Option(help="Folder of the tables.")]) -> None:
    """Write the tables of benchmark files."""
    try:
        for written in write(paths, out):
            typer.echo(written)
    except (Refusal, OSError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    typer.run(main)
