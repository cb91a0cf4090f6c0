"""A reporting checklist, and how its items are answered from a run: by pointers, by facts, by people."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medfl.data.table_cells import NeutralWriter
from medfl.metrics import format_figure
from medfl.report.dossier.dossier_answers import IN_ANSWERS, IN_SITE_FILE, Answers

OPEN = "not answered"
ANSWERED, PARTLY = "answered", "in part"
SUMMARY, PIPELINE, MEDFL = "summary.json", "pipeline.yaml", "medfl"
COLUMNS = ("item", "section", "topic", "status", "source", "pointer", "value")


@dataclass(frozen=True)
class ChecklistItem:
    """One item.

    Attributes:
        number: as its checklist numbers it; of a card, the field's name.
        section: the heading it stands under.
        topic: what it asks, in few words.
        sources: what answers it. `summary:` and `pipeline:` are JSON pointers into the run's files, `*` for every key;
            `fact:` is a sentence computed from the run. `answer:` (a key of the file of answers) and `about:` (of the
            sites' files) are people's: the item is open until each of them is answered.
    """

    number: str
    section: str
    topic: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Checklist:
    """A reporting guideline or a card: its items in their order, and where it was published."""

    key: str
    title: str
    citation: str
    items: tuple[ChecklistItem, ...]


@dataclass(frozen=True)
class AnswerLine:
    """One answer to an item.

    Attributes:
        source: the file that it is from; `medfl` for a sentence computed from the run.
        pointer: where in it.
        value: the answer; None where there is none.
        pattern: of a pointer that was given with `*`, that one.
    """

    source: str
    pointer: str
    value: Any
    pattern: str = ""

    @property
    def text(self) -> str:
        """The answer as a table of the dossier holds it: text as it is, anything else as JSON."""
        if self.value is None:
            return OPEN
        return self.value if isinstance(self.value, str) else json.dumps(self.value, ensure_ascii=False)


@dataclass(frozen=True)
class AnsweredItem:
    """An item with what answers it; at least one line."""

    item: ChecklistItem
    lines: tuple[AnswerLine, ...]

    @property
    def status(self) -> str:
        """Answered, in part, or not answered."""
        open_lines = sum(line.value is None for line in self.lines)
        return ANSWERED if not open_lines else OPEN if open_lines == len(self.lines) else PARTLY


@dataclass(frozen=True)
class Material:
    """What checklists are answered from.

    Attributes:
        summary, pipeline: the run's files without paths.
        facts: name -> sentence; "" where it does not apply to the run.
    """

    summary: Mapping[str, Any]
    pipeline: Mapping[str, Any]
    facts: Mapping[str, str]
    answers: Answers


def answered(checklist: Checklist, material: Material) -> list[AnsweredItem]:
    """Every item with its answers."""
    return [
        AnsweredItem(item, tuple(line for source in item.sources for line in _lines(source, material)) or (_NOTHING,))
        for item in checklist.items
    ]


def count(items: Sequence[AnsweredItem], status: str) -> int:
    """How many items have a status."""
    return sum(item.status == status for item in items)


def table_text(items: Sequence[AnsweredItem]) -> str:
    """The checklist as CSV, a row an answer, in cells that no spreadsheet takes for formulas."""
    text = io.StringIO()
    NeutralWriter(text, lineterminator="\n").writerow(COLUMNS)
    writer = NeutralWriter(text, lineterminator="\n")
    for entry in items:
        item = entry.item
        for line in entry.lines:
            writer.writerow([item.number, item.section, item.topic, entry.status, line.source, line.pointer, line.text])
    return text.getvalue()


def resolve(document: Any, pointer: str) -> Iterator[tuple[str, Any]]:
    """(pointer, value) of what a JSON pointer (RFC 6901) names; `*` names every key. Nothing where it names nothing, or
    null."""
    matches = [("", document)]
    for part in pointer.split("/")[1:]:
        reached = []
        for place, value in matches:
            keys = list(value) if isinstance(value, Mapping) else []
            for key in keys if part == "*" else [k for k in keys if k == part.replace("~1", "/").replace("~0", "~")]:
                reached.append((f"{place}/{str(key).replace('~', '~0').replace('/', '~1')}", value[key]))
        matches = reached
    yield from ((place, value) for place, value in matches if value is not None and value != {} and value != [])


def in_words(value: Any) -> str:
    """A value of a run's file for people: `0.913`, `[0.881, 0.940]`, `mean_auroc 0.913; sites north, south`."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {in_words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        numbers = [item for item in value if isinstance(item, float)]
        words = ", ".join(map(in_words, value))
        return f"[{words}]" if numbers and len(numbers) == len(value) else words
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or isinstance(value, float):
        return format_figure(value)
    return str(value)


def in_groups(lines: Sequence[AnswerLine]) -> list[tuple[str, str | None]]:
    """(where, answer for people; None where there is none) of an item's lines; those of one pattern are one."""
    groups: dict[tuple[str, str], list[AnswerLine]] = {}
    for line in lines:
        groups.setdefault((line.source, line.pattern or line.pointer), []).append(line)
    made: list[tuple[str, str | None]] = []
    for (source, pointer), members in groups.items():
        where = f"{source} {pointer}".strip()
        if members[0].value is None:
            made.append((where, None))
        elif members[0].pattern:
            said = [f"{_star(line)}: {in_words(line.value)}" for line in members]
            made.append((where, "; ".join(said)))
        else:
            made.append((where, in_words(members[0].value)))
    return made


_NOTHING = AnswerLine("", "", None)


def _star(line: AnswerLine) -> str:
    """What stood for the star of a pattern."""
    pattern = re.escape(line.pattern).replace(r"\*", "([^/]*)")
    match = re.fullmatch(pattern, line.pointer)
    return " ".join(match.groups()).replace("~1", "/").replace("~0", "~") if match else line.pointer


def _lines(source: str, material: Material) -> Iterator[AnswerLine]:
    kind, _, name = source.partition(":")
    if kind in ("summary", "pipeline"):
        document, file = (material.summary, SUMMARY) if kind == "summary" else (material.pipeline, PIPELINE)
        pattern = name if "*" in name else ""
        yield from (AnswerLine(file, pointer, value, pattern) for pointer, value in resolve(document, name))
    elif kind == "fact":
        if sentence := material.facts[name]:
            yield AnswerLine(MEDFL, name, sentence)
    elif kind == "answer":
        yield AnswerLine(IN_ANSWERS, name, material.answers.of_run[name])
    else:
        yield from _of_sites(name, material.answers)


def _of_sites(name: str, answers: Answers) -> Iterator[AnswerLine]:
    """What sites say of a question, and in one line which of them say nothing."""
    silent = []
    for site, said in answers.of_sites.items():
        if (answer := said[name]) is None:
            silent.append(site)
        else:
            yield AnswerLine(answer[1], f"{site} about.{name}", answer[0])
    if silent:
        whom = "all sites" if len(silent) == len(answers.of_sites) else ", ".join(silent)
        yield AnswerLine(IN_SITE_FILE, f"about.{name} of {whom}", None)
