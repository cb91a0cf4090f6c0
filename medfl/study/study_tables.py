"""The tables of a study: runs.csv, sites.csv and curves.csv. Everything a study says is computed from them alone.

Each table is tidy (one line a run, a run's site, a run's round) and is rewritten whole after every run, so a study
that stops anywhere is a folder that the same command goes on from, with or without its run folders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfl.errors import MedflError
from medfl.metrics import mean_supported, round_stability
from medfl.metrics.figures import Place, Style, figures_at
from medfl.metrics.record_types import RoundRecord
from medfl.metrics.remedies import name_of
from medfl.metrics.units import UNITS, units_in
from medfl.study.csv_rows import Row, read_table, write_table
from medfl.study.run_figures import PERSONAL, STABILITY, group_columns, validation_columns
from medfl.study.study_file import Planned

if TYPE_CHECKING:
    from medfl.runs.folder import RunFolder

EARLIER = "earlier"
DETAILS = ("sites", "curves")
IDENTITY = ("partition", "method", "seed", "fold")
ROUND_FIGURES = ("mean_auroc", "worst_auroc", "site_spread", "drift", "coherence", "update_cosine")


@dataclass
class RunRows:
    """What the tables hold of one run: its own line, its sites', its rounds'; without the columns that name it, which
    `name` has where it was read."""

    run: Row
    sites: list[Row]
    curve: list[Row]
    name: Row = field(default_factory=dict)


@dataclass
class Tables:
    """The rows of every finished run, by its key."""

    rows: dict[str, RunRows] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Tables:
        """The tables of a study folder, runs that it had `earlier` among them; empty where there are none. A run counts
        only if it is in all three.

        Raises:
            MedflError: a damaged table, or one of three that is not there.
        """
        earlier = folder / EARLIER
        return cls((cls._of(earlier).rows if earlier.is_dir() else {}) | cls._of(folder).rows)

    @classmethod
    def _of(cls, folder: Path) -> Tables:
        tables = cls()
        first: dict[str, list[str]] = {}  # a run that stands under two names has its rows twice
        for row in read_table(folder / "runs.csv"):
            if row["key"] not in first:
                first[row["key"]] = [row[column] for column in IDENTITY]
                tables.rows[row["key"]] = RunRows(
                    _unnamed(row), [], [], {column: row[column] for column in (*IDENTITY, "key")}
                )
        lost = [f"{name}.csv" for name in DETAILS if tables.rows and not (folder / f"{name}.csv").is_file()]
        if lost:
            raise MedflError(
                f"{folder / 'runs.csv'} has {len(tables.rows)} runs, and {' and '.join(lost)} beside it, with their "
                "sites or rounds, is gone; put it back, or move runs.csv away to train them again"
            )
        for name in DETAILS:
            for row in read_table(folder / f"{name}.csv"):
                if first.get(row["key"]) == [row[column] for column in IDENTITY]:
                    rows = tables.rows[row["key"]]
                    (rows.sites if name == "sites" else rows.curve).append(_unnamed(row))
        tables.rows = {key: rows for key, rows in tables.rows.items() if rows.sites and rows.curve}
        return tables

    def save(self, folder: Path, planned: Sequence[Planned]) -> None:
        """Write the finished ones of the planned runs, in their order, and those that are planned no more, if any, in
        the folder `earlier`, from where a plan that names them again has them."""
        done = [(_name(run), self.rows[run.key]) for run in planned if run.key in self.rows]
        keys = {run.key for run in planned}
        others = [(rows.name, rows) for key, rows in self.rows.items() if key not in keys and rows.name]
        earlier = folder / EARLIER
        if others or earlier.is_dir():
            earlier.mkdir(exist_ok=True)
            _write(earlier, others)
        _write(folder, done)


def _write(folder: Path, runs: Sequence[tuple[Row, RunRows]]) -> None:
    """runs.csv comes last: what a kill in between leaves in the other two is of runs that are not yet done."""
    for table, lines in (
        ("curves", [name | row for name, rows in runs for row in rows.curve]),
        ("sites", [name | row for name, rows in runs for row in rows.sites]),
        ("runs", [name | rows.run for name, rows in runs]),
    ):
        write_table(folder / f"{table}.csv", lines, (*IDENTITY, "key"))


def rows_of(folder: RunFolder, data: str, design: str | None = None) -> RunRows:
    """The lines of one finished run; `design` is the SHA-256 of the page that the study was designed on."""
    summary, records = folder.read_summary(), folder.records()
    run = run_row(summary, records, data) | ({"design": design} if design else {})
    return RunRows(run, site_rows(summary), [curve_row(record) for record in records])


def run_row(summary: Mapping[str, Any], records: Sequence[RoundRecord], data: str) -> Row:
    """One line of runs.csv. `val_*` are means over the training sites' validation data of the last model."""
    values: dict[str, Any] = {"chain": summary["method"], "rounds": summary["rounds"], "data": data}
    for role in ("held_out", "train"):
        group = summary["held_out" if role == "held_out" else "train_sites"]
        values |= {f"{role}_{figure}": group.get(figure) for figure in group_columns()}
        for key, word in UNITS.items():
            if own := group.get(key):
                values |= {f"{role}_{word}_{figure}": own.get(figure) for figure in group_columns()}
    entries = records[-1]["sites"].values()
    last: list[Mapping[str, Any]] = [entry["val"] for entry in entries if entry["role"] == "train" and "val" in entry]
    values |= {
        column: mean_supported(entry[column.removeprefix("val_mean_")] for entry in last)
        for column in validation_columns()
    }
    own = [entry["val_personalised"] for entry in entries if "val_personalised" in entry]
    values |= {PERSONAL: mean_supported(entry["balanced_accuracy"] for entry in own)}
    values |= {figure: summary["stability"].get(figure) for figure in STABILITY}
    inertia = summary["stability"]["inertia"]
    values |= {
        f"inertia_{part}": value for part, value in zip(("first", "middle", "last"), _thirds(inertia), strict=True)
    }
    moved = [
        entry[way] for record in records for entry in record["sites"].values() for way in ("bytes_up", "bytes_down")
    ]
    values |= {"megabytes": sum(moved) / 1e6, "virtual_seconds": summary["virtual_seconds"]}
    values |= {"temperature": summary.get("temperature"), "failures": len(summary["failures"])}
    values |= {"threads": summary["threads"], "device": summary["versions"]["device"]}
    values |= {name: summary["versions"][name] for name in ("medfl", "torch", "timm")}
    return _texts(values)


def _thirds(inertia: Mapping[str, float]) -> tuple[float | None, ...]:
    """Mean inertia of the first, the middle and the last stages: the outer ones are one stage each."""
    values = list(inertia.values())
    if len(values) < 3:
        return (None, None, None)
    return values[0], mean_supported(values[1:-1]), values[-1]


def site_rows(summary: Mapping[str, Any]) -> list[Row]:
    """Lines of sites.csv: the global model, the further models that a method keeps at a site, the adapted model and the
    plain one on the same patches; each also per slide and per patient."""
    rows = []
    for site, entry in sorted(summary["sites"].items()):
        models = {"global": entry} | entry.get("models", {}) | _adapted(entry.get("adapted"))
        further = {name: figures for name, figures in models.items() if name != "global"}
        for name, figures in models.items():
            further |= {f"{name}, per {UNITS[key]}": figures[key] for key in units_in({name: figures})}
        for model, figures in [("global", entry), *sorted(further.items())]:
            values = {
                "site": site,
                "role": entry["role"],
                "model": model,
                "n": figures["n"],
                "groups": figures["n_groups"],
            }
            rows.append(_texts(values | _site_figures(figures)))
    return rows


def _adapted(entry: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """The two models of a site that was adapted, and what was done."""
    if not entry:
        return {}
    return {f"adapted {name_of(entry['steps'])}": entry["figures"], "plain, judged half": entry["plain"]}


def _site_figures(figures: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of a site as columns; the ends of intervals stand at the end."""
    values: dict[str, float | None] = {}
    ends: dict[str, float | None] = {}
    for row, style in figures_at(Place.STUDY_SITES).items():
        if style is Style.CHANGE:
            values[f"{row.key}_before"] = figures.get(f"{row.key}_before")
        values[row.key] = figures.get(row.key)
        if style is Style.INTERVAL:
            ends[f"{row.key}_low"], ends[f"{row.key}_high"] = figures.get(f"{row.key}_ci") or (None, None)
    return values | ends


def curve_row(record: RoundRecord) -> Row:
    """One line of curves.csv: validation AUROC over the training sites of the model that entered the round."""
    scalars = round_stability(record)
    losses = [entry.get("train_loss") for entry in record["sites"].values()]
    values: dict[str, Any] = {"round": record["round"], **{figure: scalars.get(figure) for figure in ROUND_FIGURES}}
    return _texts(values | {"train_loss": mean_supported(losses), "virtual_seconds": record.get("virtual_seconds")})


def number(row: Mapping[str, str], column: str) -> float | None:
    """A cell as a number; None where it is empty or there is no such column."""
    text = row.get(column, "")
    return float(text) if text else None


def _texts(values: Mapping[str, Any]) -> Row:
    """Cells: numbers with 9 digits, nothing for what is not available."""
    return {key: "" if v is None else f"{v:.9g}" if isinstance(v, float) else str(v) for key, v in values.items()}


def _name(run: Planned) -> Row:
    return {**{key: str(value) for key, value in run.identity.items()}, "key": run.key}


def _unnamed(row: Row) -> Row:
    return {key: value for key, value in row.items() if key not in (*IDENTITY, "key")}
