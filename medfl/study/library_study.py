"""A study for a program: planned from a file or a mapping, carried out, read as data frames."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medfl.errors import MedflError, RunFailed
from medfl.pipeline.load_pipeline import plain_mapping
from medfl.study.csv_rows import read_table
from medfl.study.execute import Finished, carry_out, missing
from medfl.study.study_file import load_study
from medfl.study.write_up import write_up

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("medfl")


class StudyTables(NamedTuple):
    """The tables of a study as data frames; `partition`, `method`, `seed` and `fold` name a run in each.

    Attributes:
        runs: a row for each run: means over sites, stability, bytes.
        sites: a row for each site of a run: its test figures with intervals.
        curves: a row for each round of a run: validation figures.
    """

    runs: pd.DataFrame
    sites: pd.DataFrame
    curves: pd.DataFrame


class Study:
    """Many runs of one pipeline compared: every method on every partition with every seed.

    Args:
        study: a study file, or a mapping with its keys (docs/studies.md), whose `pipeline` may be a mapping too.
        out: the study folder; by default `studies/<name>`. A study that is there goes on.
        **overrides: keys of the pipeline, as in `medfl.run`; the study's own keys come after them.

    Raises:
        MedflError: no such file, an unknown key, a pipeline that does not load with a method's keys.
    """

    def __init__(
        self, study: Path | str | Mapping[str, Any], *, out: Path | str | None = None, **overrides: Any
    ) -> None:
        keys = plain_mapping({key.replace("__", "."): value for key, value in overrides.items()}, "set of overrides")
        self._plan = load_study(study, [f"{key}={json.dumps(value)}" for key, value in keys.items()])
        self.folder = Path(out or f"studies/{self._plan.file.name}")

    def __repr__(self) -> str:
        return f"Study({self._plan.file.name!r}, {len(self._plan.runs)} runs, {len(self.missing())} missing)"

    def missing(self) -> list[str]:
        """Titles of the runs that are not done yet."""
        return [run.title for run in missing(self._plan, self.folder)]

    def run(self, jobs: int = 1, say: Callable[[str], None] | None = None) -> Study:
        """Carry out the runs that are missing, then write study.json, tables.md and the page, and log the study.

        Args:
            jobs: runs at a time; above 1 each is in a process of its own, so the program's main module must not run
                anything when it is imported.
            say: called with a line for each run; by default they go to the logger `medfl`.

        Raises:
            RunFailed: some runs failed; what is done is in the tables, and the next call tries them again.
            MedflError: the folder cannot be written, or another process is at work on it.
        """
        tell = say or (lambda line: log.info("%s", line))

        def finished(done: Finished) -> None:
            tell(f"{done.run.title}: {f'FAILED: {done.problem}' if done.problem else f'{done.seconds:.0f} s'}")

        failed = carry_out(self._plan, self.folder, jobs, finished)
        for line in write_up(self._plan, self.folder, failed, tracked=True).lines:
            tell(line)
        if failed:
            raise RunFailed(
                f"{len(failed)} of {len(self._plan.runs)} runs failed, the first is {failed[0].run.title} "
                f"({failed[0].problem}); run the study again to try them once more"
            )
        return self

    @property
    def findings(self) -> dict[str, Any]:
        """study.json: means with intervals, paired differences. Raises MedflError where nothing was written yet."""
        file = self.folder / "study.json"
        if not file.is_file():
            raise MedflError(f"{file} is not there; call run() first")
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return result

    def to_pandas(self) -> StudyTables:
        """The tables of all finished runs, numbers as numbers. Raises MedflError for a damaged table."""
        import pandas as pd

        def frame(name: str) -> pd.DataFrame:
            table = pd.DataFrame(read_table(self.folder / f"{name}.csv"))
            for column in table.columns:
                numbers = pd.to_numeric(table[column].replace("", None), errors="coerce")
                if column not in WORDS and bool((numbers.notna() | (table[column] == "")).all()):
                    table[column] = numbers
            return table

        return StudyTables(frame("runs"), frame("sites"), frame("curves"))


WORDS = frozenset({"partition", "method", "fold", "key", "data", "chain", "site", "role", "model", "device"})
"""Columns that stay text, whatever they look like."""
