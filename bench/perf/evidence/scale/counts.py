"""What can be known of backbones without running them at scale: counted and predicted on tensors without contents, into counts.json.

    python -m bench.perf.evidence.scale.counts

Five minutes on one core. What is planned with it is `bench.perf.evidence.scale.page`.
"""

import importlib
import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.backbone import canonical_name, find_factory, load_backbone, split_name
from bench.data.files import write_text
from bench.data.progress import Reporter
from bench.meters.flops import count_flops
from bench.meters.operators import OperatorCounter
from bench.perf.evidence.scale.inputs import COUNTS, read_inputs
from bench.shapes import LatentSpec, Shape
from bench.study.cell import Acceleration
from bench.training.acceleration import accelerate
from bench.training.predict import Predictor
from bench.training.step import Stepper, StepPoint, make_batch

SPEC = LatentSpec(latent_channels=4, spatial_stride=8, temporal_stride=1, num_labels=101)  # of `paper`
SHAPE: Shape = (16, 32, 32)  # its latents
RATED: Shape = (8, 16, 16)  # of the clips whose rate on a GPU is in reports/speed-gpu/peers.csv
FEW, MANY = (1, 2), (16, 32)  # clips of a step, from whose peaks that of any number is told; where blocks are checkpointed
MOST_PARAMS = 200_000_000  # of a backbone that is made to be counted


def network_counts(name: str) -> dict[str, Any]:
    """The fields of a `Network` of simulator.py, and the predicted peaks that its bytes of a clip come from."""
    predictor = Predictor(name, SPEC, "bf16", "cuda")
    backbone: Any = predictor._stepper.backbone
    peaks = {num: predictor.peak_bytes("training", StepPoint(batch_size=num, shape=SHAPE)) for num in FEW}
    accelerate(backbone, Acceleration(checkpointing="blocks"))
    lean = {num: predictor.peak_bytes("training", StepPoint(batch_size=num, shape=SHAPE)) for num in MANY}
    seen, units = set[int](), []
    for unit in backbone.shard_units():  # inner ones come first
        own = {id(weight): weight.numel() for module in unit for weight in module.parameters() if id(weight) not in seen}
        seen |= own.keys()
        units.append(sum(own.values()))
    return {
        "num_params": predictor.num_params,
        "forward_flops": count_flops(name, SPEC, SHAPE),
        "launches": num_launches(name if predictor.num_params < MOST_PARAMS else narrow(name)),
        "unit_params": units,
        "clip_bytes": (peaks[FEW[1]] - peaks[FEW[0]]) // (FEW[1] - FEW[0]),
        "checkpointed_bytes": (lean[MANY[1]] - lean[MANY[0]]) // (MANY[1] - MANY[0]),
        "peaks": {str(num): value for num, value in peaks.items()},
        "checkpointed_peaks": {str(num): value for num, value in lean.items()},
    }


def num_launches(name: str) -> int:
    """Operators of a training step in bfloat16, counted on a CPU with the formulas that a GPU takes, on small latents."""
    kernels = importlib.import_module(f"{name.partition(':')[0]}.kernels")
    elsewhere = kernels.OPERATIONS.plain(*kernels.OF_A_CPU)
    device, point = torch.device("cpu"), StepPoint(batch_size=2, shape=(2, 8, 8))
    backbone: Any = load_backbone(name, SPEC)
    stepper = Stepper(backbone.train(), device, "bf16", trains=True)
    batch = make_batch(SPEC, point, "training", device)
    stepper.step("training", batch)  # looks for the weights to cast
    with elsewhere, OperatorCounter() as counter:
        stepper.step("training", batch)
    return counter.num_launches


def narrow(name: str) -> str:
    """The backbone at a quarter of its width: as many operators."""
    plain, changes = split_name(name)
    factory: Any = find_factory(name)
    return str(canonical_name({"name": plain, **changes, **factory.scaled(1 / 4, 0)}))


def frame_flops() -> dict[str, int]:
    """FLOPs of a frame of 256x256 through Stable Diffusion's autoencoder, to latents and back."""
    from diffusers import AutoencoderKL
    from torch.utils.flop_counter import FlopCounterMode

    found = {}
    with torch.device("meta"), torch.no_grad():
        network: Any = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=256,
        )  # fmt: skip
        for way, values in (("encode", torch.empty(1, 3, 256, 256)), ("decode", torch.empty(1, 4, 32, 32))):
            with FlopCounterMode(display=False) as counter:
                getattr(network, way)(values)
            found[way] = counter.get_total_flops()
    return found


def main(out: Annotated[Path, typer.Option(help="The file.")] = COUNTS) -> None:
    """Count and write."""
    inputs, progress, found = read_inputs(), Reporter("counts"), {}
    for done, name in enumerate(names := [*inputs.networks]):
        progress(done, len(names), name)
        found[name] = network_counts(name)
    counts = {
        "latents": [SPEC.latent_channels, *SHAPE],
        "networks": found,
        "rated_shape": RATED,
        "rated_flops": {name: count_flops(name, SPEC, RATED) for name in inputs.rated},
        "frame_flops": frame_flops(),
    }
    write_text(out, json.dumps(counts, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
