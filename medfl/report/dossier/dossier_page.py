"""The dossier's page: how much is not answered first, then what is it for, what it risks, what it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from medfl.report import provenance, results_sections
from medfl.report.dossier.checklist import ANSWERED, OPEN, PARTLY, AnsweredItem, Checklist, count, in_groups
from medfl.report.dossier.croissant import site_mpp
from medfl.report.dossier.dossier_answers import IN_ANSWERS, IN_SITE_FILE, QUESTIONS, SITE_QUESTIONS, Answers
from medfl.report.dossier.site_counts import SiteCounts
from medfl.report.html_blocks import (
    Cell,
    Tile,
    answer_list,
    folded,
    heading,
    join,
    links,
    table,
    text,
    tiles,
    unanswered,
)
from medfl.report.html_page import PageSection, render_page
from medfl.report.run_results import Evidence, role_word
from medfl.report.subgroup_section import by_subgroup
from medfl.runs.records import ALLOCATION

USE = ("intended_use", "users", "population", "out_of_scope", "instructions")
RISKS = ("risks", "biases", "risk_level", "input_quality", "maintenance")
BEFORE = (
    "This run is of before version 0.2: its files do not say whether they are what was written, and its summary may "
    "tell counts of few patients."
)
SIGNED = ("Prepared by", "Checked by", "Approved by")


def dossier_page(
    evidence: Evidence,
    answers: Answers,
    counts: Mapping[str, SiteCounts],
    checklists: Sequence[tuple[Checklist, Sequence[AnsweredItem]]],
    hashes: Sequence[tuple[str, str]],
) -> str:
    """The page as HTML.

    Args:
        checklists: the card, then the checklists, each with its answered items.
        hashes: (file of the run, SHA-256 or "" where it says nothing of itself).
    """
    summary = evidence.summary
    card, *others = checklists
    sections = (
        _overview(answers, checklists),
        PageSection("use", "Intended use and population", _questions(answers, USE)),
        results_sections.result(evidence),
        *([subgroups] if (subgroups := by_subgroup(evidence)) else []),
        PageSection("risks", "Risks", _questions(answers, RISKS)),
        *(_checklist(*made) for made in (card, *others)),
        _sites(evidence, answers, counts),
        _versions(evidence, hashes),
        _sign_off(),
    )
    return render_page(
        str(summary["pipeline"]),
        sections,
        kicker="medfl dossier",
        subtitle=evidence.description,
        facts=[
            provenance.chain(evidence),
            f"{len(evidence.of_role('train'))} training sites, {len(evidence.of_role('held_out'))} held out",
            f"run {summary.get('run', evidence.run.name)}",
        ],
        notice="" if "digests" in summary else BEFORE,
    )


def open_questions(answers: Answers) -> tuple[int, int]:
    """(how many questions nobody answered, how many there are), of the run and of all its sites."""
    at_sites = sum(answers.open_at(site) for site in answers.of_sites)
    mine = sum(answer is None for answer in answers.of_run.values())
    return mine + at_sites, len(answers.of_run) + len(SITE_QUESTIONS) * len(answers.of_sites)


def _share(missing: int, whole: int) -> str:
    words = f"{missing} of {whole}"
    return unanswered(words) if missing else words


def _overview(answers: Answers, checklists: Sequence[tuple[Checklist, Sequence[AnsweredItem]]]) -> PageSection:
    shown = []
    for checklist, items in checklists:
        partly = count(items, PARTLY)
        note = f"{partly} more in part" if partly else f"{count(items, ANSWERED)} answered"
        shown.append(Tile(f"{checklist.title}: items not answered", _share(count(items, OPEN), len(items)), note=note))
    missing, whole = open_questions(answers)
    shown.append(Tile("Questions that nobody answered", _share(missing, whole), note="of the run and of its sites"))
    words = (
        "What nobody answered stands as unanswered, in red. Answers are from the run, from the sites' files (about:) "
        "and from the file of --answers; medfl does not judge whether an answer is right."
    )
    return PageSection("overview", "What is not answered", join(tiles(shown), text(words)))


def _questions(answers: Answers, names: Sequence[str]) -> Markup:
    rows = [[QUESTIONS[name], _answer([(IN_ANSWERS, answers.of_run[name])])] for name in names]
    return table(["question", "answer"], rows, text=2)


def _answer(lines: Sequence[tuple[str, str | None]]) -> Markup:
    """A cell of (where an answer is from, the answer), in red where there is none."""
    return answer_list([(where, answer or unanswered(OPEN)) for where, answer in lines])


def _checklist(checklist: Checklist, items: Sequence[AnsweredItem]) -> PageSection:
    sections = list(dict.fromkeys(entry.item.section for entry in items))
    numbered = any(character.isdigit() for character in items[0].item.number)
    blocks = []
    for section in sections:
        rows: list[list[Cell]] = []
        for entry in (one for one in items if one.item.section == section):
            topic = f"{entry.item.number} {entry.item.topic}" if numbered else entry.item.topic
            rows.append([topic, _answer(in_groups(entry.lines))])
        blocks += [heading(section), table(["item", "answer"], rows, text=2)]
    lead = (
        f"{checklist.citation}. Topics are in medfl's words; under each answer stands where it is from. "
        f"The same as a table: {checklist.key}.{'md' if checklist.key == 'model_card' else 'csv'}."
    )
    return PageSection(checklist.key.replace("_", "-"), checklist.title, join(*blocks), lead)


def _sites(evidence: Evidence, answers: Answers, counts: Mapping[str, SiteCounts]) -> PageSection:
    blocks = []
    for site, role in evidence.roles.items():
        rows: list[list[Cell]] = []
        for name, question in SITE_QUESTIONS.items():
            answer, where = answers.of_sites[site][name] or (None, "")
            rows.append([question, _answer([(where, answer)])])
        mpp = site_mpp(evidence, site)
        rows.append(["Microns per pixel.", _answer([(IN_SITE_FILE, f"{mpp:g}" if mpp else None)])])
        rows.append(["Patches by split.", _answer([(ALLOCATION, counts[site].words())])])
        missing = answers.open_at(site) + (mpp is None)
        title = f"{site} ({role_word(role)}): {missing} of {len(SITE_QUESTIONS) + 1} not answered"
        blocks.append(folded(title, table(["question", "answer"], rows, text=2)))
    lead = (
        "One sheet a site, as Croissant JSON-LD in croissant/. No count stands on fewer source groups than the floor."
    )
    return PageSection("sites", "Data sheets", join(*blocks), lead)


def _versions(evidence: Evidence, hashes: Sequence[tuple[str, str]]) -> PageSection:
    software = [[name, str(value)] for name, value in (evidence.summary.get("versions") or {}).items()]
    rows: list[list[Cell]] = [[name, digest or unanswered("says nothing of itself")] for name, digest in hashes]
    blocks = [
        table(["software", "version"], software, text=2, stack=False),
        heading("Files of the run"),
        table(["file", "SHA-256"], rows, text=2),
        text(
            "SHA256SUMS holds the hashes of this folder's own files; sha256sum -c SHA256SUMS checks them, and so "
            "does medfl dossier FOLDER --verify, with the signature in SHA256SUMS.sig where there is one."
        ),
        heading("Cite"),
        links([provenance.paper_link(name, paper) for name, paper in evidence.run.papers.items()]),
    ]
    return PageSection("versions", "Versions and hashes", join(*blocks))


def _sign_off() -> PageSection:
    rows: list[list[Cell]] = [[who, "", "", ""] for who in SIGNED]
    return PageSection("sign-off", "Signatures", table(["", "name", "date", "signature"], rows, text=4))
