"""Pages of the documentation whose tables are made from committed figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping


def rewritten(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """A page with every part made anew: what stands between <!-- name --> and <!-- /name -->."""
    for name, made in parts.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text = re.sub(pattern, lambda found, made=made: f"{found[1]}{made()}\n{found[2]}", text, flags=re.DOTALL)
    return text


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))
