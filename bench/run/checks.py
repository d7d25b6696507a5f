"""What must hold of a cell before anything is built: known without torch, and asked of every cell before the first one runs."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from bench.backbone import check_latents, find_factory
from bench.data.frozen import content_hash
from bench.data.plugin import BrokenPlugin
from bench.data.policy.table import POLICIES, UNIFORM
from bench.data.text.config import EncodedText, text_size
from bench.metrics.battery.cards import told
from bench.metrics.distances.table import distances
from bench.metrics.extractors.manifest import MANIFESTS
from bench.metrics.following.values import FOLLOWING
from bench.metrics.physics.table import scorecards
from bench.metrics.protocol import CANONICAL_EXTRACTOR, read_name
from bench.metrics.weights import table as weights
from bench.run.extra import needs
from bench.run.told import check_clip_score, check_followed
from bench.run.watch import Watch
from bench.shapes import LatentSpec, Refusal, did_you_mean
from bench.study.cell import Cell
from bench.study.contrasts import NEXT_PATCH
from bench.study.matrix import NamedCell, Study

Found = TypeVar("Found")
UNWATCHED = Watch()


def latent_spec(cell: Cell, num_labels: int) -> LatentSpec | None:
    """Latent space of a cell as far as it is known before its autoencoder is loaded; None for a pretrained one."""
    if cell.autoencoder.kind != "trained":
        return None
    spec = LatentSpec(
        latent_channels=cell.autoencoder.latent_channels,
        spatial_stride=cell.autoencoder.spatial_stride,
        temporal_stride=1,
        num_labels=num_labels,
    )
    return given_to(cell, spec)


def given_to(cell: Cell, spec: LatentSpec) -> LatentSpec:
    """A latent space, and what a cell's backbone is given beside noised latents and labels: known frames, captions."""
    spec = spec.with_known_frames() if cell.objective.known_frames else spec
    return spec if cell.text is None else spec.with_text(*text_size(cell.text))


def seedless(cell: Cell) -> str:
    """What cells share that differ in their seed alone."""
    return cell.model_copy(update={"seed": 0}).fingerprint()


def checked_by(cell: Cell) -> str:
    """What cells share whose canaries check the same: the code of a step, on the same data, in the same precision."""
    parts = {"backbone", "initialise", "data", "batching", "autoencoder", "text", "objective", "precision", "acceleration", "device"}
    return content_hash([cell.model_dump(mode="json", include=parts), bool(cell.budget.amount)])  # without a budget nothing is resumed


def same_step(cell: Cell) -> str:
    """What cells share whose training steps need the same memory; where shapes differ, which clips are in a step depends on the seed."""
    parts = {"backbone", "initialise", "data", "batching", "autoencoder", "text", "objective", "precision", "acceleration", "device"}
    parts |= {"seed"} if cell.batching.batch_size is None else set()
    return content_hash(cell.model_dump(mode="json", include=parts))


def check_all(
    cells: Iterable[NamedCell],
    check: Callable[[Cell], Found],
    broken: dict[str, BaseException] | None = None,
    watch: Watch = UNWATCHED,
    *,
    what: str = "a check of the backbone",
    alike: Callable[[Cell], str] = seedless,
) -> dict[str, Found]:
    """Cell's name -> what `check` finds, asked once of all that are `alike` in what it looks at.

    Refusal with a line for everything that it refuses, and the cells that it is wrong with. Where it raises anything else, the fault is a
    plug-in's: these cells are then `broken`, with the error, and no other is held up by them. Where that is None, it is refused too.
    """
    faulty: dict[str, BaseException] = {} if broken is None else broken
    found: dict[str, Found] = {}
    wrong: dict[str, list[str]] = {}
    groups: dict[str, list[NamedCell]] = {}
    for named in cells:
        groups.setdefault(alike(named.cell), []).append(named)
    for group in groups.values():
        if not (names := [named.name for named in group if named.name not in faulty]):
            continue
        cell, limit_s = group[0].cell, max(named.cell.timeout_s for named in group)
        with watch.over(names, what, limit_s):
            try:
                found |= dict.fromkeys(names, check(cell))
            except (BrokenPlugin, SystemExit) as error:
                faulty |= dict.fromkeys(names, error)
            except Refusal as error:
                wrong.setdefault(str(error), []).extend(names)
            except Exception as error:  # noqa: BLE001  another person's code; what it raised is in the record of its own cell
                faulty |= dict.fromkeys(names, error)
    lines = [f"cell {', '.join(names)}: {line}" for line, names in wrong.items()]
    if broken is None:
        lines += tell_broken(faulty)
    if lines:
        raise Refusal(*lines)
    return found


def tell_broken(broken: dict[str, BaseException]) -> list[str]:
    """A line for each error, and the cells that it is of."""
    cells: dict[str, list[str]] = {}
    for name, error in broken.items():
        kind = "" if isinstance(error, BrokenPlugin) else f"{type(error).__name__}: "
        cells.setdefault(kind + " ".join(str(error).split())[:300], []).append(name)
    return [f"cell {', '.join(names)}: {what}" for what, names in cells.items()]


def check_weights(study: Study) -> None:
    """WeightsError, with the command that gets them, where weights of an extractor are missing or damaged."""
    asked = {name for named in study.cells if named.cell.evaluation.num_samples for name in named.cell.evaluation.extractors}
    for extractor in sorted(asked & set(weights.SOURCES)):
        weights.files(extractor)


def check_primary(study: Study) -> None:
    """Refusal where the measure that is to decide is none, is not measured in every cell, or may not decide on a cell's data."""
    name = study.matrix.primary
    if name is None:
        return
    if cards := [card for card in scorecards() if any(value.name == name for value in card.values)]:
        _check_physics_primary(study, name, [world for card in cards for world in card.worlds])
        return
    if any(value.name == name for value in FOLLOWING):
        for named in study.cells:
            check_followed(named.name, name, named.cell)
        return
    kind, extractor = (read_name(name) if "@" not in name else None) or (None, "")
    if kind is None or extractor not in MANIFESTS:
        among = [distance.name(known, CANONICAL_EXTRACTOR) for distance in distances().values() for known in MANIFESTS]
        raise Refusal(f"primary {name!r} is no distance{did_you_mean(name, among)}; there are {', '.join(among)}")
    for named in study.cells:
        listed = named.cell.evaluation.extractors
        if extractor not in listed:
            raise Refusal(
                f"primary {name} needs extractor {extractor}, and cell {named.name} has {', '.join(listed)}; add it to "
                "evaluation.extractors, name another primary, or none: primary=null"
            )
        passed, why = told(MANIFESTS[extractor], named.cell.data)
        if extractor != CANONICAL_EXTRACTOR and not passed:
            raise Refusal(
                f"primary {name} may not decide: {why}; use fvd or no primary (primary=null), or make a card that passes: "
                f"python -m bench battery {extractor} [CLIPS] --out reports/cards/{extractor}"
            )


def check_contrasts(study: Study) -> None:
    """Refusal where the claim `next-patch` would be judged by sides of which the first does not generate patches, or the second does."""
    if study.matrix.claim != "next-patch":
        return
    backbones = {content_hash(named.axes): named.cell.backbone for named in study.cells}
    names = [backbones[content_hash(axes)] for axes in study.contrasts[NEXT_PATCH]]
    try:
        first, second = map(find_factory, names)
    except BrokenPlugin:  # is said of its cells, as everything that is wrong with one
        return
    generates = [getattr(factory, "generates_units", False) for factory in (first, second)]
    if not generates[0] or getattr(first, "unit", None) != "patch" or generates[1]:
        raise Refusal(
            f"claim next-patch: {NEXT_PATCH!r} compares {names[0]} with {names[1]}; its first side has to generate patch after patch, as "
            "dit:AR-XS/2-patch does, and its second whole clips, as dit:DiT-XS/2; name such two, or another claim"
        )


def _check_physics_primary(study: Study, name: str, worlds: list[str]) -> None:
    """Refusal where a score of physics worlds that is to decide is not measured in every cell."""
    for named in study.cells:
        if (world := getattr(named.cell.data, "world", None)) not in worlds:
            what = "no physics world" if world is None else f"world {world}"
            raise Refusal(f"primary {name} is a score of {', '.join(worlds)}, and cell {named.name} has {what}; name another primary")
        if "in" not in named.cell.evaluation.regions:
            raise Refusal(f"primary {name} is measured in regions, and cell {named.name} has none; give evaluation.regions=[in, out]")


def judge_of(primary: str | None) -> str | None:
    """The extractor of a primary measure, None without one."""
    found = read_name(primary) if primary else None
    return found[1] if found else None


def card_text(study: Study) -> str:
    """What the report cards say of that extractor on the study's data; "" without a primary."""
    judge = judge_of(study.matrix.primary)
    return "; ".join(dict.fromkeys(told(MANIFESTS[judge], named.cell.data)[1] for named in study.cells)) if judge else ""


def check_extractors(cell: Cell) -> None:
    """Refusal for an extractor that is not there or cannot take clips as short or long as these."""
    for extractor in cell.evaluation.extractors if cell.evaluation.num_samples else ():
        if extractor not in MANIFESTS:
            near = did_you_mean(extractor, list(MANIFESTS))
            raise Refusal(f"unknown extractor {extractor!r}{near}; there are {', '.join(MANIFESTS)}")
        MANIFESTS[extractor].check_frames(cell.data.num_frames, "data.num_frames ")


def check_cell(cell: Cell) -> None:
    """Refusal for a backbone that is not there or a shape it cannot take, as far as this is known without torch."""
    check_extractors(cell)
    check_clip_score(cell)
    factory = find_factory(cell.backbone)
    check_policy(cell, factory)
    check_known_frames(cell, factory)
    check_units(cell, factory)
    check_text(cell, factory)
    check_initialise(cell, factory)
    spec = latent_spec(cell, num_labels=0)
    if spec is not None:
        shape = spec.latent_shape((cell.data.num_frames, cell.data.height, cell.data.width))
        check_latents(factory, shape)
        if cell.batching.stills:
            check_latents(factory, (1, *shape[1:]))


def check_known_frames(cell: Cell, backbone: Any) -> None:
    """Refusal for known frames that a backbone, or its factory, does not say that it takes."""
    if cell.objective.known_frames and not getattr(backbone, "takes_known_frames", False):
        raise Refusal(
            f"objective.known_frames {cell.objective.known_frames} needs a backbone that takes known frames, {cell.backbone!r} does not; "
            "use 0 or another backbone"
        )


def check_units(cell: Cell, backbone: Any) -> None:
    """Refusal for what a backbone that generates a clip unit after unit, or its factory, cannot be trained by."""
    if not getattr(backbone, "generates_units", False):
        return
    name = f"{cell.backbone!r} generates a clip unit after unit"
    if cell.objective.name != "rectified_flow":
        raise Refusal(f"objective.name {cell.objective.name!r}: {name}, which is learnt by rectified_flow alone; use that")
    if POLICIES.find(cell.batching.policy).pads:
        use = " or ".join(repr(policy.name) for policy in POLICIES.own.values() if not (policy.pads or policy.needs_ragged))
        raise Refusal(f"batching.policy {cell.batching.policy!r} pads clips, and {name}: padding would be a past; use {use}")


def check_text(cell: Cell, backbone: Any) -> None:
    """Refusal for captions that a backbone, or its factory, does not say that it takes, or an encoder that is not there."""
    if cell.text is None:
        return
    if not getattr(backbone, "takes_text", False):
        raise Refusal(
            f"text.encoder {cell.text.encoder} needs a backbone that takes captions, {cell.backbone!r} does not; leave out text or use "
            "another backbone"
        )
    if isinstance(cell.text, EncodedText):
        needs("transformers", extra="text", asked=f"text.encoder {cell.text.encoder}")
    text_size(cell.text)


def check_prompts(cell: Cell, has_labels: bool) -> None:
    """Refusal for prompts to a cell that reads none, or has never seen a caption without its clip's label."""
    if cell.text is None:
        raise Refusal("--prompt is for a cell with text, and this one was given no captions; train one with text and data.captions")
    if has_labels and not cell.objective.label_dropout:
        raise Refusal(
            "--prompt: this cell has read captions beside labels alone (objective.label_dropout 0), and a prompt has no label; train it "
            "with objective.label_dropout above 0"
        )


def check_initialise(cell: Cell, factory: Any) -> None:
    """Refusal for pretrained weights of a backbone that has none."""
    if cell.initialise == "pretrained" and not hasattr(factory, "check_pretrained"):
        raise Refusal(
            f"initialise pretrained needs a public checkpoint, {cell.backbone!r} is none; name one, pretrained:PATH, or use random"
        )
    if cell.initialise == "pretrained" and isinstance(cell.text, EncodedText) and cell.text.filled != factory.text_filled:
        raise Refusal(
            f"text.filled {str(cell.text.filled).lower()}: the weights of {cell.backbone!r} were trained the other way; "
            f"use {str(factory.text_filled).lower()}"
        )


def weights_digest(cell: Cell) -> str | None:
    """Hash of the files that a cell's backbone is made of; None of one that is code alone."""
    digest = getattr(find_factory(cell.backbone), "weights_digest", None)
    return None if digest is None else str(digest(pretrained=cell.initialise == "pretrained"))


def check_policy(cell: Cell, backbone: Any) -> None:
    """Refusal for a batching policy that a backbone, or its factory as far as that says, cannot do."""
    policy = POLICIES.find(cell.batching.policy)
    if policy.needs_ragged and not getattr(backbone, "ragged", True):
        use = " or ".join(map(repr, UNIFORM))
        raise Refusal(f"batching.policy {policy.name!r} mixes shapes in a batch, {cell.backbone!r} takes one at a time; use {use}")
