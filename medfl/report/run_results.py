"""What a report is made of: a finished run folder, its strings scrubbed of local paths, seen whole or by one site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medfl.errors import MedflError, nearest
from medfl.metrics import figures, format_interval
from medfl.metrics.record_types import SiteResult
from medfl.runs.digests import check_files
from medfl.runs.headline import RunHeadline, headline
from medfl.runs.records import SUMMARY, RunRecords, read_json, read_run
from medfl.runs.redact import scrub
from medfl.runs.registration import registration

CURVES = "curves.json"
IN_PROCESS = "in-process"


@dataclass(frozen=True)
class Evidence:
    """A finished run as its report tells it.

    Attributes:
        run: the run folder as it is.
        summary, pipeline: `summary.json` and `pipeline.yaml` without local paths.
        curves: `sites` of `curves.json`; empty for a run that has none.
        site: the one site that the page is about; None for all of them.
    """

    run: RunRecords
    summary: Mapping[str, Any]
    pipeline: Mapping[str, Any]
    curves: Mapping[str, Any]
    site: str | None = None

    @property
    def classes(self) -> list[str]:
        """Class names in index order."""
        return list(self.summary["classes"])

    @cached_property
    def roles(self) -> dict[str, str]:
        """Site -> "train" or "held_out", training sites first, for the sites that the page may name."""
        roles = self.run.roles | {name: entry["role"] for name, entry in self.summary["sites"].items()}
        order = sorted(roles, key=lambda name: (roles[name] != "train", name))
        return {name: roles[name] for name in order if self.site in (None, name)}

    @cached_property
    def measured(self) -> dict[str, SiteResult]:
        """Site -> its test figures, in the order of `roles`; a site whose measurement failed is not in it."""
        sites = self.summary["sites"]
        return {name: sites[name] for name in self.roles if name in sites}

    @property
    def description(self) -> str:
        """What the pipeline says of itself, or on a site's own page what the site does."""
        sites = self.pipeline.get("sites") or {}
        own = [entry for role in ("train", "held_out") for entry in sites.get(role) or []]
        speaker = next((entry for entry in own if entry.get("name") == self.site), {}) if self.site else self.pipeline
        return str(speaker.get("description") or "").strip()

    @property
    def arm(self) -> str | None:
        """ "local_only" or "centralised" where the run is one of the two arms."""
        return next((m for m in self.run.methods if m in ("local_only", "centralised")), None)

    @property
    def calibrated(self) -> bool:
        """Whether probabilities were calibrated, so that every site has figures before and after."""
        return any(entry.get("ece_before") is not None for entry in self.measured.values())

    @cached_property
    def headline(self) -> RunHeadline:
        """What must be read first, of the page's sites."""
        registered = registration(self.run.folder)
        return headline(self.summary, self.pipeline, registered, self.site, self.run.roles)

    def of_role(self, role: str) -> list[str]:
        """Names of the page's sites of one role."""
        return [name for name, own in self.roles.items() if own == role]

    def failures(self) -> list[Mapping[str, Any]]:
        """{"site", "round", "reason" (its kind), "phase"?} of the page's sites."""
        return [f for f in self.summary.get("failures") or [] if self.site in (None, f["site"])]


def read_evidence(folder: Path, site: str | None = None) -> Evidence:
    """Read a finished run.

    Raises:
        MedflError: no run, a run that is not finished, a damaged file, or a site the run does not have.
    """
    run = read_run(folder)
    if run.summary is None:
        raise MedflError(f"{folder} has no {SUMMARY} yet; finish it with `medfl resume {folder}`")
    check_files(run.summary, folder)
    evidence = Evidence(run, scrub(run.summary), scrub(run.pipeline), _curves(folder))
    if site is None:
        return evidence
    if site not in evidence.roles:
        names = ", ".join(evidence.roles)
        raise MedflError(f"{folder} has no site {site}, only {names}.{nearest(site, evidence.roles)}")
    return Evidence(run, evidence.summary, evidence.pipeline, evidence.curves, site)


def _curves(folder: Path) -> Mapping[str, Any]:
    path = folder / CURVES
    return dict(read_json(path).get("sites") or {}) if path.is_file() else {}


def role_word(role: str) -> str:
    """A role in a table, as on the console."""
    return role.replace("_", "-")


def interval(entry: Mapping[str, Any], key: str) -> str:
    """A figure with its interval, as on the console: one of the table of figures as its row says."""
    rows = {row.key: row for row in figures.FIGURES}
    if key in rows:
        return rows[key].format_interval(entry)
    return format_interval(entry.get(key), entry.get(f"{key}_ci"))


def arrow(before: str, after: str) -> str:
    """`0.315 → 0.120`."""
    return f"{before} → {after}"
