"""docs/results.md, docs/results-statistics.md and docs/mitosis.md from the committed tables of runs.

uv run python -m benchmarks.claims            # rewrites the generated parts and the figures; trains nothing
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import designed, earlier, scanners
from benchmarks.pages import rewritten
from benchmarks.result_figures import draw
from benchmarks.tables import ROOT

SUMMARY = ROOT / "docs" / "results.md"
STATISTICS = ROOT / "docs" / "results-statistics.md"
SCANNERS = ROOT / "docs" / "mitosis.md"
PAGES: Mapping[Path, Mapping[str, Callable[[], str]]] = {
    SUMMARY: {
        "primary": lambda: "\n".join(map(designed.sentences, designed.FIRST)),
        "methods": lambda: "\n".join(map(designed.sentences, designed.LATER)),
    },
    STATISTICS: {
        "progress": designed.progress,
        "rates": designed.rates,
        **{name: lambda name=name: designed.tables(name) for name in designed.SETTINGS},  # type: ignore[misc]
        "patients": scanners.patients_table,
        "claims": earlier.claims_table,
        "auroc": lambda: earlier.means_table("verdict", "held_out_mean_auroc"),
        "worst": lambda: earlier.means_table("verdict", "held_out_worst_auroc"),
        "ece": lambda: earlier.means_table("verdict", "held_out_mean_ece"),
        "oscillation": lambda: earlier.means_table("verdict", "oscillation"),
        "earlier-rates": earlier.rates_table,
    },
    SCANNERS: {"reached": scanners.reached_table},
}


def main() -> None:
    """Rewrite the pages and draw the figures."""
    for page, parts in PAGES.items():
        page.write_text(rewritten(page.read_text(encoding="utf-8"), parts), encoding="utf-8")
        print(f"Written: {page}")
    draw()


if __name__ == "__main__":
    main()
