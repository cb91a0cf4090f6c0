"""The dossier's files: made in memory, then written whole; what somebody changed in an earlier one is never lost."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfl.config.fields import NAME_PATTERN
from medfl.data.atomic_file import write_text
from medfl.errors import MedflError
from medfl.plain_text import visible
from medfl.report.dossier.card_text import card_text
from medfl.report.dossier.chai_card import CHAI_CARD
from medfl.report.dossier.checklist import OPEN, Material, answered, count, table_text
from medfl.report.dossier.claim import CLAIM
from medfl.report.dossier.croissant import data_sheet
from medfl.report.dossier.dossier_answers import Answers, answers_template, read_answers
from medfl.report.dossier.dossier_facts import dossier_facts
from medfl.report.dossier.dossier_page import dossier_page, open_questions
from medfl.report.dossier.filed_sums import SIGNATURE, SUMS, stated_sums
from medfl.report.dossier.site_counts import site_counts
from medfl.report.dossier.tripod_ai import TRIPOD_AI
from medfl.report.run_results import Evidence, read_evidence
from medfl.runs.digests import FILES, file_digest, reading
from medfl.runs.folder import RunFolder
from medfl.runs.model_facts import read_model_facts
from medfl.runs.records import MODEL, PIPELINE, SUMMARY, SiteData
from medfl.runs.redact import scrub

FOLDER, SHEETS = "dossier", "croissant"
RunCard = Callable[[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any], Mapping[str, SiteData]], str]
"""(summary, model.json, pipeline, data of the sites) -> the run's card in Markdown."""


@dataclass(frozen=True)
class Dossier:
    """What was written.

    Attributes:
        folder: where.
        open_items: title of a checklist -> (items not answered, items).
        open_questions: (questions that nobody answered, questions).
    """

    folder: Path
    open_items: Mapping[str, tuple[int, int]]
    open_questions: tuple[int, int]


def write_dossier(folder: Path, run_card: RunCard, out: Path | None = None, answers: Path | None = None) -> Dossier:
    """Write the dossier of a finished run; the same folder and answers give the same bytes.

    Args:
        folder: the run.
        run_card: writes the run's own card.
        out: where to; by default `dossier` in the run folder.
        answers: the file of answers.

    Raises:
        MedflError: no finished run, files that do not agree with each other, a wrong answer, a folder that holds
            something else or was changed since, or that cannot be written.
    """
    with reading(folder):
        evidence = _evidence(folder)
        given = read_answers(evidence, answers)
        files, open_items = _files(evidence, given, run_card)
    target = out or folder / FOLDER
    earlier = _earlier_files(target)
    sums = "".join(f"{hashlib.sha256(files[name].encode()).hexdigest()}  {name}\n" for name in sorted(files))
    try:
        (target / SHEETS).mkdir(parents=True, exist_ok=True)
        for stale in (target / SHEETS).glob("*.json"):
            if (name := f"{SHEETS}/{stale.name}") in earlier and name not in files:
                stale.unlink()
        (target / SIGNATURE).unlink(missing_ok=True)  # it was of the earlier files
        for name, content in (files | {SUMS: sums}).items():
            write_text(target / name, content)
    except OSError as error:
        raise MedflError(f"{target} cannot be written ({error.strerror}); name another folder with --out") from None
    return Dossier(target, open_items, open_questions(given))


def write_template(folder: Path, file: Path) -> None:
    """Write a commented file of answers for a finished run. Raises MedflError as `write_dossier`, and where there is a
    file of this name already."""
    with reading(folder):
        text = answers_template(_evidence(folder))
    if file.exists():
        raise MedflError(f"{file} exists already, and may hold answers; name another file with --template")
    try:
        write_text(file, text)
    except OSError as error:
        raise MedflError(f"{file} cannot be written ({error.strerror}); name another file with --template") from None


def _evidence(folder: Path) -> Evidence:
    """A finished run of which each file is what the others say."""
    evidence = read_evidence(folder)
    RunFolder(folder).check_pipeline()
    strange = next((name for name in evidence.roles if not re.fullmatch(NAME_PATTERN, name)), None)
    if strange is not None:  # it would name a file
        raise MedflError(f"{folder / PIPELINE} names a site {visible(strange)!r}, which is no name of a site")
    return evidence


def _files(
    evidence: Evidence, answers: Answers, run_card: RunCard
) -> tuple[dict[str, str], dict[str, tuple[int, int]]]:
    """Name in the dossier -> text; title of a checklist -> (items not answered, items)."""
    folder, summary = evidence.run.folder, evidence.summary
    counts = site_counts(evidence)
    material = Material(summary, evidence.pipeline, dossier_facts(evidence, counts), answers)
    made = [(checklist, answered(checklist, material)) for checklist in (CHAI_CARD, TRIPOD_AI, CLAIM)]
    (_, card), *checklists = made
    own = run_card(summary, scrub(read_model_facts(folder / MODEL)), evidence.pipeline, evidence.run.data)
    files = {
        "index.html": dossier_page(evidence, answers, counts, made, _hashes(evidence)),
        "model_card.md": card_text(str(summary["pipeline"]), card, own),
        **{f"{checklist.key}.csv": table_text(items) for checklist, items in checklists},
        SUMMARY: json.dumps(summary, indent=2) + "\n",
        **{f"{SHEETS}/{site}.json": data_sheet(evidence, site, counts[site], answers) for site in evidence.roles},
    }
    return files, {checklist.title: (count(items, OPEN), len(items)) for checklist, items in made}


def _hashes(evidence: Evidence) -> list[tuple[str, str]]:
    """(file of the run, SHA-256); "" where summary.json says nothing of it, as before version 0.2."""
    folder, sealed = evidence.run.folder, "digests" in evidence.summary
    names = [name for name in (PIPELINE, SUMMARY, *FILES) if (folder / name).is_file()]
    return [(name, file_digest(folder / name) if sealed or name == PIPELINE else "") for name in names]


def _earlier_files(target: Path) -> set[str]:
    """Names of the files that an earlier dossier in a folder consists of. Raises MedflError where writing would lose
    what is there: no dossier, or one that somebody changed."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return set()
    if not (target / SUMS).is_file():
        raise MedflError(f"{target} is there already and holds no dossier; name another folder with --out")
    sums = stated_sums(target)
    try:
        present = [path for path in (*target.glob("*"), *(target / SHEETS).glob("*.json")) if path.is_file()]
        names = {path.relative_to(target).as_posix(): path for path in present}
        changed = [name for name, path in names.items() if name in sums and file_digest(path) != sums[name]]
    except (OSError, ValueError) as error:
        raise MedflError(f"{target} cannot be read ({error}); name another folder with --out") from None
    if changed:
        raise MedflError(
            f"{target} was changed since it was written ({', '.join(sorted(changed))}); move it away, or name another "
            "folder with --out"
        )
    return names.keys() & sums.keys()
