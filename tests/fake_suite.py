"""A repository with a performance suite that invents its times: the gate's failure handling in seconds, and no real timing in a test."""

import json
import subprocess
from pathlib import Path
from typing import Any

WORKER = """
import json, math, os, random, sys
from pathlib import Path

tree = Path(__file__).resolve().parents[2]
suite = json.loads((tree / "suite.json").read_text())
if suite.get("broken"):
    raise ImportError(suite["broken"])
say = lambda reply: print(json.dumps(reply), flush=True)
definitions = {name: benchmark.get("definition", {}) for name, benchmark in suite["benchmarks"].items()}
say({"suite_version": suite.get("version", 1), "tree": str(tree), "benchmarks": definitions})
generator, name = random.Random(), None
for line in sys.stdin:
    request = json.loads(line)
    benchmark = suite["benchmarks"].get(request.get("name", name))
    if request["do"] == "open":
        name = request["name"]
        with (tree / "opened").open("a") as count:
            count.write("x")
        turn = 1 if (tree / "opened").stat().st_size % 2 else -1
        process = generator.lognormvariate(0, 0.003) * math.exp(turn * suite.get("swing", 0.0))
        if "error" in benchmark:
            say({"error": benchmark["error"]})
        else:
            say({"device": "cpu", "num_threads": 1, "torch": "0"})
    elif request["do"] == "step":
        if "log" in suite:
            with open(suite["log"], "a") as log:
                log.write(f"{tree.name} {sorted(os.sched_getaffinity(0))}\\n")
        if benchmark.get("dies"):
            sys.exit("out of luck")
        seconds = benchmark["ms"] / 1000 * process * generator.lognormvariate(0, 0.02)
        parts = {part: seconds * share for part, share in benchmark.get("parts", {}).items()}
        say({"s": seconds, "parts": parts})
    elif request["do"] == "counters":
        say(benchmark.get("counters", {}))
    else:
        say({})
"""


class FakeProject:
    """A git repository whose commits differ in their suite."""

    def __init__(self, root: Path):
        self.root = root
        (root / "bench" / "perf").mkdir(parents=True)
        for package in (root / "bench", root / "bench" / "perf"):
            (package / "__init__.py").touch()
        (root / "bench" / "perf" / "worker.py").write_text(WORKER)
        (root / ".gitignore").write_text("__pycache__/\n")
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.email", "test@example.org")
        self.git("config", "user.name", "test")

    @classmethod
    def at(cls, root: Path) -> "FakeProject":
        """One that is there already, such as a copy."""
        project = cls.__new__(cls)
        project.root = root
        return project

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(self.root), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self, benchmarks: dict[str, dict[str, Any]], **suite: Any) -> str:
        """A commit with this suite; its hash."""
        (self.root / "suite.json").write_text(json.dumps({"benchmarks": benchmarks, **suite}))
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "suite")
        return self.git("rev-parse", "HEAD")
