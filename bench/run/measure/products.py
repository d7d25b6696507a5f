"""The libraries of float32 products on a CPU, tried in turns when a study begins, and the faster one taken by every backbone.

Which is faster depends on the processor: MKL takes twice as long as oneDNN on some, and less on others. The choice is kept in the study's
cache, as its peak is: rivals share it, and a resumed study goes on with it, bit for bit. It is kept in the user's too, so that another
study on this machine begins with the same.
"""

import contextlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.backbone import PRODUCTS
from bench.data.files import StoreError, now
from bench.data.frozen import content_hash
from bench.data.sealed import read_sealed, write_sealed
from bench.metrics.weights.cache import cache_folder as user_cache
from bench.records.environment import cpu_id, own_cpus
from bench.records.products import ProductTrial
from bench.run.stages import cache_folder

SIZES = ((2048, 128, 384), (512, 384, 1536))  # rows, width in, width out: layers of a small backbone
ROUNDS = 7
LEAST_GAIN = 0.05  # of the time of oneDNN's product, below which it is kept: noise must not choose

Product = Callable[[Tensor, Tensor, Tensor], Tensor]  # rows (N, in), weight (out, in), gradient of the output (N, out)


def ways() -> dict[str, dict[str, Product]]:
    """Kind of product -> library -> the product; of one library alone where torch was built without oneDNN."""
    torchs: dict[str, Product] = {
        "forward": lambda rows, weight, grad: F.linear(rows, weight, grad[0]),  # a bias of that size
        "of_rows": lambda rows, weight, grad: grad @ weight,
        "of_weights": lambda rows, weight, grad: grad.t() @ rows,
    }
    multiply = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if multiply is None or not torch.backends.mkldnn.is_available():
        return {kind: {"torch": product} for kind, product in torchs.items()}

    def onednn(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
        return multiply(a, b, bias, "none", [], "")  # a b^T + bias

    onednns: dict[str, Product] = {
        "forward": lambda rows, weight, grad: onednn(rows, weight, grad[0]),
        "of_rows": lambda rows, weight, grad: onednn(grad, weight.t()),
        "of_weights": lambda rows, weight, grad: onednn(rows.t(), grad.t()).t(),
    }
    return {kind: {"onednn": onednns[kind], "torch": torchs[kind]} for kind in torchs}


def use_products(study: str, results: Path, device: torch.device) -> ProductTrial | None:
    """From now on backbones of this process multiply as the study's trial says, from the cache or made now; None on another device."""
    if device.type != "cpu":
        return None
    trial = study_products(study, results)
    PRODUCTS.update(trial.chosen)
    return trial


def study_products(study: str, results: Path) -> ProductTrial:
    """What a study goes by on this machine, from its cache, the user's, or tried now. One that was edited is named and made anew."""
    machine = {
        "cpu": cpu_id(),
        "cpus": len(own_cpus()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "sizes": SIZES,
        "rounds": ROUNDS,
        "least_gain": LEAST_GAIN,
    }
    key = content_hash({"study": study, **machine})[:16]
    path = cache_folder(results) / "products" / f"{key}.json"
    if (found := read_sealed(path, key, ProductTrial, "trial of products")) is not None:
        return found
    trial = _machines(content_hash(machine)[:16]).model_copy(update={"key": key})
    write_sealed(path, key, trial)
    return trial


def _machines(key: str) -> ProductTrial:
    """Of this machine, from the user's cache or made now: where libraries are nearly alike, two studies shall not differ by it."""
    path = user_cache() / "products" / f"{key}.json"

    def kept() -> ProductTrial | None:
        return read_sealed(path, key, ProductTrial, "trial of products")

    if (found := kept()) is not None:
        return found
    times_s = {kind: timed(libraries) for kind, libraries in ways().items()}
    made = ProductTrial(key=key, chosen={kind: faster(each) for kind, each in times_s.items()}, times_s=times_s, measured_at=now())
    if (found := kept()) is not None:  # another process was faster
        return found
    with contextlib.suppress(StoreError):  # whoever has no cache tries once a study
        write_sealed(path, key, made)
    return made


def timed(libraries: dict[str, Product], clock: Callable[[], float] = time.perf_counter) -> dict[str, list[float]]:
    """Library -> seconds of all sizes, of each round; another one first each time, after one that is not counted."""
    inputs = [(torch.randn(num, into), torch.randn(out, into), torch.randn(num, out)) for num, into, out in SIZES]
    times_s: dict[str, list[float]] = {library: [] for library in libraries}
    for number in range(ROUNDS + 1):
        order = list(libraries.items())[:: 1 if number % 2 else -1]
        for library, product in order:
            start_s = clock()
            for each in inputs:
                product(*each)
            times_s[library].append(clock() - start_s)
    return {library: times[1:] for library, times in times_s.items()}


def faster(times_s: dict[str, list[float]]) -> str:
    """oneDNN, unless torch's own product is the faster by `LEAST_GAIN` in the median of the pairs.

    >>> faster({"onednn": [1.0, 1.1, 3.0], "torch": [0.97, 1.07, 1.0]}), faster({"onednn": [1.0, 1.1, 3.0], "torch": [0.9, 1.0, 1.0]})
    ('onednn', 'torch')
    """
    if "onednn" not in times_s:
        return "torch"
    ratio = statistics.median(ours / theirs for ours, theirs in zip(times_s["torch"], times_s["onednn"], strict=True))
    return "torch" if ratio < 1 - LEAST_GAIN else "onednn"
