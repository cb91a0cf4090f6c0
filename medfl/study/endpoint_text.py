"""The answers of a study as sentences and tables, the same on a terminal, in tables.md and in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medfl.metrics import format_bounds, format_mean
from medfl.study.endpoint_results import PRIMARY, SECONDARY
from medfl.study.inference import LEVEL
from medfl.study.run_figures import figure_title
from medfl.study.statistics import ENOUGH_REPEATS
from medfl.study.text_table import TextTable

SECONDARY_SAID = "Everything else is secondary: not adjusted for its number, it suggests and decides nothing."
ALL_SECONDARY = "Secondary throughout: not adjusted for its number, it suggests and decides nothing."
COLUMNS = (
    "method",
    "against",
    "figure",
    "n",
    "difference or ratio [95 %]",
    "margin",
    "[90 %]",
    "p",
    "verdict",
    "strata",
)


def endpoint_sentences(study: Mapping[str, Any]) -> list[str]:
    """A sentence for every primary question, and one on what is not primary; nothing where a study asks nothing."""
    entries = study.get("endpoints") or []
    said = [_sentence(entry, study) for entry in entries if entry["rank"] == PRIMARY]
    return [*said, SECONDARY_SAID if said else ALL_SECONDARY] if entries else []


def has_primary(study: Mapping[str, Any]) -> bool:
    """Whether a study asks anything that is adjusted for its number."""
    return any(entry["rank"] == PRIMARY for entry in study.get("endpoints") or [])


def endpoint_tables(study: Mapping[str, Any]) -> list[TextTable]:
    """What a grid chose; the primary answers, the secondary ones, and by stratum the primary ones, or all of a study
    that is secondary throughout."""
    entries = study.get("endpoints") or []
    tuned = [TextTable(**study["tuned"])] if study.get("tuned") else []
    by_rank = {rank: [entry for entry in entries if entry["rank"] == rank] for rank in (PRIMARY, SECONDARY)}
    title = {
        PRIMARY: f"primary endpoints, p adjusted for {len(by_rank[PRIMARY])} (Holm)",
        SECONDARY: "secondary endpoints, not adjusted",
    }
    shown = [TextTable(title[rank], COLUMNS, [_row(entry) for entry in its]) for rank, its in by_rank.items() if its]
    rank = PRIMARY if by_rank[PRIMARY] else SECONDARY
    strata = list(dict.fromkeys(name for entry in by_rank[rank] for name in entry["strata"]))
    if len(strata) > 1:
        rows = [[*_names(entry), *(_cell(entry, name) for name in strata)] for entry in by_rank[rank]]
        shown.append(TextTable(f"{rank} endpoints by stratum [95 %]", ["method", "against", "figure", *strata], rows))
    return tuned + shown


def _sentence(entry: Mapping[str, Any], study: Mapping[str, Any]) -> str:
    about = f"Primary: {entry['method']} against {entry['against']}, {figure_title(entry['figure'])}"
    if entry["open_runs"]:
        return f"{about}: undecided, {entry['open_runs']} runs are still to be done."
    unit = study["unit"] if entry["n"] == 1 else f"{study['unit']}s"
    if entry["n"] < ENOUGH_REPEATS:
        return f"{about}: undecided with {entry['n']} distinct {unit}; {ENOUGH_REPEATS} are needed."
    p, kind = entry["p_holm"], "ratio" if entry["scale"] == "log" else "difference"
    strata = f" of {len(study['pooled'])} strata" if len(study["pooled"]) > 1 else ""
    what = f"{kind} {_estimate(entry)}, {entry['test']} p {format_p(p)} (Holm), {entry['n']} {unit}{strata}"
    within = f" within {_margin(entry)}" if entry["word"] == "equivalent" else ""
    beside = "" if entry["of_the_stated_test"] or entry["word"] == "undecided" else ", by a test beside the stated one"
    between = entry["interaction"]
    differs = f" It differs between strata (p {format_p(between['p'])})." if between and between["p"] <= LEVEL else ""
    return f"{about}: {entry['word']}{within}{beside} ({what}).{differs}"


def _row(entry: Mapping[str, Any]) -> list[str]:
    p = entry["p"] if entry["p_holm"] is None else entry["p_holm"]
    between = entry["interaction"]
    word = entry["word"] + ("" if entry["of_the_stated_test"] or entry["word"] == "undecided" else " (beside)")
    lost = f" ({entry['without_figure']} without)" if entry["without_figure"] else ""
    return [
        *_names(entry),
        f"{entry['n']}{lost}",
        _estimate(entry),
        _margin(entry),
        "-" if entry["ci90"] is None else format_bounds(entry["ci90"], _form(entry)),
        f"{format_p(p)} {entry['test']}",
        word,
        "-" if between is None else f"differ, p {format_p(between['p'])}" if between["p"] <= LEVEL else "alike",
    ]


def _names(entry: Mapping[str, Any]) -> list[str]:
    return [entry["method"], entry["against"], figure_title(entry["figure"])]


def _cell(entry: Mapping[str, Any], stratum: str) -> str:
    cell = entry["strata"].get(stratum)
    return format_mean(cell["estimate"], cell["ci"], _form(entry)) if cell else "-"


def _estimate(entry: Mapping[str, Any]) -> str:
    return format_mean(entry["estimate"], entry["ci"], _form(entry))


def _form(entry: Mapping[str, Any]) -> str:
    return ".3f" if entry["scale"] == "log" else "+.4f"


def _margin(entry: Mapping[str, Any]) -> str:
    if entry["margin"] is None:
        return "-"
    return f"{1 / entry['margin']:.3g} to {entry['margin']:g}" if entry["scale"] == "log" else f"±{entry['margin']:g}"


def format_p(p: float | None) -> str:
    """A p with three digits: `0.042`, `<0.001`, `-`."""
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def design_sentences(study: Mapping[str, Any]) -> Sequence[str]:
    """On which page the study was designed, and whether it is the one that the runs were carried out under."""
    design = study.get("design")
    if not design:
        return ()
    said = [f"Designed beforehand in {design['file']}, sha256 {design['sha256']}."]
    others = {digest: count for digest, count in design["runs"].items() if digest != design["sha256"]}
    if others:
        counts = ", ".join(
            f"{count} under {digest[:12]}" if digest else f"{count} under none" for digest, count in others.items()
        )
        said.append(f"CHANGED SINCE: {counts}, of {sum(design['runs'].values())} runs; these are not of this design.")
    return said
