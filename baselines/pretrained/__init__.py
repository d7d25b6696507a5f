"""Public weights as contenders: "pretrained:/path/to/pipeline", "pretrained:org/name@revision". Knows no torch.

A pipeline in diffusers' layout (model_index.json, the denoiser, its scheduler) is a backbone like any other: without `initialise:
pretrained` in the cell its architecture with random weights, which predicts our objective's target itself; with it the checkpoint's
weights on the checkpoint's own noise schedule, which `schedule.py` translates. docs/public-weights.md has what each needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from baselines.diffusers_zoo import ANY, CLASSES, DiffusersClass, Fields, check_sizes, class_defaults, tokens_of
from baselines.pretrained.checkpoint import Checkpoint, open_checkpoint
from bench.backbone import tuples
from bench.shapes import LatentSpec, Refusal, Shape, did_you_mean

if TYPE_CHECKING:
    from baselines.pretrained.model import PretrainedBackbone


@dataclass(frozen=True, kw_only=True)
class PublicClass:
    """One class of denoisers as it is published; how it is called is in `calls.py`."""

    row: DiffusersClass
    text_length: Callable[[Fields], int]  # tokens that a prompt is filled up to, as in its own pipeline; 0: it takes no text
    required: Fields = field(default_factory=dict)  # fields that the adapter relies on
    labels: str | None = None  # field: how many classes it knows, beside the null label
    image_channels: bool = False  # half of its input are the latents of an image that the clip begins with


DIT = DiffusersClass(
    module="transformers.dit_transformer_2d", small={}, context="", most=lambda fields: (1, ANY, ANY),
    divisors=lambda fields: (1, fields["patch_size"], fields["patch_size"]),
)  # fmt: skip
PUBLIC = {
    "CogVideoXTransformer3DModel": PublicClass(
        row=CLASSES["CogVideoXTransformer3DModel"],
        text_length=lambda fields: fields["max_text_seq_length"],
        required={"use_learned_positional_embeddings": False, "ofs_embed_dim": None},
    ),
    "DiTTransformer2DModel": PublicClass(row=DIT, text_length=lambda fields: 0, labels="num_embeds_ada_norm"),
    "LatteTransformer3DModel": PublicClass(
        row=CLASSES["LatteTransformer3DModel"], text_length=lambda fields: 120, required={"norm_type": "ada_norm_single"}
    ),
    "UNet3DConditionModel": PublicClass(
        row=CLASSES["UNet3DConditionModel"], text_length=lambda fields: 77, required={"time_cond_proj_dim": None}
    ),
    "UNetSpatioTemporalConditionModel": PublicClass(
        row=CLASSES["UNetSpatioTemporalConditionModel"], text_length=lambda fields: 0, image_channels=True
    ),
    "WanTransformer3DModel": PublicClass(
        row=CLASSES["WanTransformer3DModel"],
        text_length=lambda fields: 512,
        required={"image_dim": None, "added_kv_proj_dim": None, "pos_embed_seq_len": None},
    ),
}


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig:
    """One checkpoint. Calling it with a `LatentSpec` builds its architecture, with random weights, for that latent space."""

    ragged: ClassVar = False
    checkpoint: Checkpoint
    public: PublicClass
    fields: Fields  # of the checkpoint; what is not in its file is as diffusers has it

    @property
    def name(self) -> str:
        """The class, for what is said to a user."""
        return self.checkpoint.class_name

    @property
    def takes_text(self) -> bool:
        """Whether captions say what it makes."""
        return self.public.text_length(self.fields) > 0

    @property
    def takes_known_frames(self) -> bool:
        """Whether it goes on from a first frame."""
        return self.public.image_channels

    @property
    def text_width(self) -> int:
        """Channels of a token of what it attends to; 0 where it attends to nothing."""
        width = self.fields.get(self.public.row.context, 0)
        return int(width[0] if isinstance(width, tuple) else width)

    @property
    def text_filled(self) -> bool:
        """Whether it was trained to see what the encoder makes of the filling behind a caption: then all tokens are of the caption."""
        return self.name in ("CogVideoXTransformer3DModel", "UNet3DConditionModel")

    def check(self, shape: Shape) -> None:
        """Refusal where latents (T, H, W) do not divide into patches or levels, or are more than the class has positions for."""
        row = self.public.row
        check_sizes(self.name, shape, row.divisors(self.fields), row.most(self.fields))
        if row is DIT and shape[1] != shape[2]:
            raise Refusal(f"{self.name} of diffusers takes square latents, got {shape[1]} x {shape[2]}; crop to a square")

    def num_tokens(self, shape: Shape) -> int:
        """Patches of a transformer, latent voxels of a U-Net, for one clip of latents (T, H, W)."""
        return tokens_of(self.public.row, self.public.row.divisors(self.fields), shape)

    def weights_digest(self, *, pretrained: bool) -> str:
        """Hash of the files that decide what a cell of it is: with `pretrained` those of the weights too."""
        return self.checkpoint.digest(weights=pretrained)

    def check_pretrained(self, spec: LatentSpec, *, trained: bool) -> None:
        """Refusal where the weights cannot start in this latent space, or, not `trained`, cannot be sampled as they are."""
        wanted = self.fields["in_channels"] // (2 if self.public.image_channels else 1)
        if spec.latent_channels != wanted:
            raise Refusal(
                f"{self.checkpoint.name} has weights for latents of {wanted} channels, the autoencoder gives {spec.latent_channels}; "
                "use the pipeline's own: autoencoder.name, with subfolder: vae"
            )
        if self.takes_text and spec.text_width not in (0, self.text_width):
            raise Refusal(
                f"{self.checkpoint.name} has weights for text of width {self.text_width}, the captions' encoder gives {spec.text_width}; "
                f"use the pipeline's own, {self.checkpoint.folder / 'text_encoder'}"
            )
        if trained:
            return
        if self.takes_text and not spec.text_width:
            raise Refusal(
                f"{self.checkpoint.name} makes what a caption says, and this cell has none; give captions, or a budget to tune it"
            )
        known = self.fields.get(self.public.labels) if self.public.labels else None
        if known is not None and spec.num_labels not in (0, known):
            raise Refusal(
                f"{self.checkpoint.name} knows {known} classes, the data has {spec.num_labels}; use data without classes, or give a "
                "budget: its embedding of classes is then learnt anew"
            )
        if self.takes_known_frames and spec.given_channels:
            raise Refusal(
                f"{self.checkpoint.name} wants an image encoder's view of the first frame, which a backbone is not given; "
                "use objective.known_frames 0, or give a budget to tune it without"
            )

    def __call__(self, spec: LatentSpec) -> PretrainedBackbone:
        """The model for this latent space, freshly initialised from torch's global generator."""
        from baselines.pretrained.model import PretrainedBackbone

        return PretrainedBackbone(self, spec)


def configured(name: str) -> PretrainedConfig:
    """The checkpoint of a folder or a hub name. Refusal where it is not there, or of a class that is not known here."""
    checkpoint = open_checkpoint(name)
    class_name = checkpoint.class_name
    if class_name not in PUBLIC:
        known = ", ".join(PUBLIC)
        raise Refusal(f"{name}: {checkpoint.part} is a {class_name}{did_you_mean(class_name, list(PUBLIC))}; known are {known}")
    public = PUBLIC[class_name]
    defaults = class_defaults(public.row.module, class_name)
    given = {key: tuples(value) for key, value in checkpoint.config.items() if not key.startswith("_")}
    # Fields that this diffusers does not know are left out, as it does itself: weights that they would make are then refused.
    fields = {**defaults, **{key: value for key, value in given.items() if key in defaults}}
    for key, value in public.required.items():
        if fields.get(key) != value:
            raise Refusal(f"{name}: {class_name} with {key} {fields.get(key)!r} is not supported, only {value!r}; use another checkpoint")
    return PretrainedConfig(checkpoint=checkpoint, public=public, fields=fields)


class Checkpoints(dict[str, PretrainedConfig]):
    """Every folder and hub name there is; none is listed."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str)

    def __missing__(self, name: str) -> PretrainedConfig:
        return configured(name)


BACKBONES = Checkpoints()
