"""A study carried out: every run that is not done yet, in one process or several."""

from __future__ import annotations

import concurrent.futures
import csv
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medfl import config
from medfl.errors import MedflError
from medfl.runs.folder import RunFolder
from medfl.study.study_file import Planned, Study
from medfl.study.study_tables import Tables, rows_of
from medfl.tracking.sync_state import locked

if TYPE_CHECKING:
    from medfl.data.partition import Partition

KEPT_PARTITIONS = 32
"""So many deals of a study are kept in memory from planning to training; further ones are dealt anew for each run."""


@dataclass(frozen=True)
class Finished:
    """One run that came to an end: its tables' rows are saved; `problem` says in a sentence why they are not."""

    run: Planned
    seconds: float
    problem: str = ""


def carry_out(
    study: Study, out: Path, jobs: int = 1, on_finished: Callable[[Finished], None] = lambda run: None
) -> list[Finished]:
    """Train what is missing, `jobs` runs at a time; returns the runs that failed.

    The folder of a run is `out/runs/<key>`: an interrupted one goes on from its last round, and one that has finished
    is read. A run that fails is reported and tried again when the study is next started.

    Raises:
        MedflError: `out` cannot be written, another process is at work on it, or a worker process died.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with locked(out, wait=False):
            return _carry_out(study, out, jobs, on_finished)
    except OSError as error:
        raise MedflError(
            f"the study folder {out} cannot be written ({error.strerror}); name another with --out"
        ) from None


def _carry_out(study: Study, out: Path, jobs: int, on_finished: Callable[[Finished], None]) -> list[Finished]:
    tables = Tables.load(out)
    deals = _Deals()
    todo: dict[str, Planned] = {}
    for run in study.runs:
        digest = deals.digest(run)
        folder = out / "runs" / run.key
        if (folder / "allocation_summary.csv").is_file() and digest_of_folder(folder) != digest:
            shutil.rmtree(folder)
        if run.key in tables.rows and tables.rows[run.key].run["data"] != digest:
            del tables.rows[run.key]
        if run.key not in tables.rows:
            todo.setdefault(run.key, run)
    tables.save(out, study.runs)
    failed = []
    for done in _carry_out_each(list(todo.values()), out / "runs", jobs, deals):
        if done.problem:
            failed.append(done)
        else:
            folder = out / "runs" / done.run.key
            tables.rows[done.run.key] = rows_of(RunFolder.open(folder), digest_of_folder(folder))
            tables.save(out, study.runs)
        on_finished(done)
    return failed


def missing(study: Study, out: Path) -> list[Planned]:
    """The planned runs that are in no table yet."""
    tables = Tables.load(out)
    return [run for run in study.runs if run.key not in tables.rows]


def digest_of_folder(folder: Path) -> str:
    """Digest of the data a run was trained and measured on."""
    with (folder / "allocation_summary.csv").open(newline="", encoding="utf-8") as stream:
        return _digest(csv.DictReader(stream))


class _Deals:
    """What the runs of a study are dealt, once for all runs that are dealt the same."""

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}
        self._partitions: dict[str, Partition] = {}

    def digest(self, run: Planned) -> str:
        """Digest of the data a planned run is dealt now; it changes when the data behind a study does."""
        deal = self._deal(run)
        if deal not in self._digests:
            from medfl.data.partition import make_partition

            try:
                partition = make_partition(run.pipeline)
            except MedflError as error:
                raise MedflError(f"{run.title}: {error}") from None
            self._digests[deal] = _digest(partition.summary())
            if len(self._partitions) < KEPT_PARTITIONS:
                self._partitions[deal] = partition
        return self._digests[deal]

    def partition(self, run: Planned) -> Partition | None:
        """What a run is dealt; None where that was not kept, so that it has to be dealt again."""
        return self._partitions.get(self._deal(run))

    @staticmethod
    def _deal(run: Planned) -> str:
        """All that decides what a run is dealt."""
        pipeline = run.pipeline
        return json.dumps(
            [pipeline.seed, pipeline.task.model_dump(), pipeline.data.model_dump(), pipeline.sites.model_dump()],
            sort_keys=True,
            default=str,
        )


def _digest(rows: Iterable[Mapping[str, str | int]]) -> str:
    lines = [[row["site"], row["split"], row["class"], row["digest"]] for row in rows]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:12]


def _carry_out_each(todo: Sequence[Planned], runs: Path, jobs: int, deals: _Deals) -> Iterator[Finished]:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    if jobs == 1:
        for run in todo:
            yield Finished(run, *_one(_quiet(run, threads), runs / run.key, deals.partition(run)))
        return
    # "spawn": a fresh process has no threads or locks of this one, and a GPU can be used in it.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context, initializer=_leave_with_parent) as pool:
        waiting = {pool.submit(_one, _quiet(run, threads), runs / run.key, deals.partition(run)): run for run in todo}
        try:
            for future in concurrent.futures.as_completed(waiting):
                yield Finished(waiting[future], *future.result())
        except BrokenProcessPool:
            raise MedflError(
                "a worker process of the study died (out of memory?); what is finished is kept. Start the study again "
                "to go on, with a lower --jobs if memory was short"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _leave_with_parent() -> None:
    """A worker whose study was killed stops too, instead of waiting for work for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _quiet(run: Planned, threads: int) -> config.Pipeline:
    """A run of a study as it is carried out: named by its key, without tracking of its own, with its share of cores."""
    pipeline = run.pipeline
    training = pipeline.training.model_copy(update={"threads": pipeline.training.threads or threads})
    tracking = pipeline.tracking.model_copy(update={"enabled": False})
    return pipeline.model_copy(update={"training": training, "tracking": tracking})


def _one(pipeline: config.Pipeline, path: Path, partition: Partition | None) -> tuple[float, str]:
    """Carry out one run in its folder, in whatever state that is, on what it is dealt. Returns seconds and what went
    wrong, if anything."""
    from medfl.pipeline.run import resume
    from medfl.pipeline.run import run as start

    began = time.perf_counter()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with locked(path):  # a worker of a study that was killed may need a moment to notice
            if not (path / "pipeline.yaml").is_file():
                start(pipeline, path, partition=partition)
            elif not (path / "summary.json").is_file():
                resume(path)
    except MedflError as error:
        return time.perf_counter() - began, str(error)
    except Exception as error:  # one broken run must not end the others
        return time.perf_counter() - began, f"{type(error).__name__}: {error}"
    # The state between rounds is of no use to a finished run, and a study has many.
    shutil.rmtree(path / "checkpoint", ignore_errors=True)
    return time.perf_counter() - began, ""
