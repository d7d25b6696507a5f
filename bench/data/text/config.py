"""What a matrix says of the captions that clips are described by: which encoder reads them, and how much of them. Knows no torch."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from bench.data.files import at_home
from bench.data.frozen import Frozen
from bench.shapes import Refusal

MOST_TOKENS = 1024  # of a caption
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
MODEL_TYPES = {"clip": ("clip", "clip_text_model"), "t5": ("t5", "mt5", "umt5")}  # as config.json has them


class WordText(Frozen):
    """A small encoder of words that is trained along with the backbone; it needs no download."""

    encoder: Literal["words"]
    width: int = Field(128, ge=8, le=8192)  # of a token
    depth: int = Field(2, ge=0, le=48)  # layers of attention among the words; 0: each word by itself
    max_tokens: int = Field(16, ge=2, le=MOST_TOKENS)  # of a caption, a first one of every caption among them; further words are cut off
    dropout: float = Field(0.1, ge=0, le=1, allow_inf_nan=False)  # probability that a training clip loses caption and label, for guidance


class EncodedText(Frozen):
    """A frozen text encoder of transformers, from a folder or a hub; what it makes of each caption is computed once."""

    encoder: Literal["clip", "t5"]  # CLIP's text model, or the encoder of T5, mT5 or UMT5
    name: str  # folder, of a pipeline of diffusers too, or hub name such as "openai/clip-vit-large-patch14"
    revision: str | None = None  # hub commit; a hub name without one follows its main branch
    subfolder: str | None = None  # with the encoder; None: of a pipeline text_encoder, else none
    tokenizer_subfolder: str | None = None  # with the tokenizer; None: of a pipeline tokenizer, else none
    max_tokens: int = Field(77, ge=2, le=MOST_TOKENS)  # of a caption; further ones are cut off
    filled: bool = False  # what a caption is filled up with counts as its tokens too, as some public weights were trained
    dropout: float = Field(0.1, ge=0, le=1, allow_inf_nan=False)  # probability that a training clip loses caption and label, for guidance


Captioning = Annotated[WordText | EncodedText, Field(discriminator="encoder")]


@dataclass(frozen=True, kw_only=True)
class EncoderFiles:
    """Where a pretrained encoder lies."""

    encoder: Path
    tokenizer: Path
    config: dict[str, Any]  # its config.json, or the part of it that is of text


def text_size(config: Captioning) -> tuple[int, int]:
    """(width, number) of a caption's tokens. Refusal where an encoder is not there or is none."""
    if isinstance(config, WordText):
        return config.width, config.max_tokens
    found = find_encoder(config).config
    width, longest = found.get("hidden_size", found.get("d_model")), found.get("max_position_embeddings")
    if not isinstance(width, int):
        raise Refusal(f"text.name {config.name!r}: its config.json names neither hidden_size nor d_model; give an encoder of transformers")
    if isinstance(longest, int) and config.max_tokens > longest:
        raise Refusal(f"text.max_tokens {config.max_tokens} is more than the {longest} that {config.name!r} reads; use {longest} or fewer")
    return width, config.max_tokens


def find_encoder(config: EncodedText) -> EncoderFiles:
    """The files of an encoder, fetched once where `name` is a hub's. Refusal for what is not there or is another kind of model."""
    root = at_home(Path(config.name))
    if not root.is_dir():
        root = _fetched(config)
    is_pipeline = (root / "model_index.json").is_file()
    encoder = root / (("text_encoder" if is_pipeline else "") if config.subfolder is None else config.subfolder)
    tokenizer = root / (("tokenizer" if is_pipeline else "") if config.tokenizer_subfolder is None else config.tokenizer_subfolder)
    try:
        found = json.loads((encoder / "config.json").read_text(encoding="utf-8"))
        kind = found["model_type"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise Refusal(
            f"text.name {config.name!r} has no {config.encoder} encoder in {encoder}: its config.json is not there or is damaged; name "
            "the folder of one, or give text.subfolder"
        ) from error
    if kind not in MODEL_TYPES[config.encoder]:
        others = [name for name, kinds in MODEL_TYPES.items() if kind in kinds]
        remedy = f"use text.encoder={others[0]}" if others else f"give one of {', '.join(MODEL_TYPES[config.encoder])}"
        raise Refusal(f"text.name {config.name!r} is of the kind {kind!r}, not {config.encoder}; {remedy}")
    if not any(encoder.glob("*.safetensors")):
        pickles = any(encoder.glob("*.bin"))
        what = "has its weights in a pickle, which may run code when it is read" if pickles else "has no weights"
        raise Refusal(f"text.name {config.name!r} {what}: no .safetensors in {encoder}; save it as safetensors there")
    return EncoderFiles(encoder=encoder, tokenizer=tokenizer, config=found.get("text_config", found) if kind == "clip" else found)


def _fetched(config: EncodedText) -> Path:
    """The folder that a hub's files are in, of the cache where they are there already."""
    place = f"text.name {config.name!r} is no folder"
    if HUB_NAME.fullmatch(config.name) is None:
        raise Refusal(f"{place}, nor the name of a model on a hub, such as openai/clip-vit-large-patch14")
    from huggingface_hub import snapshot_download

    patterns = [f"*{name}" for name in (".json", ".safetensors", ".txt", ".model")]
    try:
        return Path(snapshot_download(config.name, revision=config.revision, allow_patterns=patterns, local_files_only=True))
    except OSError:
        pass
    try:
        return Path(snapshot_download(config.name, revision=config.revision, allow_patterns=patterns))
    except OSError as error:
        raise Refusal(
            f"{place} and cannot be fetched ({' '.join(str(error).split())[:200]}); give a folder, or fetch it where there is a network: "
            f"hf download {config.name}"
        ) from error
