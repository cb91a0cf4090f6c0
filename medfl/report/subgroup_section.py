"""The section on subgroups, by the columns of the sites' tables that the pipeline names."""

from __future__ import annotations

from medfl.report.html_blocks import heading, join, table, text
from medfl.report.html_page import PageSection
from medfl.report.run_results import Evidence
from medfl.runs.subgroup_tables import subgroup_tables

LEAD = (
    "Test patches of one scanner, one sex, one bin of age. Intervals are 95\u00a0% over source groups, sensitivity and "
    "specificity those for what is malignant. Subgroups differ by chance alone, the more the smaller they are; where "
    "sites have different ones, means over sites differ by the sites too. A subgroup of few patients is withheld."
)


def by_subgroup(evidence: Evidence) -> PageSection | None:
    """A table for each column; absent where no site tells of subgroups."""
    tables = subgroup_tables(evidence.summary, evidence.measured)
    blocks = [
        block
        for own in tables
        for block in (
            heading(own.title),
            table(own.headings, own.rows, text=3),
            *(text(f"{sentence}.") for sentence in own.sentences),
        )
    ]
    return PageSection("subgroups", "Subgroups", join(*blocks), LEAD) if blocks else None
