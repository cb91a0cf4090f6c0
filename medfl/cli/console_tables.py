"""The tables of the command line: what was measured at the sites, how a run ended, who has which patches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medfl.cli.terminal import Terminal
from medfl.config import Pipeline
from medfl.metrics import RATES, format_figure, format_interval
from medfl.metrics.figures import Place, SiteFigure, Style, figure, figures_at
from medfl.metrics.fit_words import fit_cautions, fit_name, fit_ways
from medfl.metrics.formatting import format_about, format_count, patch_words
from medfl.metrics.record_types import SiteResult
from medfl.metrics.site_signature import signature_sentence
from medfl.metrics.stability_figures import stability_at
from medfl.metrics.units import SHOWN, UNITS, shown_points, unit_notes, unit_sites, units_shown
from medfl.runs.adapted_figures import adaptation_sentences, adapted_tables
from medfl.runs.headline import headline
from medfl.runs.own_models import own_model_tables
from medfl.runs.registration import registration
from medfl.runs.subgroup_tables import subgroup_tables

Cell = Callable[[Mapping[str, Any]], str]


def print_sites(
    terminal: Terminal,
    sites: Mapping[str, Mapping[str, Any]],
    title: str = "Test data, measured once",
    counted: str = "n (groups)",
    shown: Collection[str] = (),
) -> None:
    """The per-site table: training sites first, held-out sites after them; `counted` heads the numbers of patches, and
    of the figures those `shown` stand there, or all."""
    rows_of_table = figures_at(Place.CONSOLE).items()
    columns = [_column(row, style) for row, style in rows_of_table if not shown or row.key in shown]
    order = sorted(sites, key=lambda name: (sites[name]["role"] != "train", name))
    rows = [
        [*_site_cells(name, sites[name], "(" in counted), *(cell(sites[name]) for _, cell in columns)] for name in order
    ]
    headings = ["site", "role", counted, "classes", *(heading for heading, _ in columns)]
    terminal.table(title, headings, rows)


def print_units(terminal: Terminal, summary: Mapping[str, Any]) -> None:
    """The same per slide and per patient, with their operating points; nothing where each patch is a patient."""
    for key in units_shown(summary["sites"]):
        sites, word = unit_sites(summary["sites"], key), UNITS[key]
        title = f"Per {word}, from the probabilities of its {patch_words(summary)}"
        print_sites(terminal, sites, title, key if key == "patients" else f"{key} (patients)", SHOWN)
        points = {name: {**entry, "operating": shown_points(entry)} for name, entry in sites.items()}
        _print_points(terminal, summary, points, f"Per {word}, held-out sites")
        terminal.say(*unit_notes(summary["sites"], key))


def print_subgroups(terminal: Terminal, summary: Mapping[str, Any]) -> None:
    """A table for each column of subgroups; nothing where no site tells of any."""
    for own in subgroup_tables(summary, summary["sites"]):
        terminal.table(own.title, own.headings, own.rows, keys=3)
        terminal.say(*own.sentences)


def _column(row: SiteFigure, style: Style) -> tuple[str, Cell]:
    """Heading and cell of a figure."""
    if style is Style.VALUE:
        return row.heading, row.format
    if style is Style.INTERVAL:
        return f"{row.heading} [95 %]", row.format_interval
    return (
        f"{row.heading} before -> after [95 %]",
        lambda entry: f"{row.format_before(entry)} -> {row.format_interval(entry)}",
    )


def _site_cells(name: str, entry: Mapping[str, Any], counted_twice: bool) -> list[str]:
    n, groups = entry["n"], entry["n_groups"]
    patches = f"{n} ({groups})" if counted_twice else str(n)
    return [name, str(entry["role"]).replace("_", "-"), patches, str(len(entry["supported_classes"]))]


def patch_heading(summary: Mapping[str, Any]) -> str:
    """Heading of the column of patches and their source groups."""
    words = patch_words(summary)
    return "n (groups)" if words == "patches" else f"{words} ({_group_words(words)})"


def _group_words(words: str) -> str:
    """What the source groups of these are called: slides and their tiles are of patients."""
    return "source groups" if words == "patches" else "patients"


def print_own_models(terminal: Terminal, sites: Mapping[str, SiteResult]) -> None:
    """AUROC of the further models that a method keeps at each site, beside the global one."""
    for title, headings, rows in own_model_tables(sites):
        terminal.table(title, headings, rows)


def print_adapted(terminal: Terminal, summary: Mapping[str, Any]) -> None:
    """Figures of the adapted model beside those of the plain one; nothing where no site was adapted."""
    for title, headings, rows in adapted_tables(summary["sites"]):
        terminal.table(title, headings, rows, keys=2)
    terminal.say(*adaptation_sentences(summary))


def print_operating_points(terminal: Terminal, summary: Mapping[str, Any]) -> None:
    """Sensitivity and specificity at held-out sites, at the thresholds chosen on validation data."""
    _print_points(terminal, summary, summary["sites"], "Held-out sites")


def _print_points(
    terminal: Terminal, summary: Mapping[str, Any], sites: Mapping[str, Mapping[str, Any]], what: str
) -> None:
    rows = [
        [
            name,
            target,
            format_figure(point["threshold"]),
            format_count(point["positives"]),
            format_count(point["negatives"]),
        ]
        + [format_interval(point[rate], point[f"{rate}_ci"]) for rate in RATES]
        for name, entry in sorted(sites.items())
        for target, point in (entry.get("operating") or {}).items()
        if entry["role"] == "held_out"
    ]
    if rows:
        wanted = summary["operating"]["sensitivity"] if summary.get("operating") else None
        purpose = f" for sensitivity {wanted:g}" if wanted else ""
        columns = ["site", "target", "threshold", "positive", "negative", *(f"{rate} [95 %]" for rate in RATES)]
        terminal.table(f"{what}, at thresholds from validation data{purpose}", columns, rows, keys=2)


def _withheld_lines(sites: Mapping[str, SiteResult]) -> Iterator[str]:
    """Which sites do not tell all because few patients stand behind it."""
    for name, entry in sorted(sites.items()):
        if note := entry.get("withheld"):
            what = "all figures" if note["all"] else ", ".join(note["classes"]) or "fields of the confusion matrix"
            yield f"{name} withholds, for fewer than {note['min_count']} patients: {what}"


def print_confusion(
    terminal: Terminal, site: str, matrix: Sequence[Sequence[int | None]], classes: Sequence[str]
) -> None:
    """A confusion matrix: truth down, prediction across."""
    rows = [[f"true {name}", *map(format_count, counts)] for name, counts in zip(classes, matrix, strict=True)]
    terminal.table(f"{site}: confusion", ["", *classes], rows)


def print_partition(
    terminal: Terminal, rows: Sequence[Mapping[str, Any]], classes: Sequence[str], words: str = "patches"
) -> None:
    """Patches (groups) per site, split and class; `words` is what patches are called."""
    cells: dict[tuple[str, str, str], dict[str, tuple[int, int]]] = {}
    for row in rows:
        place = (str(row["site"]), str(row["role"]), str(row["split"]))
        cells.setdefault(place, {})[str(row["class"])] = (int(row["patches"]), int(row["groups"]))
    table = []
    for (site, role, split), by_class in cells.items():
        counts = [by_class.get(name, (0, 0)) for name in classes]
        shown = [f"{patches} ({groups})" if patches else "-" for patches, groups in counts]
        total = f"{sum(p for p, _ in counts)} ({sum(g for _, g in counts)})"
        table.append([site, role.replace("_", "-"), split, *shown, total])
    title = f"{words.capitalize()} ({_group_words(words)})"
    terminal.table(title, ["site", "role", "split", *classes, "all"], table, keys=3)


def print_cross_sites(terminal: Terminal, matrix: Mapping[str, Mapping[str, float | None]]) -> None:
    """AUROC of every site's own model at every site: trained down, measured across."""
    columns = sorted({site for row in matrix.values() for site in row}, key=lambda site: (site not in matrix, site))
    rows = [[name, *(format_figure(row.get(site)) for site in columns)] for name, row in sorted(matrix.items())]
    terminal.table("AUROC, trained at / measured at", ["", *columns], rows)


def _registry(pipeline: Pipeline | None, folder: Path) -> tuple[dict[str, Any], str]:
    """What a pipeline asks of the registry, and where the run is in it."""
    registry = pipeline.registry.model_dump() if pipeline and pipeline.registry else {}
    return {"registry": registry}, registration(folder)


def print_outcome(
    terminal: Terminal, summary: Mapping[str, Any], folder: str, tracking: str, pipeline: Pipeline | None = None
) -> None:
    """The end of a run: tables, stability, and last, where the eye is, what the model misses and where things are."""
    title = f"Test data, measured once, model of round {summary['selected_round']}"
    print_sites(terminal, summary["sites"], title, patch_heading(summary))
    print_own_models(terminal, summary["sites"])
    if summary.get("cross_site_auroc"):
        print_cross_sites(terminal, summary["cross_site_auroc"])
    print_operating_points(terminal, summary)
    print_units(terminal, summary)
    print_subgroups(terminal, summary)
    if summary.get("adaptation"):
        print_adapted(terminal, summary)
    terminal.say(
        *_withheld_lines(summary["sites"]),
        _calibration_line(summary),
        *_privacy_lines(summary),
        _stability_line(summary),
        *([signature_sentence(summary["site_signature"])] if summary.get("site_signature") else []),
        *_caution_lines(summary),
        *_held_out_lines(summary),
    )
    first = headline(summary, *_registry(pipeline, Path(folder)))
    terminal.say("", first.sentence, *(f"{what}: {figures}" for what, figures in first.lines))
    terminal.say("", f"Run:    {folder}  ({summary['timings']['total']:.0f} s)", tracking)


def _held_out_lines(summary: Mapping[str, Any]) -> list[str]:
    held_out, lines = summary["held_out"], []
    if held_out["sites"]:
        lines.append(
            f"Held-out sites: mean AUROC {format_interval(held_out['mean_auroc'], held_out.get('mean_auroc_ci'))}, "
            f"worst {held_out['worst_site']} {format_figure(held_out['worst_auroc'])}, mean ECE "
            f"{format_figure(held_out.get('mean_ece_before'))} -> {format_figure(held_out['mean_ece'])}"
            + _noise_words(held_out)
        )
    for key in units_shown(summary["sites"]):
        if over := held_out.get(key):
            word = UNITS[key]
            mean = format_interval(over["mean_auroc"], over.get("mean_auroc_ci"))
            lines.append(
                f"Held-out sites, per {word}: mean AUROC {mean}, worst {over['worst_site']} "
                f"{format_figure(over['worst_auroc'])}, mean ECE {format_figure(over['mean_ece'])}"
            )
    pooled = (summary.get("pooled") or {}).get("held_out") or {}
    if pooled:
        lines.append(f"All their {pooled['n']} {patch_words(summary)} together: {_pooled_figures(pooled)}")
    for key in units_shown(summary["sites"]):
        if own := pooled.get(key):
            lines.append(f"All their {own['n']} {key} together: {_pooled_figures(own)}")
    return lines


def _pooled_figures(pooled: Mapping[str, Any]) -> str:
    """Figures from merged sums, in words."""
    bound, auroc = pooled["auroc_resolution"], pooled["auroc"]
    exact = f"{format_figure(auroc)} (to within {max(bound, 1e-4):.4f})" if bound is not None else format_about(auroc)
    changes = f"ECE {format_figure(pooled['ece_before'])} -> {format_figure(pooled['ece'])}"
    return f"AUROC {exact}, {changes}, Brier {format_figure(pooled['brier'])}"


def _noise_words(held_out: Mapping[str, Any]) -> str:
    """What of a mean ECE is noise, and the NLL beside it; nothing of a run that does not say."""
    if held_out.get("mean_ece_noise") is None:
        return ""
    debiased, noise, nll = (format_figure(held_out.get(f"mean_{key}")) for key in ("debiased_ece", "ece_noise", "nll"))
    return f" (debiased {debiased}, noise alone {noise}), mean NLL {nll}"


def _calibration_line(summary: Mapping[str, Any]) -> str:
    own = summary.get("temperatures")
    if fits := summary.get("calibrations"):
        return "; ".join(f"{name}: {fit_name(fit)}" for name, fit in sorted(fits.items()))
    if own:
        return "Temperatures: " + ", ".join(f"{name} {format_figure(value)}" for name, value in sorted(own.items()))
    fit = summary.get("calibration")
    if not fit:
        return "Not calibrated: probabilities are the network's own"
    line = (
        f"{fit_name(fit)} from {fit['patches']} validation patches{fit_ways(fit)}: their NLL "
        f"{format_figure(fit['nll_before'])} -> {format_figure(fit['nll_after'])}"
    )
    return "; ".join([line, *fit_cautions(fit)])


def _privacy_lines(summary: Mapping[str, Any]) -> list[str]:
    """What `dp` guarantees, and how well a site's training patches can be told from its test patches."""
    lines = []
    spent = summary.get("privacy")
    if spent and spent["seeded"]:
        lines.append("NOT PRIVATE: the noise of `dp` came from the run's seed, which is for tests only")
    elif spent and spent.get("unit") == "patient":
        lines.append(
            f"Privacy of each patient: epsilon {spent['epsilon']:.3g} at delta {spent['delta']:g}; updates only, and "
            "for leaving a patient out, not for replacing one"
        )
    elif spent:
        lines.append(
            f"Privacy of a whole site: epsilon {spent['epsilon']:.3g} at delta {spent['delta']:g}; weights only, and "
            "for leaving a site out, not for replacing it"
        )
    attacks = {name: entry.get("membership") or {} for name, entry in summary["sites"].items()}
    measured = {name: attack for name, attack in attacks.items() if attack.get("auroc") is not None}
    if measured:
        worst = max(measured, key=lambda name: measured[name]["auroc"])
        shown = figure("auroc").format_interval(measured[worst])
        lines.append(f"Training patches told by their loss: AUROC at most {shown}, at {worst} (0.5 is chance)")
    return lines


def _stability_line(summary: Mapping[str, Any]) -> str:
    figures = (f"{row.label} {format_figure(summary['stability'].get(row.key))}" for row in stability_at(Place.CONSOLE))
    return "Stability: " + ", ".join(figures)


def _caution_lines(summary: Mapping[str, Any]) -> list[str]:
    """What to keep in mind: leaky splits, the latest failures, that time was virtual."""
    lines = []
    if summary["leaky"]:
        lines.append("LEAKY: source groups were ignored; near-copies of test patches may have been trained on.")
    for failure in summary["failures"][-5:]:
        lines.append(f"Failed: site {failure['site']}, round {failure['round']}: {failure['reason']}")
    seconds = summary.get("virtual_seconds")
    if seconds is not None:
        lines.append(f"Virtual time: {seconds:.0f} s, if every site had the line that its file states")
    return lines
