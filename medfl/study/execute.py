"""A study carried out: every run that is not done yet, in one process or several."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

from medfl import config
from medfl.errors import MedflError
from medfl.pipeline.cores import cores_of
from medfl.runs.folder import RunFolder
from medfl.study.deals import Deals
from medfl.study.study_file import Planned, StudyPlan
from medfl.study.study_tables import Tables, rows_of
from medfl.tracking.sync_state import locked

if TYPE_CHECKING:
    from medfl.data.partition import Partition

WORKERS = "spawn"
"""How workers begin: a fresh process has no threads or locks of this one, and a GPU can be used in it."""
WRITING_SHARE = 0.05
"""Of the time of a study, what writing its tables may take. What a kill keeps from them is read from the runs' folders
when the study is next started."""


@dataclass(frozen=True)
class Finished:
    """One run that came to an end: its tables' rows are saved; `problem` says in a sentence why they are not."""

    run: Planned
    seconds: float
    problem: str = ""


def carry_out(
    study: StudyPlan, out: Path, jobs: int = 1, on_finished: Callable[[Finished], None] = lambda run: None
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


def _carry_out(study: StudyPlan, out: Path, jobs: int, on_finished: Callable[[Finished], None]) -> list[Finished]:
    tables, deals = Tables.load(out), Deals(out)
    if study.runs:
        deals.deal(study.runs[0])  # makes the key, where there is none yet
    contents = deals.read_contents()
    todo: dict[str, Planned] = {}
    for run in study.in_turn:
        deal = deals.deal(run)
        folder = out / "runs" / run.key
        if (folder / "allocation_summary.csv").is_file() and not deal.is_of(folder):
            shutil.rmtree(folder)
        row = tables.rows.get(run.key)  # a table of version 0.1 says nothing of contents
        if row and (row.run["data"] != deal.digest or contents.setdefault(run.key, deal.contents) != deal.contents):
            del tables.rows[run.key]
        if run.key not in tables.rows:
            todo.setdefault(run.key, run)
    tables.save(out, study.runs)
    failed = []

    def save() -> None:
        deals.write_contents(contents)
        tables.save(out, study.runs)

    saving = _Seldom(save)
    try:
        for done in _carry_out_each(list(todo.values()), jobs, deals):
            deal, folder = deals.deal(done.run), out / "runs" / done.run.key
            if not done.problem and not deal.is_of(folder):
                done = replace(done, problem="its data changed while the study ran; start the study again")
            if done.problem:
                failed.append(done)
            else:
                contents[done.run.key] = deal.contents
                tables.rows[done.run.key] = rows_of(RunFolder.open(folder), deal.digest, study.design)
                saving.when_due()
            on_finished(done)
    finally:
        save()
    return failed


class _Seldom:
    """Does something again when what it took last is a small part of the time since: tables that are written whole
    after every run of thousands would take longer than the runs."""

    def __init__(self, do: Callable[[], None]) -> None:
        self.do = do
        self.next = 0.0

    def when_due(self) -> None:
        """Do it now, or leave it to a later time."""
        began = time.perf_counter()
        if began >= self.next:
            self.do()
            ended = time.perf_counter()
            self.next = ended + (ended - began) / WRITING_SHARE


def missing(study: StudyPlan, out: Path) -> list[Planned]:
    """The planned runs that are in no table yet."""
    tables = Tables.load(out)
    return [run for run in study.runs if run.key not in tables.rows]


def _carry_out_each(todo: Sequence[Planned], jobs: int, deals: Deals) -> Iterator[Finished]:
    threads = _threads(jobs)
    if jobs == 1:
        for run in todo:
            yield Finished(run, *_one(_quiet(run, threads), deals.begin(run), deals.partition(run)))
        return
    context = multiprocessing.get_context(WORKERS)
    until, working = context.Pipe(duplex=False)
    watch = functools.partial(_leave_with_parent, until)
    with until, working, concurrent.futures.ProcessPoolExecutor(jobs, context, initializer=watch) as pool:
        waiting: dict[concurrent.futures.Future[tuple[float, str]], Planned] = {}
        try:
            for run in todo:
                if len(waiting) > jobs:  # one more than there are workers, so that none waits for its deal
                    yield from _finished(waiting)
                waiting[pool.submit(_one, _quiet(run, threads), deals.begin(run), deals.partition(run))] = run
            while waiting:
                yield from _finished(waiting)
        except BrokenProcessPool:
            raise MedflError(
                "a worker process of the study died (out of memory?); what is finished is kept. Start the study again "
                "to go on, with a lower --jobs if memory was short"
            ) from None
        except BaseException:
            working.send(None)  # runs under way end, and go on from their last round when the study is next started
            raise
        finally:
            pool.shutdown(wait=not waiting, cancel_futures=True)


def _finished(waiting: dict[concurrent.futures.Future[tuple[float, str]], Planned]) -> Iterator[Finished]:
    """Those of the runs under way that end first, taken out."""
    for future in concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED).done:
        yield Finished(waiting.pop(future), *future.result())


def _leave_with_parent(until: Connection) -> None:
    """A worker whose study was killed, or interrupted alone, stops too, instead of working or waiting for ever.

    Args:
        until: can be read when the study is left before its last run.
    """

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        wait([parent.sentinel, until])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _threads(jobs: int) -> int | None:
    """A run's share of the cores; None where OMP_NUM_THREADS says how many threads a process has."""
    return None if os.environ.get("OMP_NUM_THREADS") else max(1, (os.cpu_count() or 1) // jobs)


def core_sentences(study: StudyPlan, jobs: int) -> tuple[str, ...]:
    """What the runs of a study use of this machine's cores, and a warning where they share them."""
    threads = _threads(jobs)
    used = [cores_of(_quiet(run, threads)) for run in study.runs[:1]]
    return tuple(sentence for cores in used for sentence in cores.sentences(jobs))


def _quiet(run: Planned, threads: int | None) -> config.Pipeline:
    """A run of a study as it is carried out: named by its key, without tracking of its own, with its share of cores."""
    pipeline = run.pipeline
    share = threads if pipeline.training.workers == 1 else None  # which share out the cores themselves
    training = pipeline.training.model_copy(update={"threads": pipeline.training.threads or share})
    tracking = pipeline.tracking.model_copy(update={"enabled": False})
    return pipeline.model_copy(update={"training": training, "tracking": tracking})


def _one(pipeline: config.Pipeline, path: Path, partition: Partition) -> tuple[float, str]:
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
