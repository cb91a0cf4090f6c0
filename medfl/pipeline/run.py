"""One pipeline carried out: federate -> select -> calibrate -> measure at every site -> write the run folder."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfl import config
from medfl.data.atomic_file import write_text
from medfl.data.partition import Partition
from medfl.errors import MedflError
from medfl.federation.callbacks import Callback, PhaseTimer
from medfl.federation.server_state import ServerState
from medfl.pipeline.conclude import conclude
from medfl.pipeline.load_pipeline import dump_pipeline, load_pipeline
from medfl.pipeline.model_spec import pinned
from medfl.pipeline.prepare import LocalRunSetup, RunSetup, prepare
from medfl.pipeline.run_callbacks import CheckpointWriter, PrivacyAccount, RoundTeller
from medfl.runs.folder import RunFolder
from medfl.runs.privacy_ledger import Ledger
from medfl.runs.progress import ProgressCallbacks
from medfl.tracking.background_sync import Mirror


@dataclass(frozen=True)
class Outcome:
    """What a finished run leaves: its folder, its summary, and one line on how tracking ended."""

    folder: RunFolder
    summary: dict[str, Any]
    tracking: str


def run(
    pipeline: config.Pipeline,
    out: Path | str | None = None,
    watcher: ProgressCallbacks | None = None,
    partition: Partition | None = None,
) -> Outcome:
    """Carry out a pipeline in a new run folder.

    Args:
        pipeline: as `load_pipeline` returns it, which has checked its rules.
        out: the folder; by default a new one below `runs`.
        watcher: who is told.
        partition: what the pipeline's sites hold, where that has been dealt already.

    Raises:
        MedflError: bad input, before training. GateFailed: a registry gate, after everything is written.
        RunFailed: too many rounds without a quorum.
    """
    began = time.perf_counter()
    watcher = watcher or ProgressCallbacks()
    if pipeline.training.clock == "wall":
        raise MedflError(
            "`training.clock: wall` needs sites in processes of their own; add --engine nvflare, use `medfl deploy`, "
            "or set it to virtual"
        )
    pipeline = pinned(pipeline)
    folder = RunFolder.create(pipeline.name, out)
    setup = prepare(pipeline, watcher, partition)
    setup.partition.write(folder.allocation)
    write_summary_csv(folder.allocation_summary, setup.partition.summary())
    write_text(folder.pipeline, dump_pipeline(pipeline))
    return _carry_out(setup, folder, setup.initial_state(), {}, began, watcher)


def resume(path: Path | str, watcher: ProgressCallbacks | None = None) -> Outcome:
    """Continue a run from its last whole round; a finished run is only tracked and registered again."""
    began = time.perf_counter()
    watcher = watcher or ProgressCallbacks()
    folder = RunFolder.open(path)
    if folder.engine.is_file():
        raise MedflError(f"the sites of {folder.path} keep their own state; continue it with `medfl resume`")
    pipeline = load_pipeline(folder.pipeline)
    setup = prepare(pipeline, watcher)
    same_allocation(setup.partition, folder)
    loaded = folder.load_checkpoint(setup.sites)
    state, spent = loaded if loaded else (setup.initial_state(), {})
    state.lost = 0
    folder.truncate(state.round)
    rounds = pipeline.training.rounds
    done = state.round > rounds
    watcher.say(
        f"{folder.path}: all rounds are done" if done else f"{folder.path}: going on at round {state.round} of {rounds}"
    )
    return _carry_out(setup, folder, state, spent, began, watcher)


def same_allocation(allocation: Partition, folder: RunFolder) -> None:
    """Raise MedflError unless the folder's run was dealt what is dealt now."""
    probe = folder.path / "allocation.check"
    allocation.write(probe)
    same = folder.allocation.is_file() and probe.read_bytes() == folder.allocation.read_bytes()
    probe.unlink()
    if not same:
        raise MedflError(
            f"the data behind {folder.path} has changed: {folder.allocation.name} no longer agrees with what is dealt "
            f"now; restore the data or start a new run"
        )


def _carry_out(
    setup: LocalRunSetup,
    folder: RunFolder,
    state: ServerState,
    spent: Mapping[str, float],
    began: float,
    watcher: ProgressCallbacks,
) -> Outcome:
    def work(watching: ProgressCallbacks) -> dict[str, Any]:
        return play(setup, folder, state, spent, began, watching)

    return follow(folder, setup.pipeline, watcher, work)


def play(
    setup: RunSetup,
    folder: RunFolder,
    state: ServerState,
    spent: Mapping[str, float],
    began: float,
    watcher: ProgressCallbacks,
) -> dict[str, Any]:
    """Play the rounds that are left, choose, calibrate, measure, and write it all into the run folder.

    Args:
        setup: the sites and what is to be done.
        folder: where every whole round is written.
        state: where to start.
        spent: seconds by phase of an earlier part of the run.
        began: `time.perf_counter()` when this part began.
        watcher: who is told.

    Returns:
        summary.json.

    Raises:
        RunFailed: too many rounds without a quorum.
    """
    timer, ledger = PhaseTimer(spent), Ledger.open(setup.shared.chain, folder.privacy)
    callbacks: list[Callback] = [
        timer,
        *([PrivacyAccount(ledger)] if ledger else []),
        CheckpointWriter(folder, setup.sites.values(), timer, watcher),
        RoundTeller(watcher, setup.config.rounds),
    ]
    state = setup.federation(state, callbacks).run()
    with timer.measure("evaluate"):
        summary, curves = conclude(setup, folder, state, watcher)
    timer.close()
    total = time.perf_counter() - began
    summary["timings"] = {"total": total, "track": 0.0, **timer.seconds, "prepare": setup.seconds}
    if ledger:
        summary["privacy"] = ledger.facts()
    folder.save_curves(setup.pipeline.task.classes, curves)
    folder.save_summary(summary)
    return summary


def follow(
    folder: RunFolder,
    pipeline: config.Pipeline,
    watcher: ProgressCallbacks,
    work: Callable[[ProgressCallbacks], dict[str, Any]],
) -> Outcome:
    """Let `work` fill the run folder, MLflow brought up to date meanwhile; then the page, and the outcome.

    Args:
        work: given a watcher to tell of its rounds, returns summary.json, which it has written.
    """
    mirror = Mirror(folder.path, pipeline.tracking) if pipeline.tracking.enabled else None

    try:
        summary = work(watcher.notifying(mirror.notify) if mirror else watcher)
    except BaseException:
        if mirror:
            mirror.close(timeout=10.0)
        raise
    if mirror is None:
        return Outcome(folder, summary, "MLflow: off")
    clock = time.perf_counter()
    result = mirror.close(report=_page(folder, watcher))
    total = summary["timings"]["total"] + time.perf_counter() - clock
    summary["timings"] |= {"track": mirror.seconds, "total": total}
    folder.save_summary(summary)
    return Outcome(folder, summary, str(result))


def _page(folder: RunFolder, watcher: ProgressCallbacks) -> str:
    """The report, also written into the run folder. A page that cannot be drawn must not cost the run: then ""."""
    from medfl.report.run_report import write_report

    try:
        return write_report(folder.path).read_text(encoding="utf-8")
    except Exception as error:
        watcher.say(f"The report could not be drawn ({error}); try `medfl report {folder.path}`")
        return ""


def write_summary_csv(path: Path, rows: Iterable[Mapping[str, str | int]]) -> None:
    """allocation_summary.csv: counts and digests only."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["site", "role", "split", "class", "groups", "patches", "digest"], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
