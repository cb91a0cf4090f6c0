"""Brings MLflow up to date with a run folder, any number of times, each value once.

The federation is the parent run, each site a child run, the step is the round, and every run gets one `log_batch`
for all rounds it lacks. `tracking.json` remembers how far each run has come (see `medfl.tracking.sync_state`).
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from medfl import config
from medfl.config.program_parts import is_program
from medfl.errors import MedflError
from medfl.metrics.record_types import RoundRecord
from medfl.runs.records import MODEL, REPORT, WEIGHTS, RunRecords, read_json, read_run
from medfl.tracking import metric_names, run_metadata
from medfl.tracking.connect import artifact_location, brief, client_for, mlflow_errors, resolve_uri, shown
from medfl.tracking.log_model import log_model
from medfl.tracking.sync_state import Mark, State, TrackingServer, locked

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100
RUN_UUID_TAG = "medfl.run_id"
PARENT_TAG = "mlflow.parentRunId"
T = TypeVar("T")


@dataclass(frozen=True)
class SyncResult:
    """How far MLflow has come.

    Attributes:
        status: "finished" (the result is there), "running" (all rounds so far are), "pending" (the server did not
            answer, `reason` says how, `hint` is the command that uploads later), "off" (tracking is disabled).
        uri: the tracking server, without password.
        experiment_id, run_id: of the federation's run.
        sites: site name -> id of its run.
        rounds: round records uploaded.
    """

    status: Literal["finished", "running", "pending", "off"]
    uri: str = ""
    experiment_id: str = ""
    run_id: str = ""
    sites: Mapping[str, str] = field(default_factory=dict)
    rounds: int = 0
    reason: str = ""
    hint: str = ""

    def __str__(self) -> str:
        """One line for people."""
        if self.status == "off":
            return "MLflow: off (`tracking.enabled: false`)"
        if self.status == "pending":
            return f"MLflow: pending ({self.reason}); upload it later with `{self.hint}`"
        whole = "the run and its model" if self.status == "finished" else f"{self.rounds} rounds so far"
        return f"MLflow: {whole}, run {self.run_id} at {self.uri}"


def sync(folder: Path, tracking: config.Tracking, *, finished: bool = False, report: str = "") -> SyncResult:
    """Mirror a run folder into MLflow.

    Args:
        folder: the run folder, at any stage of the run.
        tracking: where and under which experiment.
        finished: nothing more is being computed now. With a `summary.json` the runs are closed as FINISHED, without
            one as KILLED (a resumed run opens them again).
        report: the page of a finished run, without patches; "" leaves what is there.

    Raises:
        MedflError: no run folder, or MLflow does not answer. What was uploaded stays; the next call goes on from it.
    """
    with locked(folder):
        run = read_run(folder)
        state = State.load(folder)
        uri = resolve_uri(tracking, state.current)
        state.current = shown(uri)
        server = state.servers.setdefault(state.current, TrackingServer())
        state.save()
        try:
            current = _Pass(client_for(uri), run, state, server, report)
            current.bring_up_to_date(tracking.experiment, artifact_location(uri), finished)
        except mlflow_errors() as error:
            raise MedflError(
                f"MLflow at {shown(uri)} does not take the run ({brief(error)}); {folder} is complete in itself, and "
                f"`medfl track {folder}` uploads it later"
            ) from error
        finally:
            state.save()
    return SyncResult(
        status="finished" if server.finished else "running",
        uri=shown(uri),
        experiment_id=server.experiment_id,
        run_id=server.federation.run_id,
        sites={name: mark.run_id for name, mark in server.sites.items()},
        rounds=len(run.rounds),
    )


@dataclass(frozen=True)
class _Pass:
    """One pass over one run folder and one server."""

    client: MlflowClient
    run: RunRecords
    state: State
    server: TrackingServer
    report: str = ""

    def bring_up_to_date(self, experiment: str, location: str | None, finished: bool) -> None:
        over = self.run.summary is not None
        self._open_runs(experiment, location)
        self._describe()
        self._log_rounds()
        self._log_failures()
        self._log_artifacts(over or finished)
        if over:
            self._log_result()
            self._log_model()
        self._set_status("FINISHED" if over else "KILLED" if finished else "RUNNING")
        self.server.finished = over

    def _open_runs(self, experiment: str, location: str | None) -> None:
        """Find this folder's runs by their tag (a crash may have kept them out of `tracking.json`); create the rest.

        A run that was deleted in MLflow is begun anew.
        """
        there = self._runs_there() if self.server.experiment_id else {}
        if not there:
            self.server.experiment_id = experiment_id(self.client, experiment, location)
            self.state.save()
        if self.server.federation.run_id != there.get(None, ""):
            self.server.renew(there.get(None, ""))
        for name in self.run.roles:
            mark = self.server.sites.setdefault(name, Mark())
            if mark.run_id != there.get(name, ""):
                self.server.sites[name] = Mark(there.get(name, ""))
        orphans = there if not self.server.federation.run_id else {}
        for site, mark in self.server.marks.items():
            if not mark.run_id:
                mark.run_id = self._create_run(site)
            elif site in orphans:
                self.client.set_tag(mark.run_id, PARENT_TAG, self.server.federation.run_id)
        self.state.save()

    def _runs_there(self) -> dict[str | None, str]:
        """Site (None for the federation) -> run id, of the runs that exist."""
        query = f"tags.`{RUN_UUID_TAG}` = '{self.state.run_uuid}'"
        runs = self.client.search_runs([self.server.experiment_id], query, max_results=5000)
        return {run.data.tags.get("site"): run.info.run_id for run in runs}

    def _create_run(self, site: str | None) -> str:
        role = self.run.roles[site] if site else "federation"
        tags = run_metadata.run_tags(self.run, self.state.run_uuid, role, site)
        if site:
            tags[PARENT_TAG] = self.server.federation.run_id
        created = self.client.create_run(self.server.experiment_id, tags=tags, run_name=site or self.run.name)
        return str(created.info.run_id)

    def _describe(self) -> None:
        """Parameters of the federation, data set of every site, at its run and at the federation's: once."""
        from mlflow.entities import Param

        federation = self.server.federation
        if not federation.described:
            params = [Param(key, value) for key, value in run_metadata.parameters(self.run).items()]
            for batch in _batches(params, PARAMS_PER_CALL):
                self.client.log_batch(federation.run_id, params=batch)
            if self.run.data:
                data_sets = [run_metadata.dataset(site, data) for site, data in self.run.data.items()]
                self.client.log_inputs(federation.run_id, data_sets)
            federation.described = bool(self.run.data)
        for site, data in self.run.data.items():
            mark = self.server.sites[site]
            if not mark.described:
                self.client.log_inputs(mark.run_id, [run_metadata.dataset(site, data)])
                mark.described = True

    def _log_rounds(self) -> None:
        """Every run's missing rounds."""
        end = max((int(record["round"]) + 1 for record in self.run.rounds), default=0)
        behind = [(site, mark) for site, mark in self.server.marks.items() if mark.logged < end]
        unsure = [range(mark.logged, mark.attempted) for _, mark in behind]
        for _, mark in behind:
            mark.attempted = end
        if behind:
            self.state.save()
        for (site, mark), steps in zip(behind, unsure, strict=True):
            new = [record for record in self.run.rounds if record["round"] >= mark.logged]
            self._log(mark.run_id, {int(r["round"]): _round_values(r, site) for r in new}, steps)
            mark.logged = end

    def _log_result(self) -> None:
        """The result on test data, there once and so at step 0; the selected round and what is missed are tags."""
        summary: Mapping[str, Any] = self.run.summary or {}
        drops = (summary.get("stability") or {}).get("largest_drop_by_site") or {}
        results: dict[str | None, metric_names.Values] = {None: metric_names.federation_final(summary)}
        results |= {site: metric_names.site_final(entry, drops.get(site)) for site, entry in summary["sites"].items()}
        todo = [(mark, results.get(site, {})) for site, mark in self.server.marks.items() if mark.final < 2]
        unsure = [range(1) if mark.final else range(0) for mark, _ in todo]
        for mark, _ in todo:
            mark.final = 1
        if todo:
            self.state.save()
        for (mark, values), steps in zip(todo, unsure, strict=True):
            self._log(mark.run_id, {0: values}, steps)
            for key, value in run_metadata.result_tags(summary, mark is self.server.federation).items():
                self.client.set_tag(mark.run_id, key, value)
            mark.final = 2

    def _log(self, run_id: str, values: Mapping[int, Mapping[str, float]], unsure: range) -> None:
        """Write metrics by step; at the `unsure` steps only those that MLflow does not have yet."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, step) for step, at in values.items() for key, value in at.items()]
        asked = {metric.key for metric in metrics if metric.step in unsure}
        there = {(key, point.step) for key in asked for point in self.client.get_metric_history(run_id, key)}
        missing: list[Metric] = [metric for metric in metrics if (metric.key, metric.step) not in there]
        for batch in _batches(missing, METRICS_PER_CALL):
            self.client.log_batch(run_id, metrics=batch)

    def _log_failures(self) -> None:
        text = run_metadata.failures_text(self.run)
        if text != self.server.failures:
            self.client.set_tag(self.server.federation.run_id, "medfl.failures", text)
            self.server.failures = text

    def _log_artifacts(self, over: bool) -> None:
        """Upload each text whose content differs from what was uploaded before."""
        with tempfile.TemporaryDirectory() as temporary:
            page = {REPORT: self.report} if self.report else {}
            for name, text in (run_metadata.artifacts(self.run, over) | page).items():
                digest = hashlib.sha256(text.encode()).hexdigest()[:16]
                if self.server.artifacts.get(name) != digest:
                    path = Path(temporary) / name
                    path.write_text(text, encoding="utf-8")
                    self.client.log_artifact(self.server.federation.run_id, str(path))
                    self.server.artifacts[name] = digest

    def _log_model(self) -> None:
        """The selected model as a served model, once; registering it later only points at it. A network of a program
        could be built nowhere else, so its figures go to MLflow without it."""
        if self.server.model_ready or not all((self.run.folder / name).is_file() for name in (WEIGHTS, MODEL)):
            return
        if is_program(str(read_json(self.run.folder / MODEL).get("backbone"))):
            return
        log_model(self.client, self.run, self.state, self.server)

    def _set_status(self, status: str) -> None:
        for mark in self.server.marks.values():
            if mark.status == status:
                continue
            if status == "RUNNING":
                self.client.update_run(mark.run_id, status=status)
            else:
                self.client.set_terminated(mark.run_id, status)
            mark.status = status


def _round_values(record: RoundRecord, site: str | None) -> dict[str, float]:
    if site is None:
        return metric_names.federation_round(record)
    entry = record["sites"].get(site)
    return metric_names.site_round(entry) if entry else {}


def experiment_id(client: MlflowClient, name: str, location: str | None) -> str:
    """The id of the experiment, made if need be."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            experiment = client.get_experiment_by_name(name)  # another run has just made it
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise MedflError(f"`tracking.experiment`: {name!r} was deleted in MLflow; restore it or choose another name")
    return str(experiment.experiment_id)


def _batches(items: list[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
