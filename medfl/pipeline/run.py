"""One pipeline carried out: federate -> select -> calibrate -> measure at every site -> write the run folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from medfl import config
from medfl.config.program_parts import ProgramParts
from medfl.data.atomic_file import write_text
from medfl.data.partition import Partition
from medfl.errors import MedflError, RunFailed
from medfl.federation.callbacks import Callback, PhaseTimer
from medfl.federation.server_state import ServerState
from medfl.metrics.record_types import RunSummary
from medfl.pipeline.agree_stain import agree_stain
from medfl.pipeline.conclude import conclude
from medfl.pipeline.extend_run import carry_over, check_chain, extended, reopen
from medfl.pipeline.load_pipeline import dump_pipeline, load_pipeline
from medfl.pipeline.model_spec import pinned
from medfl.pipeline.plan_checks import check_plan
from medfl.pipeline.prepare import LocalRunSetup, RunSetup, prepare
from medfl.pipeline.run_callbacks import CheckpointWriter, PrivacyAccount, RoundTeller
from medfl.pipeline.summary import early_stop
from medfl.runs.data_record import check_data, note_data
from medfl.runs.folder import RunFolder
from medfl.runs.patient_ledger import PatientLedger
from medfl.runs.privacy_ledger import Ledger
from medfl.runs.progress import ProgressCallbacks
from medfl.runs.purge import check_unpurged
from medfl.runs.verdict import why_untrained
from medfl.tracking.background_sync import Mirror


@dataclass(frozen=True)
class Outcome:
    """What a finished run leaves: its folder, its summary, and one line on how tracking ended."""

    folder: RunFolder
    summary: RunSummary
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
        RunFailed: as `play`.
    """
    began = time.perf_counter()
    watcher = watcher or ProgressCallbacks()
    if pipeline.training.clock == "wall":
        raise MedflError(
            "`training.clock: wall` needs sites in processes of their own; add --engine nvflare, use `medfl deploy`, "
            "or set it to virtual"
        )
    pipeline = pinned(pipeline)
    with RunFolder.create(pipeline.name, out) as folder:
        setup = prepare(pipeline, watcher, partition)
        check_plan(pipeline, setup.partition.counts())
        note_data(folder, setup.partition, pipeline, setup.warnings)
        write_text(folder.pipeline, dump_pipeline(pipeline))
        return _carry_out(setup, folder, setup.initial_state(), {}, began, watcher)


def resume(
    path: Path | str,
    watcher: ProgressCallbacks | None = None,
    parts: ProgramParts | None = None,
    rounds: int | None = None,
) -> Outcome:
    """Continue a run from its last whole round; a finished run is only tracked and registered again.

    Args:
        path: the run folder.
        watcher: who is told.
        parts: what a program handed to the run, again.
        rounds: how many there are to be now, where that is not what the run was planned for.

    Raises:
        MedflError: as `run`; another process is at work on the run, its files are damaged, or its pipeline or data are
            not what its rounds were made with.
    """
    began = time.perf_counter()
    watcher = watcher or ProgressCallbacks()
    folder = RunFolder.open(path)
    if folder.engine.is_file():
        raise MedflError(f"the sites of {folder.path} keep their own state; continue it with `medfl resume`")
    check_unpurged(folder.path, "it cannot go on")
    with folder:
        pipeline = load_pipeline(folder.pipeline).with_parts(parts or ProgramParts())
        if rounds is not None:
            pipeline = extended(folder, pipeline, rounds)
        if notice := folder.check_pipeline(other_rounds=rounds is not None):
            watcher.say(notice)
        setup = prepare(pipeline, watcher)
        if rounds is not None:
            check_chain(setup.shared.chain, len(pipeline.train_sites), rounds)
        check_data(folder, setup.partition, pipeline.cache_dir, exact=True)
        loaded = folder.load_checkpoint(setup.sites)
        state, spent = loaded if loaded else (setup.initial_state(), {})
        state.lost = 0
        if rounds is not None:
            reopen(folder, pipeline, state)
            carry_over(folder, pipeline, state, setup.sites.values(), spent)
        folder.truncate(state.round)
        last = state.last_round(pipeline.training.rounds)
        done = state.round > last
        going = "all rounds are done" if done else f"going on at round {state.round} of {last}"
        watcher.say(f"{folder.path}: {going}")
        return _carry_out(setup, folder, state, spent, began, watcher)


def _carry_out(
    setup: LocalRunSetup,
    folder: RunFolder,
    state: ServerState,
    spent: Mapping[str, float],
    began: float,
    watcher: ProgressCallbacks,
) -> Outcome:
    def work(watching: ProgressCallbacks) -> RunSummary:
        return play(setup, folder, state, spent, began, watching)

    for sentence in setup.cores.sentences():
        watcher.say(sentence)
    with closing(setup):
        setup.begin()
        return follow(folder, setup.pipeline, watcher, work)


def play(
    setup: RunSetup,
    folder: RunFolder,
    state: ServerState,
    spent: Mapping[str, float],
    began: float,
    watcher: ProgressCallbacks,
) -> RunSummary:
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
        RunFailed: too many rounds without a quorum, or none that counted; a model that is not finite; no site measured.
    """
    timer, ledger = PhaseTimer(spent), open_ledger(setup, folder)
    callbacks: list[Callback] = [
        timer,
        *([PrivacyAccount(ledger, setup.config.rounds)] if ledger else []),
        CheckpointWriter(folder, setup.sites.values(), timer, watcher),
        RoundTeller(watcher, setup.config.rounds),
    ]
    agree_stain(setup, state, watcher.say)
    state = setup.federation(state, callbacks).run()
    if reason := why_untrained(folder.records(), setup.config.rounds):
        raise RunFailed(f"{reason}; the run has failed, its records are in {folder.path}")
    if stop := early_stop(setup.pipeline, folder.records()):
        watcher.say(f"Training {stop['reason']}")
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


def open_ledger(setup: RunSetup, folder: RunFolder) -> Ledger | PatientLedger | None:
    """The account of what a run spends of privacy, of sites or of patients; None where it has none. Raises MedflError
    as the two do."""
    training = setup.pipeline.training
    if training.dp_sgd is not None:
        return PatientLedger(training.dp_sgd, training.batch_size, training.rounds, folder.privacy)
    return Ledger.open(setup.shared.chain, folder.privacy)


def follow(
    folder: RunFolder,
    pipeline: config.Pipeline,
    watcher: ProgressCallbacks,
    work: Callable[[ProgressCallbacks], RunSummary],
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
