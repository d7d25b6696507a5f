"""The commands that measure and train nothing: arguments to calls. Whatever is heavy is imported inside the command that needs it."""

from pathlib import Path
from typing import Annotated

import typer

from bench.commands.arguments import EXIT_CELL_FAILED, RESULTS, Overrides, Results
from bench.shapes import Refusal, parse_size

Size = Annotated[str | None, typer.Option(help="64 or 48x64 (height x width): scale to cover it and crop. By default as stored.")]
NumFrames = Annotated[int, typer.Option(help="Frames of a clip.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
FORMS = "Videos, folders of frames or arrays (.npy, .npz) in a folder, or one array. Subfolders: classes."
CUTS = "Where a video is cut: random (one clip, drawn by seed and name), first, or disjoint (all that fit)."
MULTIPLE = "Of a folder: heights and widths are cut to multiples of it, in pixels. By default 16, or more where a backbone needs it."


def score(
    real: Annotated[Path, typer.Argument(metavar="REAL", help=FORMS)],
    generated: Annotated[Path, typer.Argument(metavar="GENERATED", help="The clips to score, in any of these forms.")],
    num_clips: Annotated[
        int | None, typer.Option("--num-clips", "-n", help="Clips of each set; by default as many as the smaller one has.")
    ] = None,
    num_frames: NumFrames = 16,
    stride: Annotated[int, typer.Option(help="Frames of a video from one frame of a clip to the next.")] = 1,
    start: Annotated[str, typer.Option(help=CUTS)] = "random",
    size: Size = None,
    seed: Annotated[int, typer.Option(help="Of the choice and the cutting of clips.")] = 0,
    extractor: Annotated[
        list[str] | None, typer.Option(help="Network to compare by; repeat it for several. By default i3d and motion.")
    ] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(help="Also measure as another tool does, the canonical value beside it: stylegan-v or cd-fvd.")
    ] = None,
    device: Device = "cpu",
    cache: Annotated[Path | None, typer.Option(help="Folder of cached features; the user's cache by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for score.json and score.md; by default Markdown is printed.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of Markdown.")] = False,
) -> None:
    """Score GENERATED clips against REAL ones: FVD and others with floors and intervals. Trains nothing."""
    from bench.commands.score import page
    from bench.commands.score.score import DEFAULT_EXTRACTORS
    from bench.commands.score.score import score as measure
    from bench.commands.score.windows import SeededCut
    from bench.data.progress import Reporter

    if out is not None:
        page.check_folder(out)
    cut = SeededCut(num_frames=num_frames, stride=stride, start=start, size=parse_size(size), seed=seed)
    with Reporter("score").live() as progress:
        found = measure(
            real,
            generated,
            cut=cut,
            num_clips=num_clips,
            extractors=extractor or DEFAULT_EXTRACTORS,
            protocols=protocol or (),
            device=device,
            cache=cache,
            progress=progress,
        )
    for path in page.write(found, out) if out is not None else []:
        typer.echo(path)
    if out is None or as_json:
        typer.echo(page.to_json(found) if as_json else page.to_markdown(found), nl=False)


def battery(
    extractor: Annotated[str, typer.Argument(metavar="EXTRACTOR", help="One that `ls` lists, a TorchScript file, or module:factory.")],
    clips: Annotated[
        Path | None,
        typer.Argument(metavar="[CLIPS]", help="Real clips in any form that `score` reads, 64 or more. By default moving shapes are made."),
    ] = None,
    num_clips: Annotated[
        int | None, typer.Option("--num-clips", "-n", min=2, help="Clips of each of the two sets; by default 256, or half of CLIPS.")
    ] = None,
    num_frames: NumFrames = 16,
    size: Size = None,
    device: Device = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder of the report card; reports/battery/EXTRACTOR by default.")] = None,
) -> None:
    """May this extractor score a model? Runs it through every damage to clips and writes its report card."""
    from bench.commands.score.battery import run_battery
    from bench.data.progress import Reporter

    folder = out or Path("reports") / "battery" / extractor
    with Reporter("battery").live() as progress:
        passed, verdict = run_battery(
            extractor, clips, folder, num_clips=num_clips, num_frames=num_frames, size=parse_size(size), device=device, progress=progress
        )
    typer.echo(f"{verdict}; card in {folder}")
    raise typer.Exit(0 if passed else EXIT_CELL_FAILED)


def profile(
    backbones: Annotated[list[str], typer.Argument(metavar="BACKBONE...", help="Names such as dit:DiT-S/2; several are put side by side.")],
    latents: Annotated[str, typer.Option(metavar="TxHxW", help="Frames, height and width of a clip's latents.")] = "16x32x32",
    batch_size: Annotated[int, typer.Option(min=1, help="Clips in a step.")] = 8,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda. Without CUDA, cuda is predicted.")] = "auto",
    card: Annotated[
        str | None, typer.Option(metavar="NAME", help="Predict for a GPU that is not here, for example H100-80GB, or a size such as 24GiB.")
    ] = None,
    fits: Annotated[bool, typer.Option("--fits", help="What is the largest step that fits? Takes minutes.")] = False,
    cross: Annotated[bool, typer.Option("--cross", help="Where do the first two cross as size and duration grow? Takes minutes.")] = False,
    channels: Annotated[int, typer.Option(min=1, help="Channels of the latents.")] = 4,
    labels: Annotated[int, typer.Option(min=0, help="Classes; 0 is unconditional.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for profile.md, profile.json and pictures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """What a BACKBONE costs, without training it: FLOPs, time, memory, and with --fits the largest step that fits a GPU."""
    from bench.commands.profile.command import run as run_profile
    from bench.commands.profile.command import show, write
    from bench.commands.profile.measure import Request
    from bench.data.progress import Reporter
    from bench.shapes import LatentSpec, parse_shape
    from bench.training.step import StepPoint

    request = Request(
        names=tuple(backbones),
        spec=LatentSpec(latent_channels=channels, spatial_stride=8, temporal_stride=1, num_labels=labels),
        point=StepPoint(batch_size=batch_size, shape=parse_shape(latents, "--latents")),
        precision=precision,
    )
    with Reporter("profile", interval_s=1.0).live() as progress:
        result = run_profile(request, device=device, card=card, fits=fits, cross=cross, draws=out is not None, progress=progress)
    _tell(result, show, write, out, as_json)


def audit(
    what: Annotated[str, typer.Argument(metavar="MATRIX|FOLDER", help="Name of a shipped matrix, a .yaml file, or a folder of videos.")],
    overrides: Overrides = None,
    shape: Annotated[
        str | None, typer.Option(metavar="TxHxW", help="Of a folder: the one shape of `crop`, in pixels; no clip has more frames or area.")
    ] = None,
    voxel_budget: Annotated[int | None, typer.Option(min=1, help="Of a folder: most latent voxels (T x H x W) in a batch.")] = None,
    backbone: Annotated[list[str] | None, typer.Option(help="Of a folder: whose steps to count, as dit:DiT-S/2; repeat it.")] = None,
    policy: Annotated[list[str] | None, typer.Option(help="Of a folder: a batching policy, as pack; repeat it. By default all.")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Of a folder: pixels of a side per latent voxel. By default 8.")] = None,
    multiple: Annotated[int | None, typer.Option(min=1, help=MULTIPLE)] = None,
    results: Results = RESULTS,
    out: Annotated[Path | None, typer.Option(help="Folder for audit.md, audit.json and ledger.svg.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """What batching policies use of the clips and what they lose, by name, and what a step costs. Trains nothing."""
    from bench.commands.audit.command import run as run_audit
    from bench.commands.audit.command import show, write
    from bench.commands.audit.subject import FolderOptions, is_folder, of_folder, of_matrix
    from bench.data.progress import Reporter
    from bench.run.checks import check_all, check_cell, check_primary
    from bench.study.matrix import load_study

    options = FolderOptions(
        shape=shape, voxel_budget=voxel_budget, backbones=backbone or (), policies=policy or (), stride=stride, multiple=multiple
    )
    with Reporter("audit").live() as progress:
        if is_folder(what):
            if overrides:
                raise Refusal(f"override {overrides[0]!r} is for a matrix, and {what} is a folder; see --help for what a folder takes")
            subject = of_folder(Path(what), options, results / "cache", progress)
        else:
            study = load_study(what, overrides)
            check_all(study.cells, check_cell)
            check_primary(study)
            subject = of_matrix(study, options, results / "cache", progress)
        result = run_audit(subject, progress)
    _tell(result, show, write, out, as_json)


def _tell(result, show, write, out: Path | None, as_json: bool) -> None:  # a model and how its command shows and writes it
    from rich.console import Console

    if as_json:
        typer.echo(result.model_dump_json(indent=1, ensure_ascii=True))  # names of files may hold what moves a cursor
    else:
        show(result, Console(highlight=False, soft_wrap=False))
    for path in write(result, out) if out is not None else []:
        typer.echo(path, err=as_json)
