"""A published denoiser as a backbone: at first with random weights, and with those of the checkpoint once they are asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.embeddings import LabelEmbedding
from torch import Tensor, nn

from baselines.diffusers_zoo.calls import Inputs
from baselines.diffusers_zoo.model import REFUSALS, LastPositions, blocks_of, without_dropout
from baselines.pretrained.calls import OWN_CALLS, OWN_POSITIONS, of_text
from baselines.pretrained.schedule import NoisePath, Schedule, read_schedule
from baselines.pretrained.weights import put_weights
from bench.backbone import Text, check_inputs
from bench.shapes import LatentSpec, Refusal

if TYPE_CHECKING:
    from baselines.pretrained import PretrainedConfig

FIXED_LENGTH = ("CogVideoXTransformer3DModel",)
CLASS_TABLE = "class_embedder.embedding_table.weight"  # DiT has one in every block


class PretrainedBackbone(nn.Module):
    """Latents in, prediction out, see `bench.backbone.Backbone`.

    Where there is text, labels say nothing; without it, two learnt tokens stand in its place, and the first is that of the label.
    """

    ragged = False

    def __init__(self, config: PretrainedConfig, spec: LatentSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.takes_text, self.takes_known_frames = config.takes_text, config.takes_known_frames
        self.num_tokens, self.check = config.num_tokens, config.check
        self.model = build_network(config, spec)
        known = [module.num_classes for module in self.model.modules() if isinstance(module, LabelEmbedding)]
        self.num_classes: int | None = known[0] if known else None  # that its own embedding knows, beside the null label
        self.context: nn.Parameter | None = None
        self.context_label: nn.Embedding | None = None
        if config.takes_text and not spec.text_width:
            self.context = nn.Parameter(torch.empty(2, config.text_width).normal_(std=0.02))
            if spec.num_labels:
                self.context_label = nn.Embedding(spec.num_labels + 1, config.text_width)
                nn.init.normal_(self.context_label.weight, std=0.02)
        self.positions = LastPositions(OWN_POSITIONS, config.name)
        self.call = OWN_CALLS.get(config.name, of_text)
        self.schedule: Schedule | None = None  # of the checkpoint, once its weights are here
        self.path: NoisePath | None = None

    def load_pretrained(self, path: NoisePath) -> None:
        """The checkpoint's weights, and from now on predictions of the target on `path`. Refusal where they do not fit."""
        config = self.config
        config.check_pretrained(self.spec, trained=True)
        found = read_schedule(config.checkpoint.scheduler, f"{config.checkpoint.name}: scheduler/scheduler_config.json")
        tables = [name for name in self.model.state_dict() if name.endswith(CLASS_TABLE)]
        known = config.fields.get(config.public.labels) if config.public.labels else None
        others = frozenset(tables) if known != self.num_classes else frozenset[str]()
        put_weights(self.model, config.checkpoint, others=others)
        self.schedule, self.path = found, path

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None, *, text: Text | None = None) -> list[Tensor]:
        """B clips (C, T, H, W) of one shape, timesteps (B,) in [0, 1], labels (B,) or None, text -> B clips (C, T, H, W)."""
        check_inputs(self.config.name, self, self.spec, latents, timesteps, labels, text)
        clips = torch.stack(latents)
        noised, given = clips.split([self.spec.latent_channels, self.spec.given_channels], dim=1)  # (B, C, T, H, W), (B, C + 1, ...)
        context, mask = self.conditioning(len(latents), labels, text)
        image = self.image(noised, given)

        def ask(scaled: Tensor, times: Tensor) -> Tensor:
            inputs = Inputs(
                clips=scaled if image is None else torch.cat([scaled, image], dim=1),
                timesteps=times,
                context=context,
                pooled=None,
                positions=self.positions.of(self.model, scaled),
                strides=(self.spec.temporal_stride, self.spec.spatial_stride, self.spec.spatial_stride),
            )
            return self.call(self.model, inputs, mask)

        if self.schedule is None or self.path is None:
            return list(ask(noised, 1000.0 * timesteps.float()))
        return list(self.schedule.ask(ask, noised, timesteps, self.path))

    def conditioning(self, num_clips: int, labels: Tensor | None, text: Text | None) -> tuple[Tensor, Tensor | None]:
        """What is attended to, (B, L, W), or of a DiT the classes, (B,); and which tokens count, (B, L), None where all do."""
        device = next(self.model.parameters()).device
        if (classes := self.num_classes) is not None:
            return torch.full((num_clips,), classes, device=device) if labels is None else labels, None
        if not self.takes_text:  # SVD: an image's embedding, which is zero where its own guidance leaves the image out
            return torch.zeros(num_clips, 1, self.config.text_width, device=device), None
        length = self.config.public.text_length(self.config.fields)
        if text is None:
            assert self.context is not None
            tokens = self.context.expand(num_clips, -1, -1)
            if self.context_label is not None:
                tokens = torch.stack([tokens[:, 0] + self.context_label(labels), tokens[:, 1]], dim=1)
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=device)
        else:
            tokens, mask = text.tokens * text.mask[..., None], text.mask
        if tokens.shape[1] > length:
            raise Refusal(f"{self.config.name} takes prompts of up to {length} tokens, got {tokens.shape[1]}; cut them to {length}")
        # Tokens of a caption are filled up as in training; learnt ones only where the class has positions for so many.
        missing = length - tokens.shape[1] if text is not None or self.config.name in FIXED_LENGTH else 0
        return nn.functional.pad(tokens, (0, 0, 0, missing)), nn.functional.pad(mask, (0, missing))

    def image(self, noised: Tensor, given: Tensor) -> Tensor | None:
        """What SVD is given of the first frame, in all frames: its latents as its autoencoder gives them, unscaled; zero without one."""
        if not self.takes_known_frames:
            return None
        if not self.spec.given_channels:
            return torch.zeros_like(noised)
        scaling = float(self.config.checkpoint.autoencoder.get("scaling_factor", 0.18215))
        return (given[:, :-1, :1] / scaling).expand(-1, -1, noised.shape[2], -1, -1)

    def repeated_blocks(self) -> list[nn.Module]:
        """Modules to compile or to recompute one by one."""
        return blocks_of(self.model)


def build_network(config: PretrainedConfig, spec: LatentSpec) -> Any:
    """diffusers' class at the checkpoint's configuration, but for what follows from this latent space. Refusal where it refuses."""
    public, fields = config.public, dict(config.fields)
    doubled = fields["out_channels"] == 2 * fields["in_channels"] and not public.image_channels  # it says a variance beside
    fields["in_channels"] = spec.latent_channels * (2 if public.image_channels else 1)
    fields["out_channels"] = spec.latent_channels * (2 if doubled else 1)
    if config.takes_text and spec.text_width:
        fields[public.row.context] = spec.text_width
    if public.labels and spec.num_labels:
        fields[public.labels] = spec.num_labels
    model_class = getattr(importlib.import_module(f"diffusers.models.{public.row.module}"), config.name)
    try:
        model = without_dropout(model_class(**fields))
    except (*REFUSALS, NotImplementedError) as error:
        what = str(error) or type(error).__name__
        raise Refusal(f"{config.checkpoint.name}: diffusers cannot build {config.name} of this config.json: {what}") from error
    for module in model.modules():
        if isinstance(module, LabelEmbedding):
            module.dropout_prob = 0.0  # the suite drops labels itself, for all contenders alike
    return model.to(torch.get_default_device())
