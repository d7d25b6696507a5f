"""The harness: everything that is not a backbone. From Python it is four names (docs/python.md): `load_study`, `run`, `results`, `report`.

None is imported before it is asked for: `import bench` takes no time, and reading results needs no torch.
"""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.report.load import results
    from bench.study.matrix import load_study
else:

    def __getattr__(name: str) -> Any:
        places = {"load_study": "bench.study.matrix", "results": "bench.report.load", "run": None, "report": None}
        if name not in places:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(places[name]), name) if places[name] else importlib.import_module(f"bench.{name}")


__all__ = ["load_study", "report", "results", "run"]


def __dir__() -> list[str]:
    return [*globals(), *__all__]


class CallableRoom(ModuleType):
    """A room that can be called: `bench.run(study)`, and `bench.run.launch` is a module in it.

    A function of that name in this file would not do: Python puts the room in its place as soon as anything imports a module of it. So the
    room itself has a call, which is what it defines as `called`.
    """

    called: Callable[..., Any]

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.called(*arguments, **options)

    @property
    def __signature__(self) -> Any:  # what a notebook shows of it
        return importlib.import_module("inspect").signature(self.called)
