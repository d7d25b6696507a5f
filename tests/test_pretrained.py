"""Public weights as contenders: what a checkpoint predicts becomes what our objective wants, exactly; and what cannot be is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.testing import assert_close

from baselines.pretrained.schedule import SAYS, read_schedule
from bench.backbone import Text, find_factory, load_backbone
from bench.meters.flops import count_flops
from bench.run.checks import check_initialise
from bench.shapes import LatentSpec, Refusal
from bench.training.objective import PATHS, mean_square, noised
from tests.checkpoints import KINDS, TEXT, changed, network, save_checkpoint
from tests.test_following import TOLD
from tests.tiny import tiny_cell

DEVICE = torch.device("cpu")
TIMES = torch.tensor([0.05, 0.2, 0.3, 0.5, 0.65])
SCHEDULES = {name: {"_class_name": scheduler, **options} for name, (_, scheduler, options, _) in KINDS.items()}
# What a perfect network says of a x0 + s n.
ORACLES: dict[str, Any] = {
    "epsilon": lambda clean, noise, a, s: noise,
    "v_prediction": lambda clean, noise, a, s: a * noise - s * clean,
    "flow_prediction": lambda clean, noise, a, s: noise - clean,
    "sample": lambda clean, noise, a, s: clean,
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: save_checkpoint(name, root / name) for name in KINDS}


def named(folder: Path) -> str:
    return f"baselines.pretrained:{folder}"


def spec_of(name: str, **changes: Any) -> LatentSpec:
    fields = {"latent_channels": 4, "spatial_stride": 4, "temporal_stride": 1, "num_labels": 0, "text_width": 8 if name in TEXT else 0}
    return LatentSpec(**{**fields, **changes})


def loaded(name: str, folder: Path, objective: str = "rectified_flow", **changes: Any) -> Any:
    torch.manual_seed(1)
    backbone: Any = load_backbone(named(folder), spec_of(name, **changes))
    backbone.load_pretrained(PATHS[objective])
    return backbone.eval()


def batch(name: str, frames: int = 2, seed: int = 0) -> tuple[list[Tensor], dict[str, Any]]:
    """Two clips of latents and, for a class that takes it, text, of which the second has one token."""
    generator = torch.Generator().manual_seed(seed)
    clips = list(torch.randn(2, 4, 1 if name.startswith("DiT") else frames, 4, 4, generator=generator))
    text = Text(tokens=torch.randn(2, 3, 8, generator=generator), mask=torch.tensor([[True, True, True], [True, False, False]]))
    return clips, {"text": text} if name in TEXT else {}


# --- the mathematics


def clips_at(objective: str, times: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Clean clips, noise, what our path makes of them, and our targets."""
    generator = torch.Generator().manual_seed(2)
    clean, noise = (list(torch.randn(len(times), 3, 2, 4, 2, generator=generator)) for _ in range(2))
    return clean, noise, *noised(PATHS[objective], clean, noise, times)


@pytest.mark.parametrize("objective", PATHS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_perfect_network_of_any_schedule_gives_our_target(name: str, objective: str) -> None:
    """Whatever it was trained to say, on whatever path: its words and its path are undone without a rest."""
    schedule = read_schedule(SCHEDULES[name], name)
    clean, noise, mixed, targets = clips_at(objective, TIMES)
    places = schedule.at(*PATHS[objective].coefficients(TIMES))

    def perfect(scaled: Tensor, times: Tensor) -> Tensor:
        a, s = (each.view(-1, 1, 1, 1, 1) for each in places[1:])
        assert_close(scaled, a * torch.stack(clean) + s * torch.stack(noise), atol=1e-5, rtol=1e-5)  # on its own path
        assert_close(times, places[0])
        return ORACLES[schedule.says](torch.stack(clean), torch.stack(noise), a, s)

    found = schedule.ask(perfect, torch.stack(mixed), TIMES, PATHS[objective])
    assert_close(torch.stack(list(found)), torch.stack(targets), atol=1e-4, rtol=1e-4)


def test_every_word_has_an_oracle() -> None:
    assert set(ORACLES) == set(SAYS) and {read_schedule(config, "").says for config in SCHEDULES.values()} == set(SAYS) - {"sample"}


@pytest.mark.parametrize("says", ["epsilon", "sample", "v_prediction"])
def test_places_are_those_of_diffusers_own_schedule(says: str) -> None:
    """At the ratio of one of its timesteps, that timestep, and the coefficients by which diffusers adds noise there."""
    scheduler = diffusers.DDIMScheduler(beta_schedule="linear", prediction_type=says)
    schedule = read_schedule({"_class_name": "DDIMScheduler", "beta_schedule": "linear", "prediction_type": says}, "")
    wanted = torch.tensor([0, 1, 250, 998, 999])
    signal = scheduler.alphas_cumprod[wanted].double()
    times, a, s = schedule.at(7 * signal.sqrt(), 7 * (1 - signal).sqrt())  # the ratio alone counts
    assert_close(times, wanted.float(), atol=1e-3, rtol=0)
    assert_close(torch.stack([a, s]), torch.stack([signal.sqrt(), (1 - signal).sqrt()]).float(), atol=1e-6, rtol=1e-5)


def test_pure_noise_is_asked_at_the_most_noise_that_a_checkpoint_knows() -> None:
    one, zero = torch.ones(1), torch.zeros(1)
    linear = read_schedule(SCHEDULES["DiTTransformer2DModel"], "")
    times, a, _ = linear.at(zero, one)
    assert float(times) == pytest.approx(999) and 0.005 < float(a) < 0.01
    assert float(linear.at(one, zero)[0]) == pytest.approx(0)
    cogvideox = read_schedule(SCHEDULES["CogVideoXTransformer3DModel"], "")  # no signal is left there, and none is needed
    times, a, s = cogvideox.at(zero, one)
    assert (float(times), float(s)) == pytest.approx((999, 1)) and float(a) == pytest.approx(0, abs=1e-3)
    zero_snr = {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True}
    assert float(read_schedule(zero_snr, "").at(zero, one)[1]) > 1e-3  # from noise alone an epsilon tells no clip
    svd = read_schedule(SCHEDULES["UNetSpatioTemporalConditionModel"], "")
    assert float(svd.at(zero, one)[0]) == pytest.approx(0.25 * float(torch.tensor(700.0).log()), rel=1e-5)


def test_the_schedule_of_svd_is_that_of_diffusers() -> None:
    """Its scaled input, its timestep and its denoised clip, as diffusers' scheduler makes them."""
    options = KINDS["UNetSpatioTemporalConditionModel"][2]
    scheduler = diffusers.EulerDiscreteScheduler(**options)
    scheduler.set_timesteps(5)
    sigma, time = scheduler.sigmas[2], scheduler.timesteps[2]
    x, said = torch.randn(2, 1, 3, 2, 4, 2, generator=torch.Generator().manual_seed(0))
    schedule = read_schedule(SCHEDULES["UNetSpatioTemporalConditionModel"], "")
    times, a, s = schedule.at(torch.ones(1), sigma[None])
    assert_close(times, time[None], atol=1e-5, rtol=1e-5)
    scheduler._step_index = 2
    assert_close(scheduler.scale_model_input(x, time), x * torch.hypot(a, s) / torch.hypot(torch.ones(1), sigma), atol=1e-5, rtol=1e-5)
    denoised = scheduler.step(said, time, x).pred_original_sample
    assert_close(SAYS["v_prediction"](said, x / (sigma**2 + 1) ** 0.5, a, s)[0], denoised, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"_class_name": "DDIMScheduler", "prediction_type": "epsilom"}, "prediction_type 'epsilom' is not known .did you mean 'epsilon'"),
        ({"_class_name": "VQDiffusionScheduler"}, "no schedule is known of a VQDiffusionScheduler"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "need sigma_min and sigma_max"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "steep"}, "diffusers cannot make its DDIMScheduler"),
    ],
)
def test_a_schedule_that_is_not_known_is_refused(config: dict[str, Any], line: str) -> None:
    with pytest.raises(Refusal, match=f"^here: .*{line}"):
        read_schedule(config, "here")


# --- the six architectures


@pytest.mark.parametrize("name", KINDS)
def test_its_prediction_is_that_of_the_published_network(name: str, checkpoints: dict[str, Path]) -> None:
    """The class as diffusers has it, called by hand as its pipeline does, says the same of the same latents."""
    backbone = loaded(name, checkpoints[name])
    clips, more = batch(name, frames=4)
    times = torch.tensor([0.3, 0.7])
    with torch.no_grad():
        found = torch.stack(backbone(clips, times, None, **more))
        model, schedule = network(name), read_schedule(SCHEDULES[name], "")

        def by_hand(scaled: Tensor, steps: Tensor) -> Tensor:
            if name == "DiTTransformer2DModel":
                null = torch.full((2,), 5)
                return model(scaled[:, :, 0], steps, class_labels=null).sample[:, :4, None]
            if name == "UNetSpatioTemporalConditionModel":
                about = torch.tensor([[6.0, 127.0, 0.02]] * 2)
                frames = torch.cat([scaled, torch.zeros_like(scaled)], dim=1).transpose(1, 2)
                return model(frames, steps, torch.zeros(2, 1, 8), added_time_ids=about).sample.transpose(1, 2)
            tokens = (more["text"].tokens * more["text"].mask[..., None]).clone()
            if name == "LatteTransformer3DModel":  # prompts are cut, not filled up
                parts = [(one, own[: int(mask.sum())]) for one, own, mask in zip(scaled, tokens, more["text"].mask, strict=True)]
                said = [model(one[None], steps[[i]], own[None]).sample for i, (one, own) in enumerate(parts)]
                return torch.cat(said)[:, :4]
            length = {"WanTransformer3DModel": 512, "UNet3DConditionModel": 77, "CogVideoXTransformer3DModel": 6}[name]
            tokens = torch.nn.functional.pad(tokens, (0, 0, 0, length - 3))
            if name == "CogVideoXTransformer3DModel":
                from diffusers.models.embeddings import get_3d_rotary_pos_embed

                rotary = get_3d_rotary_pos_embed(16, ((0, 0), (2, 2)), (2, 2), temporal_size=4)
                frames = scaled.transpose(1, 2)
                return model(frames, tokens, steps, image_rotary_emb=rotary).sample.transpose(1, 2)
            if name == "WanTransformer3DModel":
                return model(scaled, steps, tokens).sample
            return model(scaled, steps, tokens).sample

        expected = torch.stack(list(schedule.ask(by_hand, torch.stack(clips), times, PATHS["rectified_flow"])))
    assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(TEXT))
def test_text_tells_and_what_its_mask_leaves_out_does_not(name: str, checkpoints: dict[str, Path]) -> None:
    backbone = loaded(name, checkpoints[name])
    clips, more = batch(name)
    text, times = more["text"], torch.tensor([0.3, 0.7])

    def said(tokens: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return backbone(clips, times, None, text=Text(tokens=tokens, mask=text.mask))

    first = said(text.tokens)
    masked, other = text.tokens.clone(), text.tokens.clone()
    masked[1, 1:] += 5.0
    other[:, 0] += 5.0
    assert_close(torch.stack(said(masked)), torch.stack(first), atol=0, rtol=0)
    assert all(float((a - b).abs().max()) > 1e-4 for a, b in zip(said(other), first, strict=True))
    with pytest.raises(Refusal, match="takes prompts of up to"):
        backbone(clips, times, None, text=Text(tokens=torch.zeros(2, 600, 8), mask=torch.ones(2, 600, dtype=torch.bool)))


@pytest.mark.parametrize("name", KINDS)
def test_it_is_tuned_saved_and_taken_up_again(name: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    backbone = loaded(name, checkpoints[name], objective="v_prediction").train()
    clips, more = batch(name)
    times, noise = torch.tensor([0.2, 0.6]), batch(name, seed=3)[0]
    mixed, targets = noised(PATHS["v_prediction"], clips, noise, times)
    optimizer, losses = torch.optim.AdamW(backbone.parameters(), lr=1e-3), []
    for _ in range(3):
        state = torch.get_rng_state()
        loss = mean_square(backbone(mixed, times, None, **more), targets)
        assert torch.equal(state, torch.get_rng_state())  # no dropout of its own
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    safetensors.torch.save_model(backbone, str(tmp_path / "weights.safetensors"))
    again = loaded(name, checkpoints[name], objective="v_prediction")
    safetensors.torch.load_model(again, str(tmp_path / "weights.safetensors"))
    with torch.no_grad():
        expected = torch.stack(backbone.eval()(mixed, times, None, **more))
        assert_close(torch.stack(again(mixed, times, None, **more)), expected, atol=0, rtol=0)


@pytest.mark.parametrize("name", KINDS)
def test_without_its_weights_it_is_a_contender_like_any_other(name: str, checkpoints: dict[str, Path]) -> None:
    """Any latent space and labels; what it costs is counted; it predicts the target itself and, untrained, nothing that explodes."""
    spec = spec_of(name, latent_channels=3, num_labels=2, text_width=0)
    backbone: Any = load_backbone(named(checkpoints[name]), spec)
    frames = 1 if name.startswith("DiT") else 3
    clips = list(torch.randn(2, 3, frames, 8, 8))
    with torch.no_grad():
        outputs = backbone(clips, torch.ones(2), torch.tensor([0, 2]))
    assert [output.shape for output in outputs] == [clip.shape for clip in clips] and float(torch.stack(outputs).abs().max()) < 50
    assert count_flops(named(checkpoints[name]), spec, (frames, 8, 8)) > 0
    assert backbone.num_tokens((frames, 8, 8)) == frames * (64 if name.startswith("UNet") else 16)
    with pytest.raises(Refusal, match="divisible by"):
        backbone.check((frames, 7, 8))


def test_classes_are_those_of_the_checkpoint_or_learnt_anew(checkpoints: dict[str, Path]) -> None:
    name = "DiTTransformer2DModel"
    clips, times = batch(name)[0], torch.tensor([0.3, 0.7])
    own = loaded(name, checkpoints[name], num_labels=5)
    with torch.no_grad():
        labelled = torch.stack(own(clips, times, torch.tensor([1, 5])))
        unlabelled = torch.stack(loaded(name, checkpoints[name])(clips, times, None))
    assert_close(labelled[1], unlabelled[1])  # without classes: its null label
    assert float((labelled[0] - unlabelled[0]).abs().max()) > 1e-4
    other = loaded(name, checkpoints[name], num_labels=3)
    table = next(weight for key, weight in other.named_parameters() if "embedding_table" in key)
    assert table.shape[0] == 4
    assert_close(other.model.pos_embed.proj.weight, own.model.pos_embed.proj.weight)
    factory: Any = find_factory(named(checkpoints[name]))
    factory.check_pretrained(spec_of(name, num_labels=5), trained=False)
    with pytest.raises(Refusal, match="knows 5 classes, the data has 3"):
        factory.check_pretrained(spec_of(name, num_labels=3), trained=False)
    with pytest.raises(Refusal, match="positions for latent frames up to 1, got 2"):
        factory.check((2, 4, 4))
    with pytest.raises(Refusal, match="square"):
        factory.check((1, 4, 8))


def test_svd_goes_on_from_a_first_frame(checkpoints: dict[str, Path]) -> None:
    name = "UNetSpatioTemporalConditionModel"
    spec = spec_of(name).with_known_frames()
    backbone: Any = load_backbone(named(checkpoints[name]), spec)
    backbone.load_pretrained(PATHS["rectified_flow"])
    assert backbone.takes_known_frames and not find_factory(named(checkpoints["WanTransformer3DModel"])).takes_known_frames  # type: ignore[attr-defined]
    given = torch.zeros(2, 5, 3, 4, 4)
    given[:, :, 0] = 1.0
    image = backbone.image(torch.zeros(2, 4, 3, 4, 4), given)
    assert_close(image, torch.full((2, 4, 3, 4, 4), 1 / 0.18215))  # the first frame everywhere, as its autoencoder gives it
    first = torch.cat([torch.randn(2, 4, 3, 4, 4), given], dim=1)
    second = first.clone()
    second[:, 4:8, 0] = -1.0
    with torch.no_grad():
        one, other = (torch.stack(backbone.eval()(list(clips), torch.tensor([0.4, 0.5]), None)) for clips in (first, second))
    assert float((one - other).abs().max()) > 1e-4
    with pytest.raises(Refusal, match="image encoder's view of the first frame"):
        find_factory(named(checkpoints[name])).check_pretrained(spec, trained=False)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "filled"), [("WanTransformer3DModel", False), ("CogVideoXTransformer3DModel", True)])
def test_captions_are_filled_up_as_the_weights_were_trained(checkpoints: dict[str, Path], name: str, filled: bool) -> None:
    backbone, text = named(checkpoints[name]), {"encoder": "t5", "name": "org/t5", "filled": filled}
    check_initialise(tiny_cell(backbone=backbone, initialise="pretrained", data=TOLD, text=text), find_factory(backbone))
    other = tiny_cell(backbone=backbone, initialise="pretrained", data=TOLD, text=text | {"filled": not filled})
    with pytest.raises(Refusal, match=rf"text\.filled {str(not filled).lower()}: .* trained the other way; use {str(filled).lower()}"):
        check_initialise(other, find_factory(backbone))


# --- files


def test_the_hash_is_of_the_weights_and_of_the_schedule(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    name = "LatteTransformer3DModel"
    folder = shutil.copytree(checkpoints[name], tmp_path / "copy")
    digest = [find_factory(named(each)).weights_digest(pretrained=True) for each in (checkpoints[name], folder)]  # type: ignore[attr-defined]
    assert digest[0] == digest[1]  # where it lies is no matter
    plain: Any = find_factory(named(folder))
    architecture = plain.weights_digest(pretrained=False)
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = safetensors.torch.load_file(path)
    weights["proj_out.bias"][0] += 1
    safetensors.torch.save_file(weights, path, metadata={"format": "pt"})
    assert plain.weights_digest(pretrained=True) != digest[0] and plain.weights_digest(pretrained=False) == architecture
    other = changed(checkpoints[name], "scheduler/scheduler_config.json", tmp_path / "other", beta_end=0.03)
    assert find_factory(named(other)).weights_digest(pretrained=True) != digest[0]  # type: ignore[attr-defined]


def test_weights_in_parts_and_as_a_pickle_of_tensors_are_the_same(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    name = "WanTransformer3DModel"
    clips, more = batch(name)
    found = []
    for kind in ("whole", "parts", "pickle", "half"):
        folder = shutil.copytree(checkpoints[name], tmp_path / kind)
        part = folder / "transformer"
        if kind == "parts":
            (part / "diffusion_pytorch_model.safetensors").unlink()
            network(name).save_pretrained(part, max_shard_size="10KB")
            assert (part / "diffusion_pytorch_model.safetensors.index.json").is_file()
        if kind in ("pickle", "half"):
            weights = safetensors.torch.load_file(part / "diffusion_pytorch_model.safetensors")
            (part / "diffusion_pytorch_model.safetensors").unlink()
            if kind == "half":
                halves = {key: value.bfloat16() for key, value in weights.items()}
                safetensors.torch.save_file(halves, part / "diffusion_pytorch_model.fp16.safetensors")
            else:
                torch.save(weights, part / "diffusion_pytorch_model.bin")
        backbone = loaded(name, folder)
        assert next(backbone.parameters()).dtype == torch.float32
        with torch.no_grad():
            found.append(torch.stack(backbone(clips, torch.tensor([0.3, 0.7]), None, **more)))
    for other, tolerance in zip(found[1:], (0.0, 0.0, 0.1), strict=True):
        assert_close(other, found[0], atol=tolerance, rtol=tolerance)


class Dangerous:
    """A pickle of it makes a file when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


def test_a_pickle_that_could_run_anything_is_refused_and_not_run(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints["LatteTransformer3DModel"], tmp_path / "copy")
    part, trace = folder / "transformer", tmp_path / "run"
    (part / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"weight": Dangerous(trace)}, part / "diffusion_pytorch_model.bin")
    with pytest.raises(Refusal, match=r"diffusion_pytorch_model.bin is a pickle that holds more than tensors.*use safetensors"):
        loaded("LatteTransformer3DModel", folder)
    assert not trace.exists()


def test_what_is_not_there_or_of_another_kind_is_refused_in_a_line(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    name = "LatteTransformer3DModel"
    folder = checkpoints[name]

    def line(place: Path | str, *, load: bool = False) -> str:
        with pytest.raises(Refusal) as caught:
            loaded(name, Path(place)) if load else find_factory(f"baselines.pretrained:{place}")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "there is no folder" in line(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "model_index.json is missing" in line(tmp_path / "empty")
    assert "transformer is a UnknownModel (did you mean" in line(
        changed(folder, "transformer/config.json", tmp_path / "a", _class_name="UnknownModel")
    )
    assert "norm_type 'layer_norm' is not supported" in line(
        changed(folder, "transformer/config.json", tmp_path / "b", norm_type="layer_norm")
    )
    two = changed(folder, "model_index.json", tmp_path / "c", transformer_2=["diffusers", name])
    assert "a pipeline of one denoiser is needed" in line(two)
    (two / "model_index.json").write_text("[]")
    assert "holds no JSON object" in line(two)
    (two / "model_index.json").write_text("{")
    assert "cannot be read" in line(two)
    deeper = changed(folder, "transformer/config.json", tmp_path / "d", num_layers=2)
    assert "the weights are of another architecture" in line(deeper, load=True) and "missing there" in line(deeper, load=True)
    wider = changed(folder, "transformer/config.json", tmp_path / "e", caption_channels=16)
    with pytest.raises(Refusal, match="text of width 16, the captions' encoder gives 8"):
        loaded(name, wider)
    cut = shutil.copytree(folder, tmp_path / "f")
    path = cut / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    assert "cannot be read" in line(cut, load=True)
    path.unlink()
    assert "transformer/ has no diffusion_pytorch_model.safetensors" in line(cut, load=True)
    (cut / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../x"}}))
    assert "which is no file beside it" in line(cut, load=True)


def test_a_hub_that_cannot_be_asked_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Refusal, match="org/no-such-model@main is no folder here, and as a hub name it cannot be had"):
        find_factory("baselines.pretrained:org/no-such-model@main")


def test_weights_must_fit_the_latents(checkpoints: dict[str, Path]) -> None:
    name = "WanTransformer3DModel"
    with pytest.raises(Refusal, match="latents of 4 channels, the autoencoder gives 3"):
        loaded(name, checkpoints[name], latent_channels=3)
    factory: Any = find_factory(named(checkpoints[name]))
    factory.check_pretrained(spec_of(name, text_width=0), trained=True)
    with pytest.raises(Refusal, match="makes what a caption says, and this cell has none"):
        factory.check_pretrained(spec_of(name, text_width=0), trained=False)
