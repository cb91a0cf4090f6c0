"""What people see in a terminal: progress bars where there is one, plain lines elsewhere, and the tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from medfl.metrics.measure import format_interval, mean_supported

PLAIN_WIDTH = 150  # where no terminal tells its width


class Terminal:
    """Prints to standard output; on a terminal the rounds are one moving bar, elsewhere a line each."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        self.out = RichConsole(width=None if self.live else PLAIN_WIDTH, highlight=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last = time.perf_counter()

    def say(self, text: str) -> None:
        """One line."""
        self.out.print(text, markup=False, soft_wrap=True)

    def round(self, record: Mapping[str, Any], rounds: int) -> None:
        """One finished round."""
        line = round_line(record, rounds)
        now = time.perf_counter()
        if not self.live:
            self.say(f"{line}  {now - self._last:.1f} s")
            self._last = now
        elif self._bar is None:
            columns = (TextColumn("rounds"), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.out, transient=True)
            self._task = self._bar.add_task(line, total=rounds + 1)
            self._bar.start()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=record["round"] + 1, description=line)
            for failure in record["failures"]:
                self._bar.console.print(_failure_line(record, failure), markup=False)
            if record["round"] == rounds:
                self.close()
                self.say(line)
        else:
            for failure in record["failures"]:
                self.say(_failure_line(record, failure))

    def close(self) -> None:
        """Remove the bar, if one is up."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; the first column is left-aligned, the others right-aligned."""
        table = Table(title=title, box=SIMPLE, title_justify="left", title_style="bold", pad_edge=False)
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.out.print(table)

    def sites(self, sites: Mapping[str, Mapping[str, Any]], title: str = "Test data, measured once") -> None:
        """The per-site table: training sites first, held-out sites after them; n are patches."""
        columns = [
            "site",
            "role",
            "n (groups)",
            "classes",
            "AUROC [95 %]",
            "bal. acc.",
            "ECE before -> after [95 %]",
            "Brier",
        ]
        order = sorted(sites, key=lambda name: (sites[name]["role"] != "train", name))
        self.table(title, columns, [_site_row(name, sites[name]) for name in order])

    def own_models(self, sites: Mapping[str, Mapping[str, Any]]) -> None:
        """AUROC of the further models that a method keeps at each site, beside the global one."""
        named = {name: entry["models"] for name, entry in sorted(sites.items()) if "models" in entry}
        if not named:
            return
        kinds = sorted({kind for models in named.values() for kind in models})
        rows = [
            [name, _interval(sites[name]), *(_interval(models[k]) if k in models else "-" for k in kinds)]
            for name, models in named.items()
        ]
        self.table("AUROC of each site's own models on its test data", ["site", "global", *kinds], rows)

    def operating(self, summary: Mapping[str, Any]) -> None:
        """Sensitivity and specificity at held-out sites, at the thresholds chosen on validation data."""
        rows = [
            [name, target, _figure(point["threshold"]), str(point["positives"]), str(point["negatives"])]
            + [format_interval(point[rate], point[f"{rate}_ci"]) for rate in ("sensitivity", "specificity")]
            for name, entry in sorted(summary["sites"].items())
            for target, point in (entry.get("operating") or {}).items()
            if entry["role"] == "held_out"
        ]
        if rows:
            wanted = summary["operating"]["sensitivity"] if summary.get("operating") else None
            title = "Held-out sites, at thresholds from validation data" + (
                f" for sensitivity {wanted:g}" if wanted else ""
            )
            columns = [
                "site",
                "target",
                "threshold",
                "positive",
                "negative",
                "sensitivity [95 %]",
                "specificity [95 %]",
            ]
            self.table(title, columns, rows)

    def confusion(self, site: str, matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> None:
        """A confusion matrix: truth down, prediction across."""
        rows = [[f"true {name}", *map(str, counts)] for name, counts in zip(classes, matrix, strict=True)]
        self.table(f"{site}: confusion", ["", *classes], rows)

    def allocation(self, rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
        """Patches (groups) per site, split and class."""
        order: list[tuple[str, str, str]] = []
        cells: dict[tuple[str, str, str], dict[str, tuple[int, int]]] = {}
        for row in rows:
            key = (str(row["site"]), str(row["role"]), str(row["split"]))
            if key not in cells:
                order.append(key)
                cells[key] = {}
            cells[key][str(row["class"])] = (int(row["patches"]), int(row["groups"]))
        table = []
        for site, role, split in order:
            counts = [cells[site, role, split].get(name, (0, 0)) for name in classes]
            shown = [f"{patches} ({groups})" if patches else "-" for patches, groups in counts]
            total = f"{sum(p for p, _ in counts)} ({sum(g for _, g in counts)})"
            table.append([site, role.replace("_", "-"), split, *shown, total])
        self.table("Patches (source groups)", ["site", "role", "split", *classes, "all"], table)

    def cross_sites(self, matrix: Mapping[str, Mapping[str, float | None]]) -> None:
        """AUROC of every site's own model at every site: trained down, measured across."""
        columns = sorted({site for row in matrix.values() for site in row}, key=lambda site: (site not in matrix, site))
        rows = [[name, *(_figure(row.get(site)) for site in columns)] for name, row in sorted(matrix.items())]
        self.table("AUROC, trained at / measured at", ["", *columns], rows)

    def outcome(self, summary: Mapping[str, Any], folder: str, tracking: str) -> None:
        """The end of a run: the per-site table, stability, where things are."""
        self.sites(summary["sites"], f"Test data, measured once, model of round {summary['selected_round']}")
        self.own_models(summary["sites"])
        matrix = summary.get("cross_site_auroc")
        if matrix:
            self.cross_sites(matrix)
        self.operating(summary)
        held_out, stability = summary["held_out"], summary["stability"]
        if held_out["sites"]:
            self.say(
                f"Held-out sites: mean AUROC {format_interval(held_out['mean_auroc'], held_out.get('mean_auroc_ci'))}, "
                f"worst {held_out['worst_site']} {_figure(held_out['worst_auroc'])}, mean ECE "
                f"{_figure(held_out.get('mean_ece_before'))} -> {_figure(held_out['mean_ece'])}"
            )
        pooled = (summary.get("pooled") or {}).get("held_out")
        if pooled:
            self.say(_pooled_line(pooled))
        self.say(_calibration_line(summary))
        for line in _privacy_lines(summary):
            self.say(line)
        shown = ("oscillation", "largest_drop", "site_spread", "drift", "coherence")
        self.say("Stability: " + ", ".join(f"{key.replace('_', ' ')} {_figure(stability[key])}" for key in shown))
        if summary["leaky"]:
            self.say("LEAKY: source groups were ignored; near-copies of test patches may have been trained on.")
        for failure in summary["failures"][-5:]:
            self.say(f"Failed: site {failure['site']}, round {failure['round']}: {failure['reason']}")
        if summary.get("virtual_seconds") is not None:
            seconds = summary["virtual_seconds"]
            self.say(f"Virtual time: {seconds:.0f} s, if every site had the line that its file states")
        self.say(f"Run:    {folder}  ({summary['timings']['total']:.0f} s)")
        self.say(tracking)


def round_line(record: Mapping[str, Any], rounds: int) -> str:
    """`round 3/8  val AUROC 0.912, worst lung-centre 0.881  train loss 0.43`."""
    entries = {name: e for name, e in record["sites"].items() if e["role"] == "train"}
    parts = [f"round {record['round']}/{rounds}"]
    auroc = {name: e["val"]["auroc"] for name, e in entries.items() if e.get("val", {}).get("auroc") is not None}
    if auroc:
        worst = min(auroc, key=lambda name: auroc[name])
        parts.append(f"val AUROC {mean_supported(auroc.values()):.3f}, worst {worst} {auroc[worst]:.3f}")
    losses = [e["train_loss"] for e in record["sites"].values() if e.get("train_loss") is not None]
    if losses:
        parts.append(f"train loss {sum(losses) / len(losses):.3f}")
    if record["participants"] and not record["counted"]:
        parts.append("no quorum: the model is unchanged")
    return "  ".join(parts)


def _pooled_line(pooled: Mapping[str, Any]) -> str:
    bound = pooled["auroc_resolution"]
    return (
        f"All their {pooled['n']} patches together: AUROC {_figure(pooled['auroc'])}"
        + ("" if bound is None else f" (to within {max(bound, 1e-4):.4f})")
        + f", ECE {_figure(pooled['ece_before'])} -> {_figure(pooled['ece'])}, Brier {_figure(pooled['brier'])}"
    )


def _calibration_line(summary: Mapping[str, Any]) -> str:
    own = summary.get("temperatures")
    if own:
        return "Temperatures: " + ", ".join(f"{name} {_figure(value)}" for name, value in sorted(own.items()))
    fit = summary.get("calibration")
    if not fit:
        return "Not calibrated: probabilities are the network's own"
    line = (
        f"Temperature {fit['temperature']:.3f} from {fit['patches']} validation patches: their NLL "
        f"{_figure(fit['nll_before'])} -> {_figure(fit['nll_after'])}"
    )
    why = {
        "lower": "; left alone, since the model separates them perfectly",
        "upper": "; the end of its range, since the model is no better than chance on them",
    }
    return line + why.get(fit.get("bound"), "")


def _privacy_lines(summary: Mapping[str, Any]) -> list[str]:
    """What `dp` guarantees, and how well a site's training patches can be told from its test patches."""
    lines = []
    spent = summary.get("privacy")
    if spent and spent["seeded"]:
        lines.append("NOT PRIVATE: the noise of `dp` came from the run's seed, which is for tests only")
    elif spent:
        lines.append(
            f"Privacy of a whole site: epsilon {spent['epsilon']:.3g} at delta {spent['delta']:g}; weights only"
        )
    told = {name: entry.get("membership") or {} for name, entry in summary["sites"].items()}
    known = {name: own for name, own in told.items() if own.get("auroc") is not None}
    if known:
        worst = max(known, key=lambda name: known[name]["auroc"])
        shown = format_interval(known[worst]["auroc"], known[worst]["auroc_ci"], few_groups=known[worst]["few_groups"])
        lines.append(f"Training patches told by their loss: AUROC at most {shown}, at {worst} (0.5 is chance)")
    return lines


def _failure_line(record: Mapping[str, Any], failure: Mapping[str, str]) -> str:
    return f"  round {record['round']}: site {failure['site']} failed: {failure['reason']}"


def _site_row(name: str, entry: Mapping[str, Any]) -> list[str]:
    return [
        name,
        str(entry["role"]).replace("_", "-"),
        f"{entry['n']} ({entry['n_groups']})",
        str(len(entry["supported_classes"])),
        _interval(entry),
        _figure(entry["balanced_accuracy"]),
        f"{_figure(entry.get('ece_before'))} -> {format_interval(entry['ece'], entry.get('ece_ci'))}",
        _figure(entry["brier"]),
    ]


def _interval(entry: Mapping[str, Any]) -> str:
    few = bool(entry.get("few_groups"))
    return format_interval(entry["auroc"], entry.get("auroc_ci"), few_groups=few)


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
