"""Which methods there are: a file of `medfl.methods` makes its methods known, so does a package's entry point."""

from __future__ import annotations

import functools
import inspect
import pkgutil
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from typing import TypeVar

import medfl.methods
from medfl.errors import MedflError, nearest
from medfl.methods.core.method import Method

GROUP = "medfl.methods"  # of the entry points
REGISTERED: dict[str, type[Method]] = {}
"""Methods that a program made known, by name."""
M = TypeVar("M", bound=type[Method])


def register(kind: M) -> M:
    """Make a method known to this process under its name; a decorator. A site elsewhere does not know it: there it is
    an entry point of an installed package. Raises ValueError for the name of a built-in method."""
    if kind.name in built_in_methods():
        raise ValueError(f"{kind.name} is the name of a built-in method; choose another")
    REGISTERED[kind.name] = kind
    return kind


@functools.cache
def built_in_methods() -> dict[str, type[Method]]:
    """Method name -> class, of every module of `medfl.methods`."""
    classes: dict[str, type[Method]] = {}
    for module in _modules():
        classes |= _methods_of(f"{medfl.methods.__name__}.{module}")
    return dict(sorted(classes.items()))


@functools.cache
def _modules() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(medfl.methods.__path__) if not module.ispkg]


def _methods_of(module: str) -> dict[str, type[Method]]:
    """The named method classes that a module defines itself."""
    members = inspect.getmembers(import_module(module), inspect.isclass)
    return {
        kind.name: kind
        for _, kind in members
        if issubclass(kind, Method) and kind.__module__ == module and "name" in vars(kind)
    }


def known_methods() -> dict[str, type[Method]]:
    """Method name -> class, of installed packages (entry points `medfl.methods`), of this program, and built in, which
    wins."""
    return {entry.name: entry.load() for entry in entry_points(group=GROUP)} | REGISTERED | built_in_methods()


def method_class(name: str) -> type[Method]:
    """The class of a method name. Raises MedflError with the nearest names."""
    own = _methods_of(f"{medfl.methods.__name__}.{name}") if name in _modules() else {}  # others are not imported
    built_in = own if name in own else built_in_methods() | REGISTERED
    if name in built_in:
        return built_in[name]
    methods = known_methods()  # looking through all packages takes its time
    if name not in methods:
        raise MedflError(
            f"`method`: there is no method {name!r}.{nearest(name, methods)} Known: {', '.join(sorted(methods))}; "
            f"[] is FedAvg"
        )
    return methods[name]


def citations(names: Iterable[str]) -> dict[str, str]:
    """Method name -> "arXiv:..." or "doi:...", of those built-in methods among the names that state a paper."""
    built_in = built_in_methods()
    return {name: built_in[name].paper for name in dict.fromkeys(names) if name in built_in and built_in[name].paper}
