"""The report of a study: what its tables say, what they do not, and where the page is written."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from medfl.errors import MedflError
from medfl.methods.core.registry import citations
from medfl.metrics.formatting import MISSING
from medfl.report.html_blocks import Tint, heading, heat_map, join, legend, links, notes, table, text
from medfl.report.html_page import PageSection, render_page
from medfl.report.limitations import several
from medfl.report.provenance import FEDAVG, TEMPERATURE, paper_link
from medfl.study.endpoint_text import (
    SECONDARY_SAID,
    design_sentences,
    endpoint_sentences,
    endpoint_tables,
    has_primary,
)
from medfl.study.report.partition_chapter import chapter
from medfl.study.report.study_limitations import disagreement, study_limits
from medfl.study.report.study_results import StudyEvidence, read_study
from medfl.study.run_figures import figure_title
from medfl.study.statistics import ENOUGH_REPEATS
from medfl.study.study_file import ALL, PLAIN
from medfl.study.text_tables import headline

STATISTICS = (("Rank-biserial correlation: D. Kerby 2014", "https://doi.org/10.2466/11.IT.3.1"),)
TINTED = 0.55
"""Depth of colour where an interval leaves out zero."""
MACHINE = ("medfl", "torch", "timm", "device", "threads")


def study_html(folder: Path) -> str:
    """The page of a study; a function of study.json and the three tables.

    Raises:
        MedflError: no study.json yet, or a damaged file.
    """
    evidence = read_study(folder)
    chapters = [
        chapter(evidence, name, f"partition-{index}") for index, name in enumerate(evidence.partitions, start=1)
    ]
    return render_page(
        str(evidence.study["name"]),
        [_result(evidence), *chapters, _methods(evidence), _record(evidence)],
        kicker="medfl study",
        subtitle=evidence.study["description"],
        facts=_facts(evidence),
        notice=" ".join([*headline({**evidence.study, "partitions": {}}), disagreement(evidence)]).strip(),
    )


def write_study_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page and return where: `out`, or report.html in the study folder.

    Raises:
        MedflError: as `study_html`, or the file cannot be written.
    """
    from medfl.data.atomic_file import write_text

    target = out or folder / "report.html"
    try:
        write_text(target, study_html(folder))
    except OSError as error:
        raise MedflError(f"{target} cannot be written ({error.strerror}); name another file with --out") from None
    return target


def _facts(evidence: StudyEvidence) -> list[str]:
    study, brackets = evidence.study, sum(map(evidence.is_bracket, evidence.methods))
    design = study["design"]
    methods = _count(len(evidence.methods) - brackets, "method")
    return [
        f"{methods} and {_count(brackets, 'bracket')}" if brackets else methods,
        _count(len(evidence.seeds), "seed"),
        _count(sum(name != ALL for name in evidence.partitions), "partition"),
        *(["every training site left out in turn"] if study.get("leave_one_site_out") else []),
        f"{study['done']} of {study['planned']} runs done",
        f"compared with {evidence.reference}",
        *([f"designed beforehand: {design['file']}, sha256 {design['sha256'][:12]}"] if design else []),
    ]


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _result(evidence: StudyEvidence) -> PageSection:
    """The study in sentences, the differences at a glance, and what it does not show."""
    said, tables = endpoint_sentences(evidence.study), endpoint_tables(evidence.study)
    blocks = [text(*said)] if said else []
    for shown in tables:
        blocks += [heading(shown.title[0].upper() + shown.title[1:]), table(shown.columns, shown.rows, text=3)]
    blocks += [heading("Partition by partition")] if said else []
    blocks += [text(SECONDARY_SAID)] if has_primary(evidence.study) else []
    blocks.append(text(*(list(sentences(evidence)) or ["No run is done yet."])))
    glance = _glance(evidence)
    if glance:
        blocks += [heading(f"Difference to {evidence.reference} at a glance: {figure_title(evidence.figure)}"), *glance]
    return PageSection(
        "result", "Result", join(*blocks, notes("What this study does not show", study_limits(evidence)))
    )


def sentences(evidence: StudyEvidence) -> Iterator[str]:
    """A paragraph a partition: the highest, and which differences are told from nothing."""
    calm = {**evidence.study, "one_seed": False, "done": evidence.study["planned"]}
    for name, partition in evidence.partitions.items():
        highest = headline({**calm, "partitions": {name: partition}})
        verdict = _verdict(evidence, partition)
        if name == ALL and verdict:
            yield f"{ALL.capitalize()}: {verdict}"
        elif highest:
            said = " ".join(part for part in (*highest, verdict, _lowest(evidence, name)) if part)
            said = said.removeprefix(f"{PLAIN}: ")  # of a study that names no partition
            yield said[0].upper() + said[1:] if name == PLAIN else said


def _lowest(evidence: StudyEvidence, name: str) -> str:
    """The lowest figure at an unseen site, of all seeds, for the reference."""
    sites = evidence.unseen(name, evidence.reference) if name != ALL else {}
    lowest = {site: min(unseen.auroc.values()) for site, unseen in sites.items() if unseen.auroc}
    if len(lowest) < 2:
        return ""
    site = min(lowest, key=lambda site: lowest[site])
    mean, seeds = sites[site].mean, len(sites[site].auroc)
    over = f" (mean of its {seeds} seeds {mean:.3f})" if seeds > 1 else ""
    return f"The lowest AUROC at a site left out was {lowest[site]:.3f}, at {site} with {evidence.reference}{over}."


def _verdict(evidence: StudyEvidence, partition: Mapping[str, Any]) -> str:
    """Where the intervals of the differences lie; nothing where there are none."""
    moved = {
        name: partition["comparisons"][name]["difference"]
        for name in evidence.compared
        if name in partition["comparisons"]
    }
    ends = {name: mean["ci"] for name, mean in moved.items() if mean["ci"] and mean["n"] >= ENOUGH_REPEATS}
    if not ends:
        return ""
    above = [name for name, (low, _) in ends.items() if low > 0]
    below = [name for name, (_, high) in ends.items() if high < 0]
    sides = [f"{side} zero for {several(names)}" for side, names in (("above", above), ("below", below)) if names]
    others = len(ends) - len(above) - len(below)
    if not sides:
        return f"Against {evidence.reference}, the interval of the difference includes zero for {several(list(ends))}."
    rest = f"; it includes zero for {others} of {len(ends)}" if others else ""
    return f"Against {evidence.reference}, the interval of the difference lies {' and '.join(sides)}{rest}."


def _glance(evidence: StudyEvidence) -> list[Markup]:
    """Methods by partitions; nothing to say of one partition, whose chapter says it."""
    parts = {name: part["comparisons"] for name, part in evidence.partitions.items() if part["comparisons"]}
    if len(parts) < 2:
        return []
    names = [name for name in evidence.methods if any(name in comparisons for comparisons in parts.values())]
    rows = [(name, [_cell(comparisons.get(name)) for comparisons in parts.values()]) for name in names]
    repeats = evidence.most_units >= ENOUGH_REPEATS
    key = (
        [legend([("box", "heat", "the 95\u00a0% interval leaves out zero: ▲ above it, ▼ below it")])] if repeats else []
    )
    return [*key, heat_map(["method", *parts], rows)]


def _cell(entry: Mapping[str, Any] | None) -> Tint:
    mean = entry["difference"]["mean"] if entry else None
    if entry is None or mean is None:
        return Tint(MISSING, None)
    ends = entry["difference"]["ci"]
    enough = entry["difference"]["n"] >= ENOUGH_REPEATS
    decided = enough and ends is not None and (ends[0] > 0 or ends[1] < 0)
    mark = ("▲\u00a0" if mean > 0 else "▼\u00a0") if decided else ""
    return Tint(f"{mark}{mean:+.3f}", TINTED if decided else 0.0)


def _methods(evidence: StudyEvidence) -> PageSection:
    """What each name stands for."""
    rows = []
    for name, links_ in evidence.methods.items():
        role = "reference" if name == evidence.reference else "bracket" if evidence.is_bracket(name) else ""
        rows.append([name, chain(links_), role, str(len(evidence.runs_of(ALL, name)))])
    lead = (
        "The chain of each method, with the parameters that the study file states; the settings that go with it are in "
        "the study file."
    )
    return PageSection("methods", "Methods", table(["method", "chain", "role", "runs done"], rows, text=3), lead)


def chain(links_: Sequence[Any]) -> str:
    """A chain as a study file states it: `ecgr (select random) + fedprox`; the empty one is FedAvg."""
    words = []
    for link in links_:
        name = link if isinstance(link, str) else str(link["name"])
        parameters = [] if isinstance(link, str) else [f"{k} {v}" for k, v in link.items() if k != "name"]
        words.append(f"{name} ({', '.join(parameters)})" if parameters else name)
    return " + ".join(words) or "FedAvg"


def _record(evidence: StudyEvidence) -> PageSection:
    """What failed, what the runs were carried out with, and whom to cite."""
    failed = evidence.study["failed"]
    blocks = [heading("Failed runs")]
    if failed:
        blocks.append(table(["run", "why"], [[title, why] for title, why in failed.items()], text=2))
        blocks.append(text("They count nowhere. The next start of the study tries them again."))
    else:
        blocks.append(text("None."))
    machines = Counter(tuple(row.get(column, "") for column in MACHINE) for row in evidence.runs)
    if machines:
        rows = [[*values, str(count)] for values, count in sorted(machines.items())]
        blocks += [heading("Versions and devices"), table([*MACHINE, "runs"], rows, text=len(MACHINE))]
    dealt = sorted({digest for digests in evidence.deals.values() for digest in digests})
    if dealt:
        whole = hashlib.sha256("\n".join(dealt).encode()).hexdigest()[:12]
        one = f"Data digest {dealt[0]}." if len(dealt) == 1 else f"{len(dealt)} deals of the data, together {whole}."
        blocks += [heading("Data"), text(f"{one} A digest is of who held which patches; runs.csv has it by run.")]
    if designed := design_sentences(evidence.study):
        blocks += [heading("Design"), text(*designed)]
    blocks += [heading("Cite"), links(list(_citations(evidence)))]
    return PageSection("record", "Record and citations", join(*blocks))


def _citations(evidence: StudyEvidence) -> Iterator[tuple[str, str]]:
    """(text, address) of the methods' papers, of calibration and of the statistics."""
    names = [
        link if isinstance(link, str) else str(link["name"]) for links_ in evidence.methods.values() for link in links_
    ]
    papers = {"FedAvg": FEDAVG} if any(not evidence.is_bracket(name) for name in evidence.methods) else {}
    papers |= citations(names)
    if any(row.get("temperature") for row in evidence.runs):
        papers["Temperature scaling"] = TEMPERATURE
    yield from (paper_link(name, paper) for name, paper in papers.items())
    if any(partition["comparisons"] for partition in evidence.partitions.values()):
        yield from STATISTICS
