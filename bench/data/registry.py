"""Named objects of one kind: the project's own, and those that other distributions register as entry points. Knows no torch."""

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from bench.data.plugin import import_foreign, registered
from bench.shapes import Refusal, did_you_mean


class Named(Protocol):
    """What a registry holds."""

    @property
    def name(self) -> str: ...


NamedT = TypeVar("NamedT", bound=Named)
ObjectT = TypeVar("ObjectT")


class Registry(Generic[NamedT]):
    """Objects by name: ours in their order, then by name those of an entry-point group (name -> "module:OBJECT").

    One of another distribution is imported when it is first asked for, and never takes the place of one of ours.
    """

    def __init__(self, what: str, group: str, own: Iterable[NamedT]):
        """`what`: what one is called in errors."""
        self.what, self.group = what, group
        self.own = {one.name: one for one in own}
        self.kind = type(next(iter(self.own.values())))

    def names(self) -> list[str]:
        """All there are."""
        return [*self.own, *sorted(registered(self.group).keys() - self.own.keys())]

    def find(self, name: str) -> NamedT:
        """The object of a name. Refusal naming the nearest known one, or what is wrong with the one that is registered."""
        if name in self.own:
            return self.own[name]
        known = self.names()
        if name not in known:
            raise Refusal(f"unknown {self.what} {name!r}{did_you_mean(str(name), known)}; there are {', '.join(known)}")
        found = load_registered(self.what, self.group, name, self.kind)
        if found.name != name:
            raise Refusal(f"{self.what} {name!r} is registered for an object that is called {found.name!r}; mend its entry point")
        return found

    def among(self, names: Iterable[str]) -> list[NamedT]:
        """The objects of those names that are known, in our order."""
        wanted = set(names)
        return [self.find(name) for name in self.names() if name in wanted]


def load_all(
    what: str, group: str, own: Sequence[ObjectT], names: Callable[[ObjectT], Sequence[str]], kind: type[ObjectT]
) -> tuple[ObjectT, ...]:
    """Ours, then by name those of an entry-point group. `names`: all that one goes by, the first its own; Refusal where two share one."""
    found = (*own, *(load_registered(what, group, name, kind) for name in sorted(registered(group))))
    owners: dict[str, ObjectT] = {}
    for one in found:
        for name in names(one):
            if (other := owners.setdefault(name, one)) is not one:
                raise Refusal(f"{what}s {names(other)[0]!r} and {names(one)[0]!r} share the name {name!r}; give one of them another")
    return found


def load_registered(what: str, group: str, name: str, kind: type[ObjectT]) -> ObjectT:
    """The object of an entry point. Refusal where its module is not there, or it is something else."""
    where = registered(group)[name]
    module_name, _, attribute = where.partition(":")
    try:
        found = getattr(import_foreign(module_name), attribute, None)
    except ModuleNotFoundError as error:
        raise Refusal(f"{what} {name!r} is registered as {where!r}, and there is no module {error.name!r}; install it") from error
    if not isinstance(found, kind):
        raise Refusal(f"{what} {name!r} is registered as {where!r}, which is no {kind.__name__}; mend its entry point")
    return found
