"""What a run came to, for a program: its folder, its summary, its tables, its model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medfl.config.program_parts import ProgramParts
from medfl.errors import MedflError
from medfl.metrics.record_types import RoundRecord, RunSummary
from medfl.metrics.units import units_in
from medfl.runs.folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

    from medfl.pipeline.classifier import PatchClassifier, SlideClassifier


class RunTables(NamedTuple):
    """A run as two data frames.

    Attributes:
        rounds: a row for each round and site. `round`, `site`, `role`, whether the round `counted`, `samples`, `steps`,
            `train_loss`, bytes, and as `val_<figure>` what the model entering the round gave on validation data.
        sites: a row for each site, measured once on test data: `site`, `role`, `n` patches, `n_groups`, every figure of
            docs/metrics.md, and the ends of its 95 % interval as `<figure>_low` and `<figure>_high`; the same per slide
            and per patient, where there are several patches of one, as `slides_<figure>` and `patients_<figure>`.
    """

    rounds: pd.DataFrame
    sites: pd.DataFrame


class RunResult:
    """A finished run.

    Args:
        folder: the run folder.
        parts: what a program handed to the run, so that its sites can be measured again.
        registered: the sentence of the registry, "" where nothing was registered.

    Raises:
        MedflError: there is no run, or it has not finished.
    """

    def __init__(self, folder: Path | str, parts: ProgramParts | None = None, registered: str = "") -> None:
        self._files = RunFolder.open(folder)
        self.parts = parts or ProgramParts()
        self.registered = registered
        if not self._files.summary.is_file():
            raise MedflError(f"{folder} has no summary.json yet; finish it with medfl.resume({str(folder)!r})")

    def __repr__(self) -> str:
        return f"RunResult({str(self.folder)!r})"

    @property
    def folder(self) -> Path:
        """The run folder; docs/architecture.md says what is in it."""
        return self._files.path

    @property
    def summary(self) -> RunSummary:
        """summary.json. Raises MedflError where the files are not what the run wrote."""
        return self._files.read_summary()

    @property
    def records(self) -> list[RoundRecord]:
        """rounds.jsonl: a record for each round."""
        return self._files.records()

    def to_pandas(self) -> RunTables:
        """Rounds and sites as data frames."""
        import pandas as pd

        return RunTables(pd.DataFrame(_round_rows(self.records)), pd.DataFrame(site_table(self.summary["sites"])))

    def model(self, device: str = "auto") -> PatchClassifier | SlideClassifier:
        """The run's model, loaded. Raises MedflError as `medfl.load_model`."""
        from medfl.pipeline.classifier import load_model

        return load_model(self.folder, network=self.parts.network, device=device)


class EvaluationResult:
    """A model measured at sites.

    Attributes:
        figures: `sites`, `held_out`, `train_sites`, `pooled` as in summary.json; what `medfl evaluate RUN --json FILE`
            writes.
    """

    def __init__(self, figures: Mapping[str, Any]) -> None:
        self.figures = dict(figures)

    @property
    def sites(self) -> dict[str, Any]:
        """Site -> its figures."""
        return dict(self.figures["sites"])

    def to_pandas(self) -> pd.DataFrame:
        """A row for each site, as `RunTables.sites`."""
        import pandas as pd

        return pd.DataFrame(site_table(self.sites))


def site_table(sites: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row of numbers for each site of a summary."""
    rows = []
    for name, entry in sorted(sites.items()):
        row: dict[str, Any] = {"site": name, **dict(_cells(entry))}
        for key in units_in({name: entry}):
            row |= dict(_cells(entry[key], f"{key}_"))
        rows.append(row)
    return rows


def _round_rows(records: Iterable[RoundRecord]) -> list[dict[str, Any]]:
    rows = []
    for record in records:
        for name, entry in sorted(record["sites"].items()):
            row: dict[str, Any] = {"round": record["round"], "site": name, "counted": record["counted"]}
            for key, value in entry.items():
                row |= dict(_cells(value, f"{key}_") if isinstance(value, Mapping) else _cells({key: value}))
            rows.append(row)
    return rows


def _cells(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers and words of a mapping, intervals as two; what has parts of its own is left to the JSON."""
    for key, value in figures.items():
        if key.endswith("_ci") and isinstance(value, list | tuple):
            name = f"{prefix}{key.removesuffix('_ci')}"
            yield from ((f"{name}_low", value[0]), (f"{name}_high", value[1]))
        elif not isinstance(value, Mapping | list | tuple) and not key.endswith("_ci"):
            yield f"{prefix}{key}", value
