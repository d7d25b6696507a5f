"""Winograd's convolution equals the direct one, for every number of frames and any layout of batch and size."""

import pytest
import torch
import torch.nn.functional as F

from bench.metrics.extractors import winograd


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 6, 7, 8, 9, 11])
@pytest.mark.parametrize("size", [2, 4])
def test_equals_the_direct_convolution(num_frames: int, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, num_frames, 4, 6, generator=generator).contiguous(memory_format=torch.channels_last_3d)
    weight, bias = torch.randn(7, 5, 3, 3, 3, generator=generator), torch.randn(7, generator=generator)
    expected = F.conv3d(x.double(), weight.double(), bias.double(), padding=1)
    got = winograd.convolve_3x3x3(x, winograd.transform(weight, size), bias)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=2e-5 * expected.abs().max().item())
    assert got.movedim(1, -1).is_contiguous() or num_frames % size
    single = winograd.convolve_3x3x3(x[1:], winograd.transform(weight, size), bias)
    torch.testing.assert_close(single[0], got[1], rtol=0, atol=1e-5)


def test_tiles_waste_at_most_one_frame_of_four() -> None:
    assert [winograd.tile_frames(num_frames) for num_frames in (4, 5, 6, 7, 8, 9, 10, 15, 16)] == [4, 2, 2, 4, 4, 2, 2, 4, 4]


def test_small_single_clips_equal_conv3d() -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(1, 3, 2, 4, 5, generator=generator), torch.randn(2, 3, 3, 3, 3, generator=generator)
    bias = torch.randn(2, generator=generator)
    torch.testing.assert_close(winograd.convolve(x, weight, bias, (1, 1, 1)), F.conv3d(x, weight, bias, padding=1))
