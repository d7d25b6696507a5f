"""docs/scale.md: hours, cost, memory and bottleneck of what cannot be run here, from inputs.yaml and counts.json. Knows no torch.

python -m bench.perf.evidence.scale.page --price 2.5
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.data.files import write_text
from bench.perf.evidence.scale.inputs import CASES, FOLDER, ScaleInputs, Value, network, read_counts, read_inputs
from bench.perf.evidence.scale.plan import PlannedTraining, again, card_of, cluster, fastest, fitting
from bench.perf.evidence.scale.ranged import Ranged, longest, number
from bench.perf.evidence.scale.simulator import KEPT_BYTES, saving_share
from bench.report.render.markdown import markdown_table
from bench.study.budget import CURVE_CLIPS, CURVE_FRACTIONS
from bench.study.cell import Cell
from bench.study.matrix import load_study

PAGE = Path("docs/scale.md")
TEXT = FOLDER / "page.md"
HOUR, GIB = 3600.0, 2**30
TIMESTEPS = 8  # of the validation loss (bench/training/objective.py)
SAVING_MOST = 1 / 20  # of the time, that checkpoints may take (bench/training/trainer.py)
EVALS = 2  # of the backbone in a guided denoising step
PAPER_DEVICES = (1, 8, 32)  # GPUs of a cell; its batch has 32 clips
SENSITIVE = ("baselines:UNet-L{block_channels: [256, 576, 1088, 1088]}", "dit:DiT-XL/2{hidden_size: 1408, num_heads: 22}")  # of a billion
EXPOSED = ("dit:DiT-B/2", "baselines:UNet-L{block_channels: [192, 384, 768, 768]}", SENSITIVE[1])
LEAST_MOVE, LEAST_NETWORK = 1.01, 0.05  # that are told of: a ratio, a share of a step


class Planner:
    """The page in the making."""

    def __init__(self, inputs: ScaleInputs, counts: dict[str, Any], price: float | None = None):
        """`price`: of a GPU hour, in place of the one in the inputs."""
        if price is not None:
            changed = inputs.values["price"].model_copy(update=dict.fromkeys(CASES, price))
            inputs = inputs.model_copy(update={"values": inputs.values | {"price": changed}})
        self.inputs, self.counts = inputs, counts
        self.clip_values = 1
        for size in counts["latents"]:
            self.clip_values *= size
        self.networks = {name: network(name, counts) for name in inputs.networks}

    def cluster(self, name: str, values: dict[str, float]) -> Any:
        """As a backbone finds it in one case."""
        return cluster(self.inputs, values, name, self.clip_values)

    def training(self, name: str, devices: int, batch_size: int, num_clips: float) -> PlannedTraining:
        """The way that is the fastest in the middle case."""
        return fastest(self.networks[name], self.cluster(name, self.inputs.of("middle")), devices, batch_size, num_clips)

    def ranged(self, training: PlannedTraining, of: Callable[[PlannedTraining, dict[str, float]], float]) -> Ranged:
        """A number of a training in all three cases, by the same plan."""
        name = training.network.name
        cases = [self.inputs.of(case) for case in CASES]
        return Ranged(*(of(again(training, self.cluster(name, values)), values) for values in cases))

    # --- the tables

    def inputs_table(self) -> str:
        """Every input with its range and source."""
        rows = [[value.what, _values(value), value.kind, value.source] for value in self.inputs.values.values()]
        return markdown_table(["input", "middle [range]", "is", "source"], rows, figures=[1])

    def paper_table(self) -> str:
        """A cell of `paper`, by one GPU and by several."""
        head = ["cell", "GPUs", "by", "GiB a GPU", "ms a step", "1000 steps", "epochs", "after it, h", "GPU hours", "waits for"]
        rows = []
        for cell in self.cells():
            for devices in PAPER_DEVICES:
                training = self.cell_training(cell, devices)
                rate = self.ranged(training, lambda each, values: 1 / each.step.seconds)
                steps = rate * cell.budget.amount
                rows.append(
                    [
                        short(cell.backbone) if devices == 1 else "",
                        str(devices),
                        training.way,
                        f"{training.peak_bytes / GIB:.0f}",
                        str(self.ranged(training, lambda each, values: 1e3 * each.step.seconds)),
                        str(steps * 1e-3),
                        str(steps * (training.plan.clips * devices / self.inputs.train_clips)),
                        str(self.after(cell, training)),
                        str(self.cell_hours(cell, devices) * devices),
                        waits(training),
                    ]
                )
        return markdown_table(head, rows, figures=(1, *range(3, 9)))

    def paper_whole(self) -> str:
        """All cells of `paper` on so many GPUs."""
        study, rows = load_study("paper"), []
        seeds = len({named.cell.seed for named in study.cells})
        for there in self.inputs.devices:
            for devices in PAPER_DEVICES:
                at_once = min(len(study.cells), there // devices)
                if not at_once:
                    continue
                turns = -(-len(study.cells) // at_once)
                each = [self.cell_hours(cell, devices) for cell in self.cells()]
                wall = longest(each) * turns + self.shared()
                used = sum(each, start=Ranged(0, 0, 0)) * (devices * seeds) + self.shared()
                numbers = (there, devices, at_once, wall, used, self.cost(used), there - at_once * devices)
                rows.append(list(map(str, numbers)))
        head = ["GPUs there", "a cell on", "cells at once", "hours", "GPU hours", "cost", "GPUs idle"]
        return markdown_table(head, rows, figures=range(len(head)))

    def ladder_table(self) -> str:
        """Every rung on every number of GPUs."""
        ladder, rows = self.inputs.ladder, []
        num_clips = float(ladder.steps * ladder.batch_size)
        for name, net in self.networks.items():
            for devices in self.inputs.devices:
                training = self.training(name, devices, ladder.batch_size, num_clips)
                every = fitting(net, training.cluster, devices, ladder.batch_size, num_clips)
                others = [each for each in every if each.plan.kind != training.plan.kind]
                other = min(others, key=lambda each: each.seconds, default=None)
                hours = self.ranged(training, self.saved_hours)
                asked = -(-ladder.batch_size // devices)
                rows.append(
                    [
                        f"{short(name)}, {net.num_params / 1e6:,.0f} M" if devices == self.inputs.devices[0] else "",
                        str(devices),
                        training.way,
                        f"{other.way}, {number(self.saved_hours(other, self.inputs.of('middle')))}" if other else "does not fit",
                        f"{training.plan.clips}" + f" of {asked}" * (training.plan.clips < asked),
                        f"{training.peak_bytes / GIB:.0f}",
                        str(self.ranged(training, lambda each, values: 1e3 * each.step.seconds)),
                        str(hours),
                        str(hours * devices),
                        str(self.cost(hours * devices)),
                        waits(training),
                    ]
                )
        head = ["rung", "GPUs", "by", "else, hours", "clips a GPU", "GiB a GPU", "ms a step", "hours", "GPU hours", "cost", "waits for"]
        return markdown_table(head, rows, figures=(1, *range(5, 10)))

    def movers_table(self) -> str:
        """How far one input alone moves the hours of the largest rungs, from its best to its worst."""
        ladder, found = self.inputs.ladder, dict[str, list[float]]()
        for name in SENSITIVE:
            for devices in self.inputs.devices:
                training = self.training(name, devices, ladder.batch_size, 1.0)
                middle = self.inputs.of("middle")
                for key, value in self.inputs.values.items():
                    both = [self.saved_hours(again(training, self.cluster(name, values)), values)
                            for values in (middle | {key: value.best}, middle | {key: value.worst})]  # fmt: skip
                    found.setdefault(key, []).append(both[1] / both[0])
        order = [key for key in sorted(found, key=lambda key: -max(found[key])) if max(found[key]) >= LEAST_MOVE]
        head = ["input", *(f"{short(name).partition(' ')[0]}, {devices}" for name in SENSITIVE for devices in self.inputs.devices)]
        rows = [[self.inputs.values[key].what, *(f"{ratio:.2f}" for ratio in found[key])] for key in order]
        return markdown_table(head, rows, figures=range(1, len(head)))

    def exposed(self, name: str, devices: int) -> tuple[float, float]:
        """Milliseconds of a step by DDP as it is, and if all gradients travelled behind the backward pass; the middle case."""
        values = self.inputs.of("middle")
        as_it_is, behind = (self.cluster(name, values | {"ddp_hidden": hidden}) for hidden in (0.0, 1.0))
        every = fitting(self.networks[name], as_it_is, devices, self.inputs.ladder.batch_size, 1.0)
        training = next(each for each in every if each.way == "ddp")
        return 1e3 * training.step.seconds, 1e3 * again(training, behind).step.seconds

    # --- what they are made of

    def cells(self) -> list[Cell]:
        """One cell of `paper` for each backbone; its seeds cost the same."""
        return list({named.cell.backbone: named.cell for named in load_study("paper").cells}.values())

    def cell_training(self, cell: Cell, devices: int) -> PlannedTraining:
        """A cell of `paper`; how many clips it sees is not asked here, as it ends by the clock."""
        assert cell.batching.batch_size is not None
        return self.training(cell.backbone, devices, cell.batching.batch_size, 1.0)

    def cell_hours(self, cell: Cell, devices: int) -> Ranged:
        """Of a cell of `paper`: its budget, and what is beside it."""
        return self.after(cell, self.cell_training(cell, devices)) + cell.budget.amount / HOUR

    def saved_hours(self, training: PlannedTraining, values: dict[str, float]) -> float:
        """Of a training with its checkpoints."""
        interval_s = Cell.model_fields["checkpoint_interval_s"].default
        save_s = KEPT_BYTES * training.network.num_params / values["write_rate"]
        return training.seconds * (1 + saving_share(save_s, interval_s, SAVING_MOST)) / HOUR

    def after(self, cell: Cell, training: PlannedTraining) -> Ranged:
        """Hours beside the budget: checkpoints, validation, sampling twice where the untrained weights are scored, decoding, features."""
        num, devices, net = cell.evaluation.num_samples, training.plan.devices, training.network
        sets = 1 + bool(cell.evaluation.untrained)
        passes = TIMESTEPS * (cell.data.num_val + CURVE_CLIPS * len(CURVE_FRACTIONS)) + sets * num * cell.sampler.num_steps * EVALS

        def hours(each: PlannedTraining, values: dict[str, float]) -> float:
            save_s = KEPT_BYTES * net.num_params / values["write_rate"]
            saving_s = cell.budget.amount * saving_share(save_s, cell.checkpoint_interval_s, SAVING_MOST)
            decode_s = sets * num * cell.data.num_frames * self.frame_s("decode", values)
            judge_s = sets * num * values["feature_s"]
            return (saving_s + (passes * net.forward_flops / each.cluster.flops + decode_s + judge_s) / devices) / HOUR

        return self.ranged(training, hours)

    def shared(self) -> Ranged:
        """Hours of one GPU for what all cells share: every clip to latents, the held-out ones back, their features."""
        (cell, *_), num_train = self.cells(), self.inputs.train_clips
        held_out = cell.data.num_val + cell.data.num_test
        hours = []
        for case in CASES:
            values = self.inputs.of(case)
            frames_s = (num_train + held_out) * self.frame_s("encode", values) + cell.data.num_val * self.frame_s("decode", values)
            hours.append((cell.data.num_frames * frames_s + (held_out + cell.data.num_val) * values["feature_s"]) / HOUR)
        return Ranged(*hours)

    def frame_s(self, way: str, values: dict[str, float]) -> float:
        """Seconds of the autoencoder for a frame, in float32."""
        peak = card_of(self.inputs).peaks["fp32"]
        assert peak is not None
        return float(self.counts["frame_flops"][way] / (peak * values["frame_share"]))

    def cost(self, gpu_hours: Ranged) -> Ranged:
        """At the price."""
        return gpu_hours * self.inputs.values["price"].middle


def waits(training: PlannedTraining) -> str:
    """What a step waits for, in the middle case, and how much of it for the network."""
    step = training.step
    share = step.exposed_s / step.seconds
    told = f", network {100 * share:.0f} %" * (share >= LEAST_NETWORK and step.bottleneck != "network")
    return step.bottleneck + told


def _values(value: Value) -> str:
    """A range as a table has it."""
    low, high = sorted((value.best, value.worst))
    return f"{value.middle:.2g}" + f" [{low:.2g}, {high:.2g}]" * (low != high)


def short(name: str) -> str:
    """A backbone without its module, and a rung of our own by its widths alone."""
    config, _, changes = name.partition(":")[2].partition("{")
    if not changes:
        return config
    family = config.partition("-")[0]
    widths = changes.partition("[")[2].partition("]")[0].replace(", ", "-") or changes.partition("hidden_size: ")[2].partition(",")[0]
    return f"{family} {widths}"


def to_markdown(planner: Planner) -> str:
    """The page: page.md with its tables."""
    inputs, card = planner.inputs, card_of(planner.inputs)
    exposed = {short(name): planner.exposed(name, max(inputs.devices)) for name in EXPOSED}
    told = {
        "card": inputs.card,
        "usable": f"{card.usable_bytes / GIB:.1f}",
        "peak": f"{(card.peaks['bf16'] or 0) / 1e12:.0f}",
        "exact": f"{(card.peaks['fp32'] or 0) / 1e12:.0f}",
        "price": number(inputs.values["price"].middle),
        "inputs": planner.inputs_table(),
        "paper": planner.paper_table(),
        "whole": planner.paper_whole(),
        "shared": str(planner.shared()),
        "train_clips": f"{inputs.train_clips:,}",
        "ladder": planner.ladder_table(),
        "steps": f"{inputs.ladder.steps:,}",
        "batch": str(inputs.ladder.batch_size),
        "millions": f"{inputs.ladder.steps * inputs.ladder.batch_size / 1e6:.0f}",
        "movers": planner.movers_table(),
        "exposed": "; ".join(f"{name} {now:.0f} ms, {then:.0f}" for name, (now, then) in exposed.items()),
    }
    return TEXT.read_text().format(**told)


def main(
    price: Annotated[float | None, typer.Option(help="Of a GPU hour, in your money.", min=0)] = None,
    out: Annotated[Path, typer.Option(help="The page.")] = PAGE,
) -> None:
    """Write the page."""
    write_text(out, to_markdown(Planner(read_inputs(), read_counts(), price)))


if __name__ == "__main__":
    typer.run(main)
