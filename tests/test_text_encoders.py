"""Frozen encoders of transformers: tiny random ones in the formats of the real, cached by what determines them, pickles refused."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.data.progress import silent
from bench.data.sealed import DamagedCache
from bench.data.text import encoder as module
from bench.data.text.config import EncodedText, find_encoder, text_size
from bench.data.text.encoder import caption_table
from bench.data.text.table import CaptionTable
from bench.run import extra
from bench.run.checks import check_cell, latent_spec
from bench.shapes import Refusal
from tests.tiny import tiny_cell

CPU = torch.device("cpu")
TEXTS = ("a red disc", "a green ring falls", "")
WORDS = ["a", "red", "green", "disc", "ring", "falls"]


def tiny(kind: str, folder: Path) -> Path:
    """A random encoder and its tokenizer, as transformers saves them: of a pipeline of diffusers in two subfolders."""
    transformers = pytest.importorskip("transformers")
    import tokenizers

    torch.manual_seed(0)
    if kind == "clip":
        special = ["<|startoftext|>", "<|endoftext|>"]
        letters = sorted({letter for word in WORDS for letter in word})
        entries = [*letters, *(f"{letter}</w>" for letter in letters), *special]
        (folder / "words").mkdir(parents=True)
        (folder / "words" / "vocab.json").write_text(json.dumps({entry: place for place, entry in enumerate(entries)}))
        (folder / "words" / "merges.txt").write_text("#version: 0.2\n")
        tokenizer = transformers.CLIPTokenizer(
            vocab=str(folder / "words" / "vocab.json"), merges=str(folder / "words" / "merges.txt"), pad_token=special[1]
        )
        config = transformers.CLIPTextConfig(
            vocab_size=len(entries), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=24, eos_token_id=entries.index(special[1]), bos_token_id=entries.index(special[0]), pad_token_id=1,
        )  # fmt: skip
        encoder = transformers.CLIPTextModel(config)
    else:
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -1.0) for word in WORDS)]
        words = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2, byte_fallback=False))
        words.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
        words.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
        config = transformers.T5Config(vocab_size=len(pieces), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        encoder = transformers.T5EncoderModel(config)
    tokenizer.save_pretrained(folder / "tokenizer")
    encoder.save_pretrained(folder / "text_encoder")
    (folder / "model_index.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: tiny(kind, tmp_path_factory.mktemp(kind)) for kind in ("clip", "t5")}


def config(kind: str, folder: Path, **changes: Any) -> EncodedText:
    return EncodedText.model_validate({"encoder": kind, "name": str(folder), "max_tokens": 24, **changes})


def table(config: EncodedText, cache: Path, texts: Sequence[str] = TEXTS) -> CaptionTable:
    return caption_table(config, texts, TEXTS, cache, CPU, silent)


@pytest.mark.parametrize("kind", ["clip", "t5"])
def test_tokens_of_a_caption_are_the_encoders_last_states(made: dict[str, Path], tmp_path: Path, kind: str) -> None:
    import transformers

    asked = config(kind, made[kind])
    found = table(asked, tmp_path)
    assert text_size(asked) == (16, 24)
    assert found.texts == ("a green ring falls", "a red disc", "") and found.values.shape == (3, 24, 16)
    tokenizer = transformers.AutoTokenizer.from_pretrained(made[kind] / "tokenizer")
    network = {"clip": transformers.CLIPTextModel, "t5": transformers.T5EncoderModel}[kind].from_pretrained(made[kind] / "text_encoder")
    for text, values, mask in zip(found.texts, found.values, found.mask, strict=True):
        alone = tokenizer(text, return_tensors="pt")
        expected = network.eval()(**alone).last_hidden_state[0].detach().numpy()
        num = len(expected)
        assert mask.tolist() == [True] * num + [False] * (24 - num)
        np.testing.assert_allclose(values[:num], expected, rtol=1e-4, atol=1e-5)  # padding has had no effect
        assert not values[num:].any()
    assert found.mask.sum(1).tolist()[2] >= 1  # the empty one has something to be told by


def test_tokens_are_cached_by_what_determines_them(made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, calls, loaded = tmp_path / "own", [], module._loaded
    shutil.copytree(made["t5"], folder)
    monkeypatch.setattr(module, "_loaded", lambda *given: [calls.append(given), loaded(*given)][1])
    asked = config("t5", folder)
    first = table(asked, tmp_path)
    assert table(asked, tmp_path).key == first.key and len(calls) == 1
    assert table(config("t5", folder, dropout=0.3), tmp_path).key == first.key and len(calls) == 1  # of training alone
    shutil.copytree(folder, tmp_path / "moved")
    assert table(config("t5", tmp_path / "moved"), tmp_path).key == first.key and len(calls) == 1
    assert table(asked, tmp_path, ["a ring"]).key == first.key and len(calls) == 2  # other captions of the same encoder
    assert table(config("t5", folder, max_tokens=9), tmp_path).key != first.key and len(calls) == 3
    cached = next(path for path in (tmp_path / "text").glob("*/tokens.npy"))
    with cached.open("r+b") as file:
        file.seek(200)
        file.write(b"\x07\x07")
    with pytest.warns(DamagedCache, match="tokens of captions are damaged"):
        for texts, longest in ((TEXTS, 24), (["a ring"], 24), (TEXTS, 9)):
            table(config("t5", folder, max_tokens=longest), tmp_path, texts)
    import transformers

    torch.manual_seed(1)
    transformers.T5EncoderModel(transformers.T5Config.from_pretrained(folder / "text_encoder")).save_pretrained(folder / "text_encoder")
    assert table(asked, tmp_path).key != first.key  # other weights under the same name


def test_a_caption_longer_than_the_encoder_reads_is_cut(made: dict[str, Path], tmp_path: Path) -> None:
    found = table(config("t5", made["t5"], max_tokens=4), tmp_path, ["a red green disc ring falls a red"])
    assert found.values.shape[1] == 4 and found.mask[0].all()
    with pytest.raises(Refusal, match=r"text.max_tokens 25 is more than the 24 .* use 24 or fewer"):
        text_size(config("clip", made["clip"], max_tokens=25))


def test_a_pickle_is_refused(made: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(made["clip"], folder)
    weights = folder / "text_encoder" / "model.safetensors"
    torch.save({}, weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(Refusal, match=r"in a pickle, which may run code when it is read: no .safetensors in .*; save it as safetensors"):
        find_encoder(config("clip", folder))


def test_another_encoder_than_was_named(made: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"is of the kind 't5', not clip; use text.encoder=t5"):
        find_encoder(config("clip", made["t5"]))
    with pytest.raises(Refusal, match=r"has no clip encoder in .*; name the folder of one, or give text.subfolder"):
        find_encoder(config("clip", made["clip"], subfolder="elsewhere"))
    assert find_encoder(config("clip", made["clip"] / "text_encoder", tokenizer_subfolder="../tokenizer")).config["hidden_size"] == 16
    broken = tmp_path / "broken"
    shutil.copytree(made["clip"], broken)
    (broken / "text_encoder" / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0nothing of any use")
    with pytest.raises(Refusal, match="cannot be loaded as clip"):
        table(config("clip", broken), tmp_path)


def test_what_is_neither_here_nor_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub

    def nowhere(*given: Any, **more: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nowhere)
    for name, line in (("some/where", "cannot be fetched .no network.*hf download some/where"), ("../no where", "nor the name of a model")):
        with pytest.raises(Refusal, match=line):
            text_size(EncodedText(encoder="clip", name=name))
    monkeypatch.setattr(extra.importlib.util, "find_spec", lambda name: None)
    cell = tiny_cell(data=_told(), text=_clip(tmp_path))
    with pytest.raises(Refusal, match=r"text.encoder clip needs transformers, which is not installed; install it by: .*\[text\]"):
        check_cell(cell)


def test_a_latent_space_knows_the_encoders_width(made: dict[str, Path]) -> None:
    cell = tiny_cell(data=_told(), text=_clip(made["clip"]))
    check_cell(cell)
    spec = latent_spec(cell, 0)
    assert spec is not None and (spec.text_width, spec.text_tokens) == (16, 20)


def _told() -> dict[str, Any]:
    return {"source": "tests.told_source", "num_frames": 2, "height": 16, "width": 16, "num_val": 4, "num_test": 4}


def _clip(folder: Path) -> dict[str, Any]:
    return {"encoder": "clip", "name": str(folder), "max_tokens": 20}
