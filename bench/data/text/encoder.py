"""What a frozen text encoder of transformers makes of captions, once for all contenders and runs, and the table of captions of a cell."""

import hashlib
import importlib
import importlib.metadata
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from bench.data.frozen import content_hash
from bench.data.progress import Progress
from bench.data.sealed import kept_or_made
from bench.data.text.config import Captioning, EncodedText, EncoderFiles, WordText, find_encoder, text_size
from bench.data.text.table import CaptionTable, each_once, vocabulary_of, word_tokens, words_of
from bench.shapes import Refusal, visible

CODE_VERSION = 1  # raise it when the same files and captions start to give other values
AT_ONCE = 64  # captions in one call
MOST_BYTES = 2**34  # of a table, which is held beside the weights
CLASSES = {
    **dict.fromkeys(("clip", "clip_text_model"), "CLIPTextModel"),
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
}


def caption_table(
    config: Captioning, captions: Iterable[str], training: Iterable[str], cache: Path, device: torch.device, progress: Progress
) -> CaptionTable:
    """The table of captions; `training`: those whose words an encoder of words learns. Refusal for an encoder that cannot be used."""
    texts = each_once(captions)
    if isinstance(config, WordText):
        vocabulary = vocabulary_of(training)
        if cut := [text for text in texts if len(words_of(text)) >= config.max_tokens]:
            example = visible(" ".join(cut[0].split()))[:80]
            print(
                f"{len(cut)} of {len(texts)} captions have more than {config.max_tokens - 1} words and are cut there, as {example!r}; "
                "raise text.max_tokens to keep them whole",
                file=sys.stderr,
            )
        values, mask = word_tokens(config, texts, vocabulary)
        return CaptionTable(texts=texts, values=values, mask=mask, vocabulary=vocabulary, key=content_hash(list(vocabulary))[:16])
    files = find_encoder(config)
    key = content_hash([_files_hash(files), CODE_VERSION, config.model_dump(mode="json", include={"encoder", "max_tokens", "filled"})])[:16]
    width, num_tokens = text_size(config)
    if (needed_bytes := 4 * len(texts) * width * num_tokens) > MOST_BYTES:
        raise Refusal(
            f"{len(texts):,} captions of {num_tokens} tokens of width {width} take {needed_bytes:,} bytes, at most {MOST_BYTES:,}; "
            "lower text.max_tokens, use a smaller encoder or fewer captions"
        )
    folder = cache / "text" / content_hash([key, importlib.metadata.version("transformers"), list(texts)])[:16]
    kept_or_made(folder, "tokens of captions", lambda temp: _encode(config, files, texts, temp, device, progress))
    return CaptionTable(
        texts=texts,
        values=np.load(folder / "tokens.npy", mmap_mode="r"),
        mask=np.load(folder / "mask.npy"),
        vocabulary=(),
        key=key,
    )


@torch.inference_mode()
def _encode(config: EncodedText, files: EncoderFiles, texts: Sequence[str], folder: Path, device: torch.device, progress: Progress) -> None:
    """Writes tokens.npy (U, L, W) float32, the encoder's last hidden states, and mask.npy (U, L)."""
    tokenizer, encoder = _loaded(config, files, device)
    width, num_tokens = text_size(config)
    tokens = np.lib.format.open_memmap(folder / "tokens.npy", mode="w+", dtype=np.float32, shape=(len(texts), num_tokens, width))
    mask = np.zeros((len(texts), num_tokens), bool)
    for start in range(0, len(texts), AT_ONCE):
        progress(start, len(texts), f"{config.encoder} tokens of captions")
        several = list(texts[start : start + AT_ONCE])
        given = tokenizer(several, padding="max_length", truncation=True, max_length=num_tokens, return_tensors="pt").to(device)
        there = torch.ones_like(given["input_ids"], dtype=torch.bool) if config.filled else given["attention_mask"].bool()
        there[:, 0] = True  # of a tokenizer that makes nothing of the empty text
        states = encoder(input_ids=given["input_ids"], attention_mask=there.long()).last_hidden_state.float()
        states = states.where(there[..., None], 0)
        if not bool(torch.isfinite(states).all()):
            raise Refusal(f"text.name {config.name!r} gives NaN or infinite tokens; name another encoder")
        tokens[start : start + AT_ONCE] = states.cpu().numpy()
        mask[start : start + AT_ONCE] = there.cpu().numpy()
    tokens.flush()
    np.save(folder / "mask.npy", mask)


def _loaded(config: EncodedText, files: EncoderFiles, device: torch.device) -> tuple[Any, Any]:
    """Tokenizer and encoder, in float32. Weights are read from safetensors alone."""
    transformers = importlib.import_module("transformers")
    transformers.utils.logging.disable_progress_bar()  # progress has lines of its own here
    # transformers' own file says which of a family's classes its weights are of.
    kind = "clip" if config.encoder == "clip" else files.config["model_type"]
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(files.tokenizer, local_files_only=True)
        encoder = getattr(transformers, CLASSES[kind]).from_pretrained(
            files.encoder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        raise Refusal(
            f"text.name {config.name!r} cannot be loaded as {config.encoder}: {' '.join(str(error).split())[:300]}; name another, or give "
            "text.subfolder and text.tokenizer_subfolder"
        ) from error
    if tokenizer.pad_token is None:
        raise Refusal(f"text.name {config.name!r}: its tokenizer in {files.tokenizer} has no padding token; name another")
    return tokenizer, encoder.eval().requires_grad_(False).to(device)


def _files_hash(files: EncoderFiles) -> str:
    """Of all files of encoder and tokenizer."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in {files.encoder, files.tokenizer} for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
