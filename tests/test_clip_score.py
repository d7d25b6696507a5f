"""CLIP score: the definition, its floor, and what is no CLIP that can be used. On a tiny random network in the real format."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.data.progress import silent
from bench.data.source import load_clips
from bench.metrics.following.clip_score import ClipNetwork, load_clip_network, measurements
from bench.report.render import catalogue
from bench.run import extra
from bench.run.checks import check_cell
from bench.run.measure.following import measure_following
from bench.run.preflight import check_scorable
from bench.run.stages import reference_set, training_set
from bench.run.told import check_clip_score
from bench.shapes import Refusal
from bench.study.cell import Cell
from tests.test_following import EIGHT, told_cell
from tests.tiny import tiny_cell

CPU = torch.device("cpu")
CAPTIONS = ("a red disc moves left", "", "a blue ring moves up and bounces", "two objects: a cyan square")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights whose tokens are letters."""
    transformers, made = pytest.importorskip("transformers"), tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz:"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    transformers.CLIPTokenizer(vocab={word: place for place, word in enumerate(words)}, merges=[]).save_pretrained(made)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(words), "max_position_embeddings": 40, "bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    config = transformers.CLIPConfig(
        text_config={**sizes, **text}, vision_config={**sizes, "image_size": 16, "patch_size": 8}, projection_dim=8
    )
    torch.manual_seed(0)
    network = transformers.CLIPModel(config)
    with torch.no_grad():
        for weight in network.parameters():  # small ones see nothing
            weight += 0.5 * torch.randn_like(weight)
        for norm in (network.vision_model.post_layernorm, network.text_model.final_layer_norm):
            norm.bias += 1.5  # so that, with what follows, cosines are above 0
        for projection in (network.visual_projection, network.text_projection):
            projection.weight.abs_()
    network.save_pretrained(made)
    return made


@pytest.fixture
def network(folder: Path) -> Iterator[ClipNetwork]:
    yield load_clip_network(str(folder), CPU)
    load_clip_network.cache_clear()


def clips(seed: int, num: int = 4, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, 3, size, size, 3)).astype(np.uint8)


def test_it_is_the_mean_cosine_of_frames_and_caption(network: ClipNetwork) -> None:
    """Against the network's own forward pass, clip by clip, and torchmetrics' hundredfold mean."""
    found = {m.subject: m for m in measurements(CAPTIONS, {"real": clips(0), "trained": clips(1)}, network, "digest", {"torch": "x"})}
    told = [place for place, caption in enumerate(CAPTIONS) if caption]
    cosines = np.empty((2, len(told), len(told)))  # of a subject's clip under a caption
    for which, frames in enumerate((clips(0), clips(1))):
        for row, place in enumerate(told):
            for column, other in enumerate(told):
                pixels = torch.from_numpy(frames[place]).movedim(-1, 1).float() / 255
                tokens = network.tokenizer([CAPTIONS[other]], return_tensors="pt")
                with torch.no_grad():
                    out = network.network(pixel_values=(pixels - network.mean) / network.std, **tokens)
                cosines[which, row, column] = (out.image_embeds @ out.text_embeds.T).mean()
    for which, subject in enumerate(("real", "trained")):
        own = 100 * np.diag(cosines[which])
        assert found[subject].value == pytest.approx(own.mean(), abs=1e-3) and own.mean() > 0
        assert (found[subject].low or 0) < found[subject].value < (found[subject].high or 0)
    others = 100 * cosines[0][~np.eye(len(told), dtype=bool)].mean()
    assert found["trained"].floor == found["real"].floor == pytest.approx(others, abs=1e-3)
    assert np.ptp(cosines) > 0.02 and found["real"].value != found["trained"].value  # it tells them apart
    with torch.no_grad():
        network.network.text_projection.weight.neg_()
    assert all(m.value == m.floor == 0 for m in measurements(CAPTIONS, {"real": clips(0)}, network, "digest", {}))
    protocol = found["trained"].protocol or {}
    assert protocol["num_clips"] == 3 and len(protocol["weights_sha256"]) == len(protocol["settings_sha256"]) == 64
    metric = catalogue.find("clip_score")
    assert metric.group == "quality" and metric.axis and not metric.distance


def test_frames_of_any_size_are_seen_at_the_networks_own(network: ClipNetwork) -> None:
    small, wide = clips(0, 1)[0], np.zeros((3, 16, 48, 3), np.uint8)
    wide[:, :, 16:32] = small  # what the centre crop leaves
    assert torch.allclose(network.frames(wide), network.frames(small), atol=1e-6)
    large = small.repeat(4, axis=1).repeat(4, axis=2)
    assert float(torch.nn.functional.cosine_similarity(network.frames(large), network.frames(small), dim=0)) > 0.95
    long = network.captions(["a red disc moves left and bounces " * 5, "a red disc moves left and bounces " * 6])
    assert torch.equal(long[0], long[1])  # cut off, not refused


def test_other_weights_are_another_protocol(folder: Path, network: ClipNetwork, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "other")
    other = pytest.importorskip("transformers").CLIPModel.from_pretrained(folder)
    with torch.no_grad():
        other.logit_scale += 1
    other.save_pretrained(tmp_path / "other")
    shutil.copy(folder / "config.json", tmp_path / "other")
    load_clip_network.cache_clear()
    changed = load_clip_network(str(tmp_path / "other"), CPU)
    assert changed.weights_sha256 != network.weights_sha256 and changed.settings_sha256 == network.settings_sha256


def refusal(name: Path | str) -> str:
    with pytest.raises(Refusal) as caught:
        load_clip_network(str(name), CPU)
    load_clip_network.cache_clear()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_cell_measures_it_where_it_is_asked_for(folder: Path, tmp_path: Path) -> None:
    cell = told_cell(evaluation={**EIGHT, "clip_score": str(folder)})
    training = training_set(cell, tmp_path, CPU, silent)
    reference = reference_set(cell, training, tmp_path, CPU, silent)
    found = measure_following(cell, reference, {"trained": reference.held_out["val"]}, CPU)
    scores = {m.subject: m for m in found if m.name == "clip_score"}
    assert {*scores} == {"real", "reconstruction", "trained"} and len({m.value for m in scores.values()}) == 3
    assert {*(scores["real"].protocol or {})["versions"]} == {"torch", "transformers"}
    load_clip_network.cache_clear()


def test_what_is_no_clip_is_refused_in_a_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    assert "holds a network of the kind 'bert'" in refusal(broken)
    (broken / "config.json").write_text("[1")
    assert "cannot be loaded as a CLIP" in refusal(broken)
    config["text_config"]["hidden_size"] = 32
    (broken / "config.json").write_text(json.dumps(config))
    assert "cannot be loaded as a CLIP" in refusal(broken)
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    assert "has pytorch_model.bin alone, a pickle, which can run code" in refusal(broken)
    (broken / "pytorch_model.bin").unlink()
    assert "has no *.safetensors" in refusal(broken)
    assert "is no folder here, and no hub gives it" in refusal(tmp_path / "nowhere")


def test_asked_before_anything_is_built(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(name: str, **changes: Any) -> Cell:
        return told_cell(evaluation={**EIGHT, "clip_score": name}, **changes)

    check_clip_score(told(str(folder)))
    with pytest.raises(Refusal, match="is of samples that are told captions, and these are not"):
        check_cell(told(str(folder), text=None))
    with pytest.raises(Refusal, match=r"nowhere' is no folder here; give the folder"):
        check_cell(told(str(tmp_path / "nowhere")))
    with pytest.raises(Refusal, match="needs captions, and the test clips of this data have none"):
        check_scorable(told(str(folder)), load_clips(tiny_cell().data, tmp_path))
    broken = tmp_path / "broken"
    broken.mkdir()
    with pytest.raises(Refusal, match=r"has no \*\.safetensors"):
        check_scorable(told(str(broken)), load_clips(told(str(broken)).data, tmp_path))
    found: Any = lambda name: None if name == "transformers" else object()  # noqa: E731
    monkeypatch.setattr(extra.importlib.util, "find_spec", found)
    with pytest.raises(Refusal, match=r"evaluation\.clip_score needs transformers, which is not installed.*\[text\]"):
        check_clip_score(told(str(folder)))
    unasked = {"extractors": ["random3d"], "num_samples": 4, "clip_score": None}
    assert tiny_cell(evaluation=unasked).fingerprint() == tiny_cell().fingerprint()
