"""What is to be seen in clips that are sampled: prompts of the command line and of a file. Knows no torch."""

from collections.abc import Sequence
from pathlib import Path

from bench.shapes import Refusal

MOST_LETTERS = 2000  # of a prompt
MOST_PROMPTS = 10_000


def read_prompts(given: Sequence[str], file: Path | None) -> tuple[str, ...]:
    """Those of the command line, then those of a file, one a line, empty lines left out. Refusal for a file that has none or no text."""
    prompts = [" ".join(prompt.split()) for prompt in given]
    if "" in prompts:
        raise Refusal("--prompt '' says nothing; without --prompt clips are made of what the test clips show")
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise Refusal(f"--prompts {file} cannot be read as text in UTF-8 ({error}); give a file with a prompt a line") from error
        found = [" ".join(line.split()) for line in lines]
        if not any(found):
            raise Refusal(f"--prompts {file} has no prompt in it; write one a line")
        prompts += filter(None, found)
    if len(prompts) > MOST_PROMPTS:
        raise Refusal(f"{len(prompts):,} prompts, at most {MOST_PROMPTS:,} are taken; split the file")
    if longest := [prompt for prompt in prompts if len(prompt) > MOST_LETTERS]:
        raise Refusal(f"prompt {longest[0][:40]!r}... has {len(longest[0]):,} letters, at most {MOST_LETTERS:,} are read; shorten it")
    return tuple(prompts)
