"""One process that hosts the suite of its own source tree and does what it is told, a line at a time: `python -m bench.perf.worker`.

Requests and replies are JSON, one a line, on standard input and output; whatever else prints goes to standard error.
    -> (nothing)                      <- {"suite_version", "tree", "benchmarks": {name: definition}}
    -> {"do": "open", "name"}         <- {"device", "num_threads", "torch"}
    -> {"do": "step"}                 <- {"s": seconds, "parts": {part: seconds}}
    -> {"do": "counters"}             <- {counter: value}
    -> {"do": "close"}                <- {}
    a request that fails              <- {"error": one line}
"""

import contextlib
import gc
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.perf.suite import SUITE_VERSION, Benchmark, suite


def main() -> int:
    """Serve until standard input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    benchmarks = suite()
    hello = {
        "suite_version": SUITE_VERSION,
        "tree": str(Path(__file__).resolve().parents[2]),
        "benchmarks": {name: benchmark.definition for name, benchmark in benchmarks.items()},
    }
    print(json.dumps(hello), file=out, flush=True)
    with contextlib.closing(Server(benchmarks)) as server:
        for line in sys.stdin:
            try:
                reply = server.answer(json.loads(line))
            except Exception as error:  # noqa: BLE001  whatever a benchmark does wrong is the gate's to report
                reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            print(json.dumps(reply), file=out, flush=True)
    return 0


class Server:
    """Holds the one benchmark that is open."""

    def __init__(self, benchmarks: dict[str, Benchmark]) -> None:
        self._benchmarks = benchmarks
        self._workload: Any = None
        self._folder = contextlib.ExitStack()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one request."""
        match request["do"]:
            case "open":
                return self._open(request["name"])
            case "step":
                total_s, parts = self._workload.timed_step()
                return {"s": total_s, "parts": parts}
            case "counters":
                return self._workload.counters()
            case "close":
                self.close()
                return {}
        raise ValueError(f"unknown request {request['do']!r}")

    def close(self) -> None:
        """Let go of the open benchmark."""
        self._workload = None
        gc.enable()
        gc.collect()
        self._folder.close()

    def _open(self, name: str) -> dict[str, Any]:
        import torch

        from bench.meters.process import keep_freed_memory, use_exact_float32
        from bench.perf.workload import warm_up

        self.close()
        use_exact_float32()
        keep_freed_memory()
        self._workload = self._benchmarks[name].open(Path(self._folder.enter_context(tempfile.TemporaryDirectory())))
        warm_up(self._workload)
        gc.collect()
        gc.disable()  # a collection in the middle of a step would be timed
        device = self._workload.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return {"device": name, "num_threads": torch.get_num_threads(), "torch": torch.__version__}


if __name__ == "__main__":
    sys.exit(main())
