"""The `paper` matrix, which only a GPU can run: it resolves, its models build on the meta device, and they match."""

import pytest
import torch

from bench.backbone import find_factory, load_backbone
from bench.shapes import LatentSpec
from bench.study.matrix import Study, load_study

# Stable Diffusion's autoencoder: four channels, one latent voxel for 8x8 pixels. UCF-101 has 101 classes.
SPEC = LatentSpec(latent_channels=4, spatial_stride=8, temporal_stride=1, num_labels=101)


@pytest.fixture(scope="module")
def study() -> Study:
    return load_study("paper")


def test_it_is_the_size_of_papers(study: Study) -> None:
    for named in study.cells:
        data = named.cell.data
        assert (data.num_frames, data.height, data.width) == (16, 256, 256)
        assert named.cell.evaluation.num_samples == 2048  # a headline: no @n in the metric's name
    assert len({named.cell.seed for named in study.cells}) == 3


def test_models_build_on_meta_and_match(study: Study) -> None:
    sizes = {}
    for name in {named.cell.backbone for named in study.cells}:
        shape = SPEC.latent_shape((16, 256, 256))
        find_factory(name).check(shape)  # type: ignore[attr-defined]
        with torch.device("meta"):
            backbone = load_backbone(name, SPEC)
        assert all(weight.is_meta for weight in backbone.parameters())  # type: ignore[attr-defined]
        sizes[name] = sum(weight.numel() for weight in backbone.parameters())  # type: ignore[attr-defined]
    assert study.matrix.match is not None
    small, large = min(sizes.values()), max(sizes.values())
    assert large - small <= study.matrix.match.tolerance * large, sizes
