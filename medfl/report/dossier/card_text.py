"""The applied model card as Markdown, and behind it the card of the run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from medfl.plain_text import markdown
from medfl.report.dossier.chai_card import CHAI_CARD
from medfl.report.dossier.checklist import OPEN, AnsweredItem, count, in_groups


def card_text(name: str, items: Sequence[AnsweredItem], run_card: str) -> str:
    """The card of the fields; `run_card` is the run's own card in Markdown, whose headings go one level down."""
    lower = re.sub(r"^#", "##", run_card, flags=re.MULTILINE)
    return "\n".join([*_fields(name, items), "", "---", "", lower])


def _fields(name: str, items: Sequence[AnsweredItem]) -> Iterator[str]:
    yield f"# {markdown(name)}: applied model card"
    yield f"\nFields after {markdown(CHAI_CARD.citation)}. {count(items, OPEN)} of {len(items)} are not answered."
    section = ""
    for entry in items:
        if entry.item.section != section:
            section = entry.item.section
            yield f"\n## {section}\n"
        said = [
            markdown(answer) if answer else f"**{OPEN}** ({markdown(where)})"
            for where, answer in in_groups(entry.lines)
        ]
        yield f"- **{entry.item.topic}**: {' / '.join(said)}"
