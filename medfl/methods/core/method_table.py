"""What `medfl methods` shows: every method, its parameters, and what it may share a chain with."""

from __future__ import annotations

import dataclasses

from medfl.methods.core.chain import Method
from medfl.methods.core.registry import known_methods, method_class


def compatible(one: Method, other: Method) -> bool:
    """Whether two methods may share a chain."""
    try:
        one.check_compatible(other)
        other.check_compatible(one)
    except ValueError:
        return False
    return True


def method_table() -> list[list[str]]:
    """Rows of name, parameters with defaults, what it does in a line, what it goes with."""
    rows = []
    kinds = {name: method_class(name) for name in sorted(known_methods())}
    methods = {name: kind() for name, kind in kinds.items()}
    for name, kind in kinds.items():
        others = {other: compatible(methods[name], method) for other, method in methods.items() if other != name}
        meets = [other for other, fits in others.items() if fits]
        apart = [other for other, fits in others.items() if not fits]
        if len(meets) <= len(apart):
            goes = ", ".join(meets) or "nothing"
        else:
            goes = f"all but {', '.join(apart)}" if apart else "all"
        parameters = ", ".join(f"{f.name}={f.default}" for f in dataclasses.fields(kind))
        rows.append([name, parameters, (kind.__doc__ or "").splitlines()[0], goes])
    return rows
