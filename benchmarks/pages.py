"""Pages of the documentation whose tables are made from committed figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping


def rewritten(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """A page with every part made anew: what stands between <!-- name --> and <!-- /name -->. Raises ValueError where a
    part has no place, or two."""
    for name, made in parts.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        content = made().replace("\\", r"\\")
        text, places = re.subn(pattern, rf"\g<1>{content}\n\g<2>", text, flags=re.DOTALL)
        if places != 1:
            raise ValueError(f"the page has {places} places for {name}")
    return text


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))
