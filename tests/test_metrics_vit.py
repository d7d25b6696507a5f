"""VideoMAE-v2 and V-JEPA against a second statement of their arithmetic, on tiny checkpoints in the format of the published files."""

import dataclasses
import hashlib
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.metrics.extractors import table as extractors
from bench.metrics.extractors import videomae, vjepa
from bench.metrics.extractors.features import extract
from bench.metrics.extractors.manifest import MANIFESTS
from bench.metrics.extractors.vit import ViTConfig
from bench.metrics.weights import table as weights
from bench.metrics.weights.cache import WeightsError
from bench.metrics.weights.hub import HubFile, HubSource

CLASSES = 5
# 3 x 2 x 2 tokens of 6 frames; unequal everywhere, so that a swapped axis cannot hide.
MAE = ViTConfig(size=8, patch_size=4, num_frames=6, hidden_size=24, depth=2, num_heads=3, mlp_size=40, split_bias=True, num_classes=CLASSES)
JEPA = ViTConfig(
    size=8, patch_size=4, num_frames=6, hidden_size=24, depth=3, num_heads=2, mlp_size=96, split_bias=False, num_classes=CLASSES
)

Tree = dict[str, Any]


def draw(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * (0.4 if len(shape) > 1 else 0.2) for name, shape in shapes.items()}


def block_shapes(config: ViTConfig, index: int) -> dict[str, tuple[int, ...]]:
    d, m = config.hidden_size, config.mlp_size
    shapes: dict[str, tuple[int, ...]] = {"attn.qkv.weight": (3 * d, d), "attn.proj.weight": (d, d), "attn.proj.bias": (d,)}
    shapes |= {"attn.q_bias": (d,), "attn.v_bias": (d,)} if config.split_bias else {"attn.qkv.bias": (3 * d,)}
    shapes |= {"mlp.fc1.weight": (m, d), "mlp.fc1.bias": (m,), "mlp.fc2.weight": (d, m), "mlp.fc2.bias": (d,)}
    shapes |= {f"norm{i}.{leaf}": (d,) for i in (1, 2) for leaf in ("weight", "bias")}
    return {f"blocks.{index}.{name}": shape for name, shape in shapes.items()}


def trunk_shapes(config: ViTConfig) -> dict[str, tuple[int, ...]]:
    d = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {"patch_embed.proj.weight": (d, 3, 2, 4, 4), "patch_embed.proj.bias": (d,)}
    for index in range(config.depth):
        shapes |= block_shapes(config, index)
    return shapes


def mae_tensors() -> dict[str, Tensor]:
    """As in `vit_g_hybrid_pt_1200e_ssv2_ft.pth`, under "module", in half precision."""
    d = MAE.hidden_size
    shapes = trunk_shapes(MAE) | {"fc_norm.weight": (d,), "fc_norm.bias": (d,), "head.weight": (CLASSES, d), "head.bias": (CLASSES,)}
    return {name: tensor.half() for name, tensor in draw(shapes, 0).items()}


def jepa_tensors() -> dict[str, Tensor]:
    """As the target encoder in `vith16.pth.tar`, without its prefixes."""
    d = JEPA.hidden_size
    tensors = draw(trunk_shapes(JEPA) | {"norm.weight": (d,), "norm.bias": (d,)}, 1)
    return tensors | {"pos_embed": jepa_positions()[None]}


def probe_tensors() -> dict[str, Tensor]:
    """As in `ssv2-probe.pth.tar`, without its prefix."""
    d, at = JEPA.hidden_size, "pooler.cross_attention_block"
    shapes: dict[str, tuple[int, ...]] = {"pooler.query_tokens": (1, 1, d), "linear.weight": (CLASSES, d), "linear.bias": (CLASSES,)}
    shapes |= {f"{at}.norm{i}.{leaf}": (d,) for i in (1, 2) for leaf in ("weight", "bias")}
    for name, out, into in (("xattn.q", d, d), ("xattn.kv", 2 * d, d), ("xattn.proj", d, d), ("mlp.fc1", 4 * d, d), ("mlp.fc2", d, 4 * d)):
        shapes |= {f"{at}.{name}.weight": (out, into), f"{at}.{name}.bias": (out,)}
    return draw(shapes, 2)


def jepa_positions() -> Tensor:
    """(N, D): sinusoids of frame, row and column side by side, each of ceil(D / 6) sines then cosines."""
    frames, height, width = JEPA.grid
    rows = []
    for t in range(frames):
        for y in range(height):
            for x in range(width):
                half = math.ceil(JEPA.hidden_size / 6)
                row = [f(p / 10000 ** (j / half)) for p in (t, y, x) for f in (math.sin, math.cos) for j in range(half)]
                rows.append(row[: JEPA.hidden_size])
    return torch.tensor(rows)


def mae_file(folder: Path, change: Callable[[Tree], object] = lambda tree: None) -> Path:
    tree: Tree = {"module": mae_tensors(), "epoch": 3}
    change(tree)
    torch.save(tree, folder / "mae.pth")
    return folder / "mae.pth"


def jepa_files(folder: Path) -> tuple[Path, Path]:
    wrapped = {f"module.backbone.{name}": tensor for name, tensor in jepa_tensors().items()}
    other = {name: torch.zeros_like(tensor) for name, tensor in wrapped.items()}  # the encoder that was not averaged
    optimiser = {"state": {0: {"step": torch.tensor(2.0)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    torch.save(
        {"encoder": other, "target_encoder": wrapped, "opt": optimiser, "epoch": 300, "scaler": None, "loss": 0.5}, folder / "vith.tar"
    )
    probe = {f"module.{name}": tensor for name, tensor in probe_tensors().items()}
    torch.save({"classifier": probe, "opt": optimiser, "epoch": 20}, folder / "probe.tar")
    return folder / "vith.tar", folder / "probe.tar"


def clips(num_frames: int = 6, n: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, num_frames, 8, 8, 3), dtype=np.uint8)


def stated_norm(x: np.ndarray, tensors: dict[str, np.ndarray], name: str, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def stated_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, num_heads: int) -> np.ndarray:
    """Queries (Q, D), keys and values (N, D), one clip, one head after another."""
    out = []
    for head in range(num_heads):
        width = q.shape[1] // num_heads
        of = slice(head * width, (head + 1) * width)
        scores = q[:, of] @ k[:, of].T / math.sqrt(width)
        shares = np.exp(scores - scores.max(1, keepdims=True))
        out.append(shares / shares.sum(1, keepdims=True) @ v[:, of])
    return np.concatenate(out, axis=1)


def stated_mlp(x: np.ndarray, tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    x = x @ tensors[f"{name}.fc1.weight"].T + tensors[f"{name}.fc1.bias"]
    erf = np.vectorize(math.erf)
    return x / 2 * (1 + erf(x / math.sqrt(2))) @ tensors[f"{name}.fc2.weight"].T + tensors[f"{name}.fc2.bias"]


def stated_tokens(config: ViTConfig, tensors: dict[str, np.ndarray], clip: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Clip (T, H, W, 3) as the network sees it -> tokens (N, D), in float64."""
    kernel, bias = tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"]
    rows = []
    for t in range(0, len(clip), 2):
        for y in range(0, 8, 4):
            for x in range(0, 8, 4):
                rows.append(np.einsum("thwc,dcthw->d", clip[t : t + 2, y : y + 4, x : x + 4], kernel) + bias)
    x = np.stack(rows) + positions
    for index in range(config.depth):
        at = f"blocks.{index}"
        qkv = stated_norm(x, tensors, f"{at}.norm1", 1e-6) @ tensors[f"{at}.attn.qkv.weight"].T
        if config.split_bias:
            zeros = np.zeros(config.hidden_size)
            qkv = qkv + np.concatenate([tensors[f"{at}.attn.q_bias"], zeros, tensors[f"{at}.attn.v_bias"]])
        else:
            qkv = qkv + tensors[f"{at}.attn.qkv.bias"]
        mixed = stated_attention(*np.split(qkv, 3, axis=1), config.num_heads)
        x = x + mixed @ tensors[f"{at}.attn.proj.weight"].T + tensors[f"{at}.attn.proj.bias"]
        x = x + stated_mlp(stated_norm(x, tensors, f"{at}.norm2", 1e-6), tensors, f"{at}.mlp")
    return x


def as_float64(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}


def test_videomae_equals_its_statement(tmp_path: Path) -> None:
    network = videomae.load_videomae("cpu", mae_file(tmp_path), MAE)
    tensors = as_float64(mae_tensors())
    d = MAE.hidden_size
    positions = np.array(
        [[(math.sin if j % 2 == 0 else math.cos)(n / 10000 ** (2 * (j // 2) / d)) for j in range(d)] for n in range(MAE.num_tokens)]
    )
    frames = clips()
    got = network(videomae.preprocess(torch.from_numpy(frames), 8))
    for index, clip in enumerate(frames):
        tokens = stated_tokens(MAE, tensors, clip / 255, positions)
        expected = stated_norm(tokens.mean(0), tensors, "fc_norm", 1e-6)
        np.testing.assert_allclose(got[index].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_vjepa_equals_its_statement(tmp_path: Path) -> None:
    network = vjepa.load_vjepa("cpu", jepa_files(tmp_path), JEPA)
    tensors, probe, at = as_float64(jepa_tensors()), as_float64(probe_tensors()), "pooler.cross_attention_block"
    frames = clips()
    got = network(vjepa.preprocess(torch.from_numpy(frames), 8))
    for index, clip in enumerate(frames):
        normalised = (clip / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
        tokens = stated_norm(stated_tokens(JEPA, tensors, normalised, jepa_positions().numpy()), tensors, "norm", 1e-6)
        query = probe["pooler.query_tokens"][0]
        kv = stated_norm(tokens, probe, f"{at}.norm1", 1e-5) @ probe[f"{at}.xattn.kv.weight"].T + probe[f"{at}.xattn.kv.bias"]
        q = query @ probe[f"{at}.xattn.q.weight"].T + probe[f"{at}.xattn.q.bias"]
        mixed = stated_attention(q, *np.split(kv, 2, axis=1), JEPA.num_heads)
        x = query + mixed @ probe[f"{at}.xattn.proj.weight"].T + probe[f"{at}.xattn.proj.bias"]
        x = x + stated_mlp(stated_norm(x, probe, f"{at}.norm2", 1e-5), probe, f"{at}.mlp")
        np.testing.assert_allclose(got[index].numpy(), x[0], rtol=1e-4, atol=2e-5)


def test_the_published_sizes() -> None:
    """Parameters of the real networks, counted on no device."""
    with torch.device("meta"):
        mae, jepa = videomae.VideoMAE(), vjepa.VJEPA()
    assert mae.config.num_tokens == 2048 and jepa.config.num_tokens == 1568
    assert sum(p.numel() for p in mae.parameters()) * 2 == pytest.approx(2_023_804_201, rel=1e-4)  # the file holds two bytes for each
    assert sum(p.numel() for p in jepa.encoder.blocks.parameters()) == 32 * (12 * 1280**2 + 13 * 1280)


def test_other_numbers_of_frames_interpolate_positions(tmp_path: Path) -> None:
    networks = [
        (videomae, videomae.load_videomae("cpu", mae_file(tmp_path), MAE)),
        (vjepa, vjepa.load_vjepa("cpu", jepa_files(tmp_path), JEPA)),
    ]
    for module, network in networks:
        for num_frames in (2, 4, 6, 10):
            features = network(module.preprocess(torch.from_numpy(clips(num_frames)), 8))
            assert features.shape == (2, 24) and features.isfinite().all()
        with pytest.raises(ValueError, match="groups of 2, got 5; use 4"):
            network(module.preprocess(torch.from_numpy(clips(5)), 8))
        with pytest.raises(ValueError, match="expected"):
            network(torch.zeros(1, 3, 6, 8, 12))


def test_preprocessing() -> None:
    frames = torch.zeros(1, 2, 4, 6, 3, dtype=torch.uint8)
    frames[0, 1, :, :, 2] = 255
    unit = videomae.preprocess(frames, 8)
    assert unit.shape == (1, 3, 2, 8, 8) and unit[0, 2, 1].eq(1).all() and unit.sum() == 64
    normalised = vjepa.preprocess(frames, 8)
    torch.testing.assert_close(normalised[0, :, 0, 0, 0], torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]))
    ramp = torch.arange(4, dtype=torch.uint8).mul(60).view(1, 1, 1, 4, 1).expand(1, 1, 4, 4, 3)
    expected = F.interpolate(ramp[0, :, :, :, 0].float()[None] / 255, size=(8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(videomae.preprocess(ramp, 8)[0, 0], expected[0])


def test_order_of_frames_is_seen(tmp_path: Path) -> None:
    network = videomae.load_videomae("cpu", mae_file(tmp_path), MAE)
    seen = videomae.preprocess(torch.from_numpy(clips()), 8)
    assert (network(seen) - network(seen.flip(2))).abs().max() > 1e-3


def drop(tree: Tree) -> None:
    del tree["module"]["blocks.1.attn.q_bias"]


def add(tree: Tree) -> None:
    tree["module"]["pos_embed"] = torch.zeros(1)


def reshape(tree: Tree) -> None:
    tree["module"]["fc_norm.bias"] = torch.zeros(7)


def rename(tree: Tree) -> None:
    tree["state"] = tree.pop("module")


def number(tree: Tree) -> None:
    tree["module"]["head.bias"] = 3.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop, r"not a checkpoint of this network: .*Missing key.*blocks\.1\.attn\.q_bias"),
        (add, r"Unexpected key.*pos_embed"),
        (reshape, r"size mismatch for fc_norm.bias: .*\[7\].*\[24\]"),
        (rename, "has none of model, module; it has epoch, state"),
        (number, "head.bias.*float"),
    ],
)
def test_checkpoints_of_something_else_are_refused(tmp_path: Path, change: Callable[[Tree], object], said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        videomae.load_videomae("cpu", mae_file(tmp_path, change), MAE)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    file = mae_file(tmp_path)
    for content in (file.read_bytes()[:-200], b"", b"not a checkpoint"):
        file.write_bytes(content)
        with pytest.raises(WeightsError, match="refused to read") as caught:
            videomae.load_videomae("cpu", file, MAE)
        assert "\n" not in str(caught.value)


class Exploit:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_calls_anything_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "mae.pth"
    torch.save({"module": mae_tensors(), "args": Exploit(f"touch {tmp_path / 'ran'}")}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="tensors only"):
        videomae.load_videomae("cpu", file, MAE)
    assert not (tmp_path / "ran").exists()


def test_old_files_of_torch_are_read(tmp_path: Path) -> None:
    file = tmp_path / "mae.pth"
    torch.save({"model": mae_tensors()}, file, _use_new_zipfile_serialization=False)
    videomae.load_videomae("cpu", file, MAE)


@pytest.mark.parametrize("name", ["videomae", "vjepa"])
def test_the_whole_way_from_a_hub_to_features(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetched, verified, loaded and used under the name it has in the tables; refused once the file is another one."""
    published = [mae_file(tmp_path)] if name == "videomae" else list(jepa_files(tmp_path))
    pinned = name == "videomae"
    files = tuple(
        HubFile(
            file_name=f"{index}-{file.name}",
            url=file.as_uri(),
            sha256=hashlib.sha256(file.read_bytes()).hexdigest() if pinned else None,
        )
        for index, file in enumerate(published)
    )
    monkeypatch.setattr(weights, "SOURCES", weights.SOURCES | {name: HubSource(files=files, license="MIT", description="tiny")})
    monkeypatch.setenv("UNET_VS_DIT_CACHE", str(tmp_path / "cache"))
    module, config = (videomae, MAE) if name == "videomae" else (vjepa, JEPA)
    load = getattr(module, f"load_{name}")
    tiny = partial(extractors.vit_features, load=lambda device: load(device, None, config), preprocess=module.preprocess)
    monkeypatch.setitem(extractors.EXTRACTORS, name, (tiny, 1, 8))
    monkeypatch.setitem(MANIFESTS, name, dataclasses.replace(MANIFESTS[name], dim=24, weights_sha256=weights.source_sha256(name)))
    with pytest.raises(WeightsError, match=f"python -m bench weights get {name}"):
        extractors.load_extractor(name)
    weights.get(name)
    extractor = extractors.load_extractor(name)
    assert extractor.manifest.weights_sha256 == weights.source_sha256(name) and len(extractor.manifest.weights_sha256) == 64
    features = extract(extractor, clips(n=3))
    np.testing.assert_allclose(extract(dataclasses.replace(extractor, batch_size=3), clips(n=3)), features, rtol=1e-4, atol=1e-5)
    assert features.shape == (3, 24) and features.std() > 0.1
    file = files[-1].path
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"not the published file|have changed since"):
        extractors.load_extractor(name)
