"""What people see in a terminal while something runs: progress bars where there is one, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from medfl.metrics import mean_supported

PLAIN_WIDTH = 150  # where no terminal tells its width


class Terminal:
    """Prints to standard output; on a terminal the rounds are one moving bar, elsewhere a line each."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        self.out = RichConsole(width=None if self.live else PLAIN_WIDTH, highlight=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last = time.perf_counter()

    def say(self, text: str) -> None:
        """One line."""
        self.out.print(text, markup=False, soft_wrap=True)

    def round(self, record: Mapping[str, Any], rounds: int) -> None:
        """One finished round."""
        line = round_line(record, rounds)
        now = time.perf_counter()
        if not self.live:
            self.say(f"{line}  {now - self._last:.1f} s")
            self._last = now
        elif self._bar is None:
            columns = (TextColumn("rounds"), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.out, transient=True)
            self._task = self._bar.add_task(line, total=rounds + 1)
            self._bar.start()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=record["round"] + 1, description=line)
            for failure in record["failures"]:
                self._bar.console.print(_failure_line(record, failure), markup=False)
            if record["round"] == rounds:
                self.close()
                self.say(line)
        else:
            for failure in record["failures"]:
                self.say(_failure_line(record, failure))

    def close(self) -> None:
        """Remove the bar, if one is up."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; the first column is left-aligned, the others right-aligned."""
        table = Table(title=title, box=SIMPLE, title_justify="left", title_style="bold", pad_edge=False)
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.out.print(table)


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
        parts.append(f"train loss {sum(losses) / len(losses):.3f}")
    if record["participants"] and not record["counted"]:
        parts.append("no quorum: the model is unchanged")
    return "  ".join(parts)


def _failure_line(record: Mapping[str, Any], failure: Mapping[str, str]) -> str:
    return f"  round {record['round']}: site {failure['site']} failed: {failure['reason']}"
