"""The one door to the terminal: lines, tables, and progress bars where there is a terminal, plain lines elsewhere.

All text is shown as it is: none of it is markup, and what would steer the terminal is visible instead.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, cast

from rich.box import SIMPLE
from rich.console import Console as RichConsole
from rich.padding import Padding
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from medfl.cli.standard_streams import SafeStream, steering
from medfl.errors import MedflError
from medfl.metrics import mean_supported
from medfl.plain_text import shortened, visible

PLAIN_WIDTH = 150  # where no terminal tells its width
GAP = 3  # of the screen between two columns of a table
HEADING, ROW_NAME = 40, 80  # characters of a name at the head of a column, of a row


class Terminal:
    """Prints to standard output; the rounds are a line each, on a terminal above a moving bar."""

    def __init__(self) -> None:
        self._stream: SafeStream = steering(sys.stdout)
        self.live = self._stream.isatty()
        stated_width = os.environ.get("COLUMNS", "").isdecimal()
        self._out = RichConsole(
            file=cast(IO[str], self._stream),
            width=None if self.live or stated_width else PLAIN_WIDTH,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last = time.perf_counter()

    def say(self, *lines: str) -> None:
        """Lines, one each."""
        for line in lines:
            self._out.print(self._text(line), soft_wrap=True)

    @property
    def asks(self) -> bool:
        """Whether someone is there to answer."""
        return self.live and sys.stdin is not None and sys.stdin.isatty()

    def ask(self, question: str, default: str) -> str:
        """What is typed; `default` where nothing is. Raises MedflError at the end of the input."""
        shown = f" [{default}]" if default else ""
        try:
            return self._out.input(self._text(f"{question}{shown}: ")).strip() or default
        except EOFError:
            raise MedflError("the input ended before all was answered; give options instead") from None

    def round(self, record: Mapping[str, Any], rounds: int) -> None:
        """One finished round."""
        now = time.perf_counter()
        if self._bar is None and self.live and record["round"] < rounds:
            self._bar = self._bars(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            self._task = self._bar.add_task("", total=rounds + 1)
            self._bar.start()
        if self._bar is not None and self._task is not None:
            done = record["round"] + 1
            self._bar.update(self._task, completed=done, description=f"round {done}/{rounds}")
        if record["round"] == rounds:
            self.close()
        self.say(f"{round_line(record, rounds)}  {now - self._last:.1f} s")
        self._last = now
        for failure in record["failures"]:
            self.say(_failure_line(record, failure))

    def close(self) -> None:
        """Remove the bar, if one is up."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @contextmanager
    def steps(self, lines: bool = True) -> Iterator[Callable[[str, int, int], None]]:
        """A bar for each step of some work on a terminal, elsewhere, if lines are wanted, a line when it is finished:
        yields `show(step, done, total)`."""
        words = TextColumn("{task.description}", markup=False)
        with self._bars(words, BarColumn(), TimeRemainingColumn()) as bars:
            tasks: dict[str, TaskID] = {}

            def show(step: str, done: int, total: int) -> None:
                if lines and not self.live and done == total:
                    self.say(f"{step}: {total:,}")
                if step not in tasks:
                    tasks[step] = bars.add_task(self._text(step).plain, total=total)
                bars.update(tasks[step], completed=done)

            yield show

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], keys: int = 1) -> None:
        """A table; the first column is left-aligned, the others right-aligned.

        What is too wide for the screen goes on in further tables below, which repeat the first `keys` columns; where
        one column is too wide to stand beside these, each row is a list.
        """
        cells = [[self._text(shortened(row[0], ROW_NAME)), *map(self._text, row[1:])] for row in rows]
        headings = [self._text(shortened(column, HEADING)) for column in columns]
        widths = [max(cell.cell_len for cell in column) + GAP for column in zip(headings, *cells, strict=True)]
        room = self._out.width + 1 - sum(widths[:keys])
        if rows and max(widths[keys:], default=0) > room:
            self._list_rows(title, headings, cells)
            return
        for number, beside in enumerate(_fitting(widths[keys:], room)):
            head = self._text(title) if number == 0 else None
            table = Table(title=head, box=SIMPLE, title_justify="left", title_style="bold", pad_edge=False)
            shown = [*range(keys), *(keys + index for index in beside)]
            for index in shown:
                table.add_column(headings[index], justify="right" if index else "left", overflow="fold")
            for row in cells:
                table.add_row(*(row[index] for index in shown))
            self._out.print(table)

    def _list_rows(self, title: str, headings: Sequence[Text], rows: Sequence[Sequence[Text]]) -> None:
        """Each row as its name and a line for every other cell that holds something."""
        self._out.print(self._text(title), style="bold")
        for name, *others in rows:
            self._out.print(name, overflow="fold")
            for heading, cell in zip(headings[1:], others, strict=True):
                if cell.plain.strip():
                    words = Text.assemble(heading, ": ", cell) if heading.plain else cell
                    self._out.print(Padding(words, (0, 0, 0, 2)), overflow="fold")
        self._out.print()

    def _bars(self, *columns: ProgressColumn) -> Progress:
        # Nothing is redirected through the bar, which would take escape codes of others for its own.
        return Progress(
            *columns,
            console=self._out,
            transient=True,
            disable=not self.live,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def _text(self, text: object) -> Text:
        """Text as this terminal can show it, before it is laid out: an escape takes more room than its letter."""
        encoding = self._stream.encoding
        return Text(visible(text).encode(encoding, "backslashreplace").decode(encoding))


def _fitting(widths: Sequence[int], room: int) -> list[list[int]]:
    """Columns, by index, for each of the tables that fit into `room`, in order."""
    tables: list[list[int]] = [[]]
    used = 0
    for index, width in enumerate(widths):
        if tables[-1] and used + width > room:
            tables.append([])
            used = 0
        tables[-1].append(index)
        used += width
    return tables


def round_line(record: Mapping[str, Any], rounds: int) -> str:
    """`round 3/8  val AUROC 0.912, worst lung-centre 0.881  train loss 0.43`."""
    entries = {name: e for name, e in record["sites"].items() if e["role"] == "train"}
    parts = [f"round {record['round']}/{rounds}"]
    auroc = {name: e["val"]["auroc"] for name, e in entries.items() if e.get("val", {}).get("auroc") is not None}
    if auroc:
        worst = min(auroc, key=lambda name: auroc[name])
        parts.append(f"val AUROC {mean_supported(auroc.values()):.3f}, worst {worst} {auroc[worst]:.3f}")
    losses = [e["train_loss"] for e in record["sites"].values() if e.get("train_loss") is not None]
    if losses:
        parts.append(f"train loss {math.fsum(losses) / len(losses):.3f}")
    if record["participants"] and not record["counted"]:
        parts.append("no quorum: the model is unchanged")
    return "  ".join(parts)


def _failure_line(record: Mapping[str, Any], failure: Mapping[str, str]) -> str:
    return f"  round {record['round']}: site {failure['site']} failed: {failure['reason']}"
