"""Pickles that may hold numpy arrays and nothing else, read without running what they ask for."""

from __future__ import annotations

import io
import pickle
from typing import Any

from bench.metrics.weights.cache import WeightsError


class ArrayUnpickler(pickle.Unpickler):
    """Admits numpy arrays and plain containers. A pickle that asks for anything else is refused before it is called."""

    def find_class(self, module: str, name: str) -> Any:
        import numpy as np
        from numpy._core.multiarray import _reconstruct

        admitted: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        }
        if (module, name) not in admitted:
            raise pickle.UnpicklingError(f"a weights file may hold numpy arrays only, this one asks for {module}.{name}")
        return admitted[module, name]


def unpickle_arrays(content: bytes) -> Any:
    """A pickle of numpy arrays in plain containers. WeightsError for every other pickle; its code is not run."""
    try:
        return ArrayUnpickler(io.BytesIO(content)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"refused to read the weights: {error}") from error
