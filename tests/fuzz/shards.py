"""Many inputs: dealt to processes, which are watched and started again where one hangs or dies; counted, and findings written."""

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from bench.data.frozen import content_hash
from bench.report.render.markdown import markdown_table
from tests.fuzz.case import Case, Domain
from tests.fuzz.guard import LIMIT_S, Outcome, judged

SILENT_S = LIMIT_S + 40  # without a word: the process is stuck where no signal reaches Python
START_S = 180.0  # until the first


@dataclass
class Tally:
    """What has come of the inputs so far."""

    endings: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # domain -> ending -> inputs
    causes: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))  # (domain, cause) -> findings
    seconds: Counter[str] = field(default_factory=Counter)  # domain -> of its inputs

    def add(self, found: dict[str, Any]) -> None:
        """One line of a process."""
        self.endings[found["domain"]][found["ending"]] += 1
        self.seconds[found["domain"]] += found.get("seconds", 0)
        if found["ending"] == "finding":
            self.causes[found["domain"], found["cause"]].append(found)


def domains() -> tuple[Domain, ...]:
    """All of them."""
    from tests.fuzz import arrays, caches, matrix, media, records

    return (*matrix.DOMAINS, *records.DOMAINS, *arrays.DOMAINS, *media.DOMAINS, *caches.DOMAINS)


def drawn(seed: int, index: int, only: str | None = None) -> tuple[Domain, Case]:
    """Input `index` of a seed: the same whoever draws it."""
    rng = Random(f"{seed}/{index}")
    among = [domain for domain in domains() if only in (None, domain.name)]
    domain = rng.choices(among, [each.share for each in among])[0]
    return domain, domain.draw(rng)


def lines(seed: int, indices: range, only: str | None, folder: Path) -> Iterator[dict[str, Any]]:
    """Tries inputs one by one. Before each a line that names it, so that it is known should the process die; then how it ended."""
    for index in indices:
        domain, case = drawn(seed, index, only)
        where = {"domain": domain.name, "seed": seed, "index": index}
        yield where
        start_s = time.monotonic()
        outcome = judged(domain, case, folder / str(index))
        found = {**where, "ending": outcome.ending, "cause": outcome.cause, "seconds": time.monotonic() - start_s}
        yield found | ({"detail": outcome.detail, "case": case} if outcome.ending == "finding" else {})


def work(seed: int, indices: range, only: str | None, out: int) -> None:
    """The process of a shard: a line of JSON at a time into the descriptor `out`."""
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory() as folder, os.fdopen(out, "w") as told:
        for domain in domains():
            if only in (None, domain.name):
                domain.draw(Random(0))  # what is made once, before anything is watched
        for line in lines(seed, indices, only, Path(folder)):
            print(json.dumps(line), file=told, flush=True)


def fuzz(seed: int, num_inputs: int, num_shards: int, only: str | None) -> Tally:
    """Deal `num_inputs` to processes, and follow each until its last."""
    tally, waiting = Tally(), selectors.DefaultSelector()
    for shard in range(num_shards):
        _start(waiting, seed, range(shard, num_inputs, num_shards), only)
    while waiting.get_map():
        for key, _ in waiting.select(timeout=1):
            key.data.read()
        for key in list(waiting.get_map().values()):
            shard = key.data
            for line in shard.complete():
                tally.add(line)
            stuck = time.monotonic() - shard.heard_s > (SILENT_S if shard.at else START_S)
            if not shard.ended and not stuck:
                continue
            waiting.unregister(key.fileobj)
            rest = shard.close(tally)
            if rest:
                _start(waiting, seed, rest, only)
        print(f"\r{sum(map(Counter.total, tally.endings.values()))}/{num_inputs}, {len(tally.causes)} causes", end="", file=sys.stderr)
    print(file=sys.stderr)
    return tally


class Shard:
    """A process and what it said."""

    def __init__(self, seed: int, indices: range, only: str | None):
        self.indices, self.only, self.at, self.ended = indices, only, None, False
        self.buffer, self.heard_s = b"", time.monotonic()
        self.out, theirs = os.pipe()
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  read when the process has ended
        words = [str(seed), str(indices.start), str(indices.stop), str(indices.step), only or "", str(theirs)]
        code = f"import faulthandler; faulthandler.enable(); from tests.fuzz.shards import shard_main; shard_main({words!r})"
        self.process = subprocess.Popen([sys.executable, "-c", code], pass_fds=(theirs,), stdout=self.errors, stderr=self.errors)
        os.close(theirs)

    def read(self) -> None:
        """What is there to read."""
        content = os.read(self.out, 1 << 20)
        self.buffer += content
        self.ended, self.heard_s = not content, time.monotonic()

    def complete(self) -> Iterator[dict[str, Any]]:
        """Its finished inputs since the last call."""
        *whole, self.buffer = self.buffer.split(b"\n")
        for text in whole:
            line = json.loads(text)
            self.at = line
            if "ending" in line:
                yield line

    def close(self, tally: Tally) -> range:
        """Ends the process; of one that hung or died the input is a finding. Inputs that are left."""
        self.process.kill() if not self.ended else None
        code = self.process.wait()
        os.close(self.out)
        self.errors.seek(0)
        said = self.errors.read()[-3000:].decode(errors="replace")
        if self.at is None:
            raise RuntimeError(f"a process of the fuzzer did not start: {said}")
        done = self.indices.index(self.at["index"]) + 1
        if "ending" not in self.at:
            cause = f"the process died with {code}" if self.ended else "hang where no signal reaches Python"
            case = drawn(self.at["seed"], self.at["index"], self.only)[1]
            tally.add({**self.at, "ending": "finding", "cause": cause, "detail": said, "case": case})
        elif code and done < len(self.indices):
            raise RuntimeError(f"a process of the fuzzer ended with {code} between inputs: {said}")
        return self.indices[done:]


def _start(waiting: selectors.DefaultSelector, seed: int, indices: range, only: str | None) -> None:
    if indices:
        shard = Shard(seed, indices, only)
        waiting.register(shard.out, selectors.EVENT_READ, shard)


def shard_main(words: list[str]) -> None:
    """Entry of a shard's process."""
    seed, start, stop, step, only, out = words
    work(int(seed), range(int(start), int(stop), int(step)), only or None, int(out))


def write_findings(tally: Tally, folder: Path) -> list[str]:
    """The smallest input of every cause as a file that `--replay` takes; a line for each, most frequent first."""
    told = []
    for (domain, cause), found in sorted(tally.causes.items(), key=lambda item: -len(item[1])):
        smallest = min(found, key=lambda each: len(json.dumps(each["case"])))
        path = folder / f"{domain}-{content_hash(cause)[:8]}.json"
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({key: smallest[key] for key in ("domain", "seed", "index", "cause", "detail", "case")}, indent=1) + "\n")
        told.append(f"{len(found):5} {domain}: {cause}  ({path})")
    return told


def replay(path: Path, folder: Path) -> Outcome:
    """Try a stored finding again."""
    stored = json.loads(path.read_text())
    domain = next(domain for domain in domains() if domain.name == stored["domain"])
    domain.draw(Random(0))  # what is made once, before anything is watched
    return judged(domain, stored["case"], folder / path.stem)


def to_table(tally: Tally) -> str:
    """Domain, inputs, how they ended."""
    rows = []
    for domain in domains():
        counts = tally.endings[domain.name]
        causes = sum(1 for name, _ in tally.causes if name == domain.name)
        rows.append([counts.total(), counts["accepted"], counts["refused"], counts["finding"], causes])
    named = [[domain.name, *map(str, row)] for domain, row in zip(domains(), rows, strict=True)]
    named.append(["all", *(str(sum(row[column] for row in rows)) for column in range(5))])
    return markdown_table(["domain", "inputs", "accepted", "refused", "findings", "causes"], named, figures=range(1, 6))
