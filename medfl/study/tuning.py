"""How a setting is chosen for every method and partition: a grid, tuning federations, one standard error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from medfl.config import ConfigSection
from medfl.errors import MedflError
from medfl.study.csv_rows import read_table, write_table
from medfl.study.pool import Repeat, Values
from medfl.study.run_figures import direction, figure_title, validation_figures
from medfl.study.text_table import TextTable

Choices = dict[tuple[str, str], "Choice"]
"""(partition, method) -> what was chosen."""
AT = "@"
"""Between a method's name and the value of the grid."""
CHOSEN = "chosen.csv"


class Grid(ConfigSection):
    """The values of one key of the pipeline that every method of a study is tried with, and the validation figure they
    are judged by."""

    key: str = "training.optimizer.lr"
    values: Annotated[list[float], Field(min_length=3)]
    by: str = "val_mean_nll"

    @field_validator("values")
    @classmethod
    def _rising(cls, values: list[float]) -> list[float]:
        if sorted(set(values)) != values:
            raise ValueError("the values of a grid rise, each once")
        return values

    @field_validator("by")
    @classmethod
    def _on_validation_data(cls, by: str) -> str:
        if by not in validation_figures():
            raise ValueError(
                f"settings are chosen on validation data: by {', '.join(validation_figures())}, not {by!r}"
            )
        return by

    def arms(self, name: str) -> list[tuple[str, dict[str, float]]]:
        """What a method is called with each value, and the key that goes with it."""
        return [(f"{name}{AT}{value:g}", {self.key: value}) for value in self.values]


@dataclass(frozen=True)
class Choice:
    """The value chosen for a method in a partition.

    Attributes:
        value: the smallest whose loss is within one standard error of the lowest.
        edge: "lowest" or "highest" where that is the first or the last of the grid, beyond which nothing was tried.
        federations: those that were tuned on and have a figure with some value.
        losses: mean loss by value, infinite where some federation has no figure with it.
    """

    value: float
    edge: str
    federations: int
    losses: Mapping[float, float]


def choose(rows: Sequence[Mapping[float, float | None]], values: Sequence[float]) -> Choice | None:
    """The one-standard-error rule (Breiman et al. 1984, Classification and Regression Trees, 3.4.3) on pairs.

    The error is that of the mean difference to the best value over the same federations: what is hard about a
    federation is hard with every value. A value with which a federation has no figure, as when training diverges, is
    out.

    Args:
        rows: value -> loss (less is better), one mapping a tuning federation.
        values: of the grid, rising.

    Returns:
        None where no value has a loss at every federation.
    """
    losses = {value: [row.get(value) for row in rows] for value in values}
    whole = {value: [loss for loss in its if loss is not None and math.isfinite(loss)] for value, its in losses.items()}
    whole = {value: its for value, its in whole.items() if its and len(its) == len(rows)}
    if not whole:
        return None
    means = {value: math.fsum(its) / len(its) for value, its in whole.items()}
    best = min(means, key=lambda value: means[value])
    chosen = min(value for value in means if means[value] - means[best] <= _error(whole[value], whole[best]))
    edge = {values[0]: "lowest", values[-1]: "highest"}.get(chosen, "")
    return Choice(chosen, edge, len(rows), {value: means.get(value, math.inf) for value in values})


def _error(losses: Sequence[float], best: Sequence[float]) -> float:
    """Standard error of the mean difference; 0 with one federation, where only the best value itself is left."""
    moved = [one - other for one, other in zip(losses, best, strict=True)]
    if len(moved) < 2:
        return 0.0
    mean = math.fsum(moved) / len(moved)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in moved) / (len(moved) - 1) / len(moved))


def choices(grid: Grid, methods: Sequence[str], values: Values, repeats: Sequence[Repeat]) -> Choices:
    """The value chosen for every method in every partition where all its tuning federations are done.

    Args:
        methods: names without a value.
        values: (method with a value, column) -> the column in every repeat that is done.
        repeats: those that the study asks for.
    """
    sign = -1 if direction(grid.by) == "higher" else 1
    chosen: Choices = {}
    for partition in dict.fromkeys(repeat[0] for repeat in repeats):
        own = [repeat for repeat in repeats if repeat[0] == partition]
        for name in methods:
            tried = {setting[grid.key]: values(arm, grid.by) for arm, setting in grid.arms(name)}
            if any(repeat not in its for its in tried.values() for repeat in own):
                continue
            losses = [
                {value: None if (loss := its[repeat]) is None else sign * loss for value, its in tried.items()}
                for repeat in own
            ]
            if choice := choose(losses, grid.values):
                chosen[partition, name] = choice
    return chosen


def choice_table(grid: Grid, chosen: Choices) -> TextTable:
    """As people read it."""
    rows = [
        [partition, method, f"{choice.value:g}", choice.edge or "inside", str(choice.federations), _losses(choice)]
        for (partition, method), choice in chosen.items()
    ]
    columns = ["partition", "method", grid.key, "of the grid", "federations", f"{figure_title(grid.by)} by value"]
    return TextTable(f"{grid.key} chosen by {figure_title(grid.by)}, one-standard-error rule", columns, rows)


def _losses(choice: Choice) -> str:
    return ", ".join(f"{value:g}: {abs(loss):.4g}" for value, loss in choice.losses.items())


def write_choices(chosen: Choices, grid: Grid, folder: Path) -> None:
    """chosen.csv: a row for every partition and method."""
    rows = [
        {
            "partition": partition,
            "method": method,
            "key": grid.key,
            "value": f"{choice.value:g}",
            "edge": choice.edge,
            "federations": str(choice.federations),
            "by": grid.by,
            "losses": " ".join(f"{value:g}:{loss:.6g}" for value, loss in choice.losses.items()),
        }
        for (partition, method), choice in chosen.items()
    ]
    write_table(folder / CHOSEN, rows)


def read_choices(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(partition, method) -> the key that was tuned and its value.

    Raises:
        MedflError: no such file, another table, or a value at the edge of its grid: whether a further one would be
            better nobody has looked.
    """
    if not path.is_file():
        raise MedflError(f"`tuned`: there is no file {path}; a study with `grid` writes it as {CHOSEN} in its folder")
    chosen: dict[tuple[str, str], dict[str, Any]] = {}
    for row in read_table(path):
        where = f"{path}: {row['method']} on {row['partition']}"
        if row["edge"]:
            raise MedflError(
                f"{where}: {row['key']} {row['value']} is the {row['edge']} of its grid; add values beyond it to the "
                "tuning study's `grid` and start that again, so that it is no choice by default"
            )
        chosen[row["partition"], row["method"]] = {row["key"]: float(row["value"])}
    return chosen
