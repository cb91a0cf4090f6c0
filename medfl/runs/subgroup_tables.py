"""What the console, the report and the model card show of subgroups: a table for each column, and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medfl.metrics import RATES, format_figure, format_interval
from medfl.metrics.figures import figure
from medfl.metrics.formatting import format_about, patch_words
from medfl.metrics.subgroups import columns_in, malignant_rates, site_differences, subgroup_sites, subgroup_values
from medfl.runs.verdict import ROLES

OVER = {"held_out": "held-out", "train": "train"}
SECTIONS = {"held_out": "held_out", "train": "train_sites"}
"""Role of sites -> where `summary.json` has the figures over them."""
WORDS = {"auroc": "AUROC", "sensitivity": "sensitivity"}


@dataclass(frozen=True)
class SubgroupTable:
    """One column of the sites' tables: what was measured of each of its values at each site and over sites.

    Attributes:
        column: its name.
        headings, rows: of the table; the first three cells of a row are words.
        sentences: what is to be said of it.
    """

    column: str
    headings: list[str]
    rows: list[list[str]]
    sentences: list[str]

    @property
    def title(self) -> str:
        """What stands above it."""
        return f"By {self.column}"


def subgroup_tables(summary: Mapping[str, Any], sites: Mapping[str, Mapping[str, Any]]) -> list[SubgroupTable]:
    """The tables of a result; none where no site tells figures of subgroups.

    Args:
        summary: `summary.json`, or the result of `medfl evaluate`.
        sites: those of its sites that are shown; with one alone nothing is told of others.
    """
    alone = len(summary["sites"]) > len(sites) or len(sites) == 1
    return [_table(summary, sites, column, alone) for column in columns_in(sites)]


def _table(
    summary: Mapping[str, Any], sites: Mapping[str, Mapping[str, Any]], column: str, alone: bool
) -> SubgroupTable:
    words = patch_words(summary)
    headings = ["subgroup", "site", "role", f"{words} (groups)", "AUROC [95 %]", "ECE", "debiased"]
    headings += [f"{rate} [95 %]" for rate in RATES]
    rows = []
    for value in subgroup_values(sites, column):
        entries = subgroup_sites(sites, column, value)
        rows += [_site_row(value, name, entry) for name, entry in entries.items()]
        rows += [] if alone else list(_rows_over(summary, column, value))
    return SubgroupTable(column, headings, rows, list(_sentences(summary, sites, column, alone)))


def _site_row(value: str, name: str, entry: Mapping[str, Any]) -> list[str]:
    auroc, ece, debiased = map(figure, ("auroc", "ece", "debiased_ece"))
    point = malignant_rates(entry)
    rates = [format_interval(point[rate], point[f"{rate}_ci"]) for rate in RATES]
    counts = f"{entry['n']} ({entry['n_groups']})"
    cells = [auroc.format_interval(entry), ece.format(entry), debiased.format(entry), *rates]
    return [value, name, OVER[entry["role"]], counts, *cells]


def _rows_over(summary: Mapping[str, Any], column: str, value: str) -> Iterator[list[str]]:
    """The mean over the sites of each role, where there are several, and all their patches together."""
    for role, section in SECTIONS.items():
        over = ((summary.get(section) or {}).get("subgroups") or {}).get(column, {}).get("values", {}).get(value)
        if not over or len(over["sites"]) < 2:
            continue
        counts = f"{over['n']} ({over['n_groups']})"
        mean = format_interval(over["mean_auroc"], over["mean_auroc_ci"])
        figures = [over["mean_ece"], over["mean_debiased_ece"], *(over[f"mean_{rate}"] for rate in RATES)]
        yield [value, f"mean of {len(over['sites'])}", OVER[role], counts, mean, *map(format_figure, figures)]
        merged = (((summary.get("pooled") or {}).get(role) or {}).get("subgroups") or {}).get(column, {}).get(value)
        if merged and len(merged["sites"]) > 1:
            shown = format_about if merged["auroc_resolution"] is None else format_figure
            figures = [merged["ece"], merged["debiased_ece"], *(merged.get(rate) for rate in RATES)]
            cells = [shown(merged["auroc"]), *map(format_figure, figures[:2]), *map(shown, figures[2:])]
            yield [value, f"all of {len(merged['sites'])}", OVER[role], str(merged["n"]), *cells]


def _sentences(
    summary: Mapping[str, Any], sites: Mapping[str, Mapping[str, Any]], column: str, alone: bool
) -> Iterator[str]:
    if alone:
        for name, entry in sites.items():
            if text := _apart(site_differences(entry, column)):
                yield f"Between the subgroups of {name}: {text}"
    else:
        for role, section in SECTIONS.items():
            over = ((summary.get(section) or {}).get("subgroups") or {}).get(column) or {}
            if text := _apart(over.get("difference") or {}):
                inside = _apart(over.get("at_one_site") or {})
                within = f"; within one site at most {inside}" if inside else ""
                yield f"By {column}, means of the {ROLES[role]} sites: {text}{within}"
    whole = [name for name, entry in sites.items() if (entry.get("withheld") or {}).get("all")]
    untold = {name for name, entry in sites.items() if column not in (entry.get("subgroups") or {})}
    if silent := sorted(untold - set(whole)):
        yield f"{column} is not stated at {', '.join(silent)}"
    if whole:
        yield f"Whether {column} is stated is withheld with all figures at {', '.join(sorted(whole))}"
    if hidden := [name for name, entry in sites.items() if _withheld(entry, column)]:
        yield f"Subgroups of {column} with few patients are withheld at {', '.join(hidden)}"


def _withheld(entry: Mapping[str, Any], column: str) -> int:
    count: int = ((entry.get("subgroups") or {}).get(column) or {}).get("withheld", 0)
    return count


def _apart(differences: Mapping[str, Mapping[str, Any] | None]) -> str:
    """Differences between subgroups in words, "" of none."""
    parts = []
    for key, own in differences.items():
        if own is not None:
            where = f" at {own['site']}" if "site" in own else ""
            which = f" ({own['largest']} over {own['smallest']}{where})" if own["value"] else ""
            parts.append(f"{WORDS[key]} {format_figure(own['value'])} apart{which}")
    return ", ".join(parts)
