"""One table of a study as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medfl.plain_text import markdown as in_markdown


@dataclass(frozen=True)
class TextTable:
    """One table: the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """As Markdown."""
        align = ["---", *["--:"] * (len(self.columns) - 1)]
        head, *rows = (map(in_markdown, line) for line in (self.columns, *self.rows))
        return "\n".join(f"| {' | '.join(line)} |" for line in (head, align, *rows))
