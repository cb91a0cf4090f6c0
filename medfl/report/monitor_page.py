"""What monitoring says: tables for the console and one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from medfl.errors import MedflError
from medfl.metrics import format_figure, format_interval
from medfl.metrics.formatting import MISSING, format_bounds
from medfl.metrics.monitored import TOGETHER
from medfl.report.html_blocks import finding, join, table, text
from medfl.report.html_page import PageSection, render_page

RULE = (
    "An alarm is raised where a figure's mean over source groups (patients, slides) differs from the reference by more "
    "than chance explains. Where nothing has changed, one is raised in about 1 of 100 looks at all the figures "
    "compared, together. It says that patches differ, and not why, nor that the model is wrong."
)


@dataclass(frozen=True)
class MonitorTable:
    """One table: what it is of ("prevalence", "calibration", "drift"), its title, headings and rows."""

    kind: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def monitor_tables(result: Mapping[str, Any]) -> Iterator[MonitorTable]:
    """The tables of a monitor.json, each at most 80 columns wide where class names are not long."""
    parts = monitored_places(result)
    for name, entry in parts.items():
        rows = [[label, format_figure(one["called"]), _corrected(one)] for label, one in entry["prevalence"].items()]
        title = f"{name}: {entry['patches']} patches of {entry['groups']} source groups"
        yield MonitorTable("prevalence", title, ["class", "called so", "share, corrected [95 %]"], rows)
    measured = {name: entry["calibration"] for name, entry in parts.items() if entry["calibration"]}
    rows = [
        [
            name,
            str(parts[name]["labelled"]),
            format_interval(own["ece"], own.get("ece_ci")) if "ece_ci" in own else format_figure(own["ece"]),
            format_figure(own["debiased_ece"]),
            format_interval(own["nll"], own.get("nll_ci")) if "nll_ci" in own else format_figure(own["nll"]),
        ]
        for name, own in measured.items()
    ]
    if rows:
        headings = ["site", "labelled", "ECE [95 %]", "debiased", "NLL [95 %]"]
        yield MonitorTable("calibration", "Calibration, of patches with a label", headings, rows)
    if rows := [[name, str(gap["groups"]), _gap(gap)] for name, e in parts.items() if (gap := e["gap"])]:
        headings = ["site", "source groups", "accuracy less confidence [95 %]"]
        yield MonitorTable("calibration", "Calibration in the large, over source groups", headings, rows)
    for name, entry in parts.items():
        rows = [
            [
                figure,
                format_figure(one["reference"]),
                format_figure(one["value"]),
                format_bounds((one["low"], one["high"]), "+.3f"),
                "ALARM" if one["ratio"] > 1.0 else f"{one['ratio']:.0%}",
            ]
            for figure, one in entry["drift"].items()
        ]
        if rows:
            headings = ["figure", "before", "now", "change [95 %]", "of limit"]
            yield MonitorTable("drift", f"{name}: drift", headings, rows)


def monitored_places(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The entries of a monitor.json by site, and that of all together behind them."""
    return dict(result["sites"]) | ({TOGETHER: result["together"]} if result["together"] else {})


def verdict(result: Mapping[str, Any]) -> str:
    """The one sentence to take away."""
    if not result["compared"]:
        return "No drift can be looked for: nothing to compare with"
    if not result["alarm"]:
        return f"No alarm: none of {result['compared']} figures differs from {result['reference']} by more than chance"
    words = ", ".join(f"{alarm['figure']} at {alarm['site']}" for alarm in result["alarms"])
    return f"ALARM: {len(result['alarms'])} of {result['compared']} figures differ from {result['reference']}: {words}"


def write_monitoring(result: Mapping[str, Any], directory: Path) -> Path:
    """Write monitor.json, sums.json (what of it a site may send) and report.html into a folder; where the page is.
    Raises MedflError where that fails."""
    from medfl.data.atomic_file import write_text

    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / "monitor.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
        sums = {key: result[key] for key in ("run", "fingerprint", "weights", "classes", "time")}
        sums["sites"] = {site: {"sums": entry["sums"]} for site, entry in result["sites"].items()}
        write_text(directory / "sums.json", json.dumps(sums, allow_nan=False) + "\n")
        write_text(directory / "report.html", monitor_html(result))
    except OSError as error:
        raise MedflError(f"--out: {directory} cannot be written ({error.strerror}); name another folder") from None
    return directory / "report.html"


def monitor_html(result: Mapping[str, Any]) -> str:
    """The page of a monitor.json."""
    tables, places = list(monitor_tables(result)), monitored_places(result)
    compared = [f"{name}: compared with {entry['compared_with']}." for name, entry in places.items()]
    notes = [f"{name}: {note}." for name, entry in places.items() for note in entry["notes"]]
    sections = [
        PageSection("verdict", "Verdict", join(finding(verdict(result)), text(*compared, *notes))),
        PageSection("drift", "Drift of scores and stain", _tables(tables, "drift"), RULE),
        PageSection(
            "prevalence",
            "Class mix",
            _tables(tables, "prevalence"),
            "The share of patches that the model calls so, and the share that there is by its errors on test data of "
            "its run, with the uncertainty of both.",
        ),
        PageSection("calibration", "Calibration", _tables(tables, "calibration"), "Of patches with a label only."),
    ]
    return render_page(
        f"Monitoring of {result['run']}",
        [section for section in sections if section.body],
        kicker="medfl monitor",
        facts=[
            f"{len(result['sites'])} sites" if len(result["sites"]) > 1 else next(iter(result["sites"])),
            result["time"],
        ],
    )


def _tables(tables: Sequence[MonitorTable], kind: str) -> Markup:
    return join(*(table(each.columns, each.rows, caption=each.title) for each in tables if each.kind == kind))


def _gap(gap: Mapping[str, Any]) -> str:
    return f"{gap['value']:+.3f} {format_bounds((gap['low'], gap['high']), '+.3f')}"


def _corrected(one: Mapping[str, Any]) -> str:
    if one["corrected"] is None:
        return MISSING
    return format_interval(one["corrected"], (one["low"], one["high"]))
