"""What `medfl methods` shows: every method, its parameters, and what it may share a chain with."""

from __future__ import annotations

import dataclasses

from medfl.methods.core.compatibility import check_pair
from medfl.methods.core.method import Method
from medfl.methods.core.registry import known_methods


def compatible(one: Method, other: Method) -> bool:
    """Whether two methods may share a chain."""
    try:
        check_pair(one, other)
        check_pair(other, one)
    except ValueError:
        return False
    return True


def method_table() -> list[list[str]]:
    """Rows of name, parameters with defaults, what it does in a line, what it goes with."""
    rows = []
    kinds = dict(sorted(known_methods().items()))
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
