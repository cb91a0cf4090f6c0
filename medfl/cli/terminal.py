"""The one door to the terminal: lines, tables, and progress bars where there is a terminal, plain lines elsewhere.

All text is shown as it is: none of it is markup, and what would steer the terminal is visible instead.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, cast

from rich.box import SIMPLE
from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from medfl.cli.standard_streams import SafeStream, steering
from medfl.metrics import mean_supported
from medfl.plain_text import shortened, visible

PLAIN_WIDTH = 150  # where no terminal tells its width
HEADING, ROW_NAME = 40, 80  # characters of a name at the head of a column, of a row


class Terminal:
    """Prints to standard output; on a terminal the rounds are one moving bar, elsewhere a line each."""

    def __init__(self) -> None:
        self._stream: SafeStream = steering(sys.stdout)
        self.live = self._stream.isatty()
        self._out = RichConsole(
            file=cast(IO[str], self._stream),
            width=None if self.live else PLAIN_WIDTH,
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

    def round(self, record: Mapping[str, Any], rounds: int) -> None:
        """One finished round."""
        line = round_line(record, rounds)
        now = time.perf_counter()
        if not self.live:
            self.say(f"{line}  {now - self._last:.1f} s")
            self._last = now
        elif self._bar is None:
            words = TextColumn("rounds"), BarColumn(), TextColumn("{task.description}", markup=False)
            self._bar = self._bars(*words, TimeRemainingColumn())
            self._task = self._bar.add_task("", total=rounds + 1)
            self._bar.start()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=record["round"] + 1, description=self._text(line).plain)
        for failure in record["failures"]:
            self.say(_failure_line(record, failure))
        if self._bar is not None and record["round"] == rounds:
            self.close()
            self.say(line)

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

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; the first column is left-aligned, the others right-aligned."""
        table = Table(title=self._text(title), box=SIMPLE, title_justify="left", title_style="bold", pad_edge=False)
        for index, column in enumerate(columns):
            heading = self._text(shortened(column, HEADING))
            table.add_column(heading, justify="left" if index == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(self._text(shortened(row[0], ROW_NAME)), *map(self._text, row[1:]))
        self._out.print(table)

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
