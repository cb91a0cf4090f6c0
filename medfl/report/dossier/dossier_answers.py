"""The answers that no run can know: one YAML file, its commented template, and what sites say `about` their data."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from medfl.config import ConfigSection, PublicText, SiteAbout
from medfl.config.yaml_file import read_mapping, validate
from medfl.errors import MedflError, nearest
from medfl.report.run_results import Evidence

KIND = "answers"
IN_ANSWERS, IN_SITE_FILE = "answers", "site file"


class DossierAnswers(ConfigSection):
    """The file of answers; each description is the question that its template asks."""

    developer: PublicText = Field(None, description="Who made the model and answers for it.")
    contact: PublicText = Field(None, description="Where to ask, and to report a problem: an office, no person.")
    release_stage: PublicText = Field(None, description="Research, pilot, in use, withdrawn.")
    release_date: PublicText = Field(None, description="Date of this release.")
    release_version: PublicText = Field(None, description="Version under which it is filed.")
    availability: PublicText = Field(None, description="Where and for whom the model can be had, and on what terms.")
    compatibility: PublicText = Field(None, description="Systems it works with: viewer, laboratory or record system.")
    regulatory: PublicText = Field(None, description="Regulatory clearance, or that there is none.")
    keywords: PublicText = Field(None, description="Keywords.")

    summary: PublicText = Field(None, description="Abstract: design, methods, results, conclusions.")
    background: PublicText = Field(None, description="Clinical problem, rationale, models that exist already.")
    inequalities: PublicText = Field(None, description="Known health inequalities between groups of patients here.")
    objectives: PublicText = Field(None, description="Aims and hypotheses; development, evaluation or both.")
    design: PublicText = Field(None, description="Prospective or retrospective.")

    intended_use: PublicText = Field(None, description="What the model is for, and where in the care pathway.")
    users: PublicText = Field(None, description="Who is to use it, and what they must know.")
    instructions: PublicText = Field(None, description="How it is used, and who handles its input.")
    population: PublicText = Field(None, description="Patients and specimens it is meant for.")
    out_of_scope: PublicText = Field(None, description="Settings and uses it is not meant for.")
    risks: PublicText = Field(None, description="Known risks to patients, and what limits them.")
    biases: PublicText = Field(None, description="Known biases and ethical considerations.")
    risk_level: PublicText = Field(None, description="Clinical risk level, and by which rule.")

    data_choice: PublicText = Field(None, description="Why these data: how they were selected, whom they represent.")
    treatments: PublicText = Field(None, description="Treatments before the specimen, and how they were handled.")
    reference_standard: PublicText = Field(None, description="What counts as the truth, by what method, and why that.")
    blinding: PublicText = Field(None, description="What annotators and readers did not see.")
    agreement: PublicText = Field(None, description="Agreement between and within annotators.")
    exclusions: PublicText = Field(None, description="How many patients were left out, at which step, and why.")
    missing_data: PublicText = Field(None, description="What was missing, and how that was handled.")
    deidentification: PublicText = Field(None, description="How the data were de-identified at their sites.")
    characteristics: PublicText = Field(None, description="Age, sex and disease of patients, by site and split.")
    differences: PublicText = Field(None, description="How evaluation data differ from those of development.")
    sample_size: PublicText = Field(None, description="How the number of patients was arrived at, and why it suffices.")

    model_choice: PublicText = Field(None, description="Why this kind of model; how its settings were tuned.")
    imbalance: PublicText = Field(None, description="What was done about rare classes, and why.")
    fairness: PublicText = Field(None, description="What was done for fairness between groups, and why.")
    thresholds: PublicText = Field(None, description="Why this operating point: what a miss and an alarm cost.")
    robustness: PublicText = Field(None, description="Robustness or sensitivity analyses, and what they showed.")
    explainability: PublicText = Field(None, description="How an output can be explained, and whether that was tested.")
    subgroups: PublicText = Field(None, description="Results by age, sex, scanner or other groups.")
    usefulness_goal: PublicText = Field(None, description="Usefulness: what was to be reached, and why that figure.")
    fairness_goal: PublicText = Field(None, description="Fairness: what was to be reached, and why that figure.")
    fairness_result: PublicText = Field(None, description="Fairness: what the figures say of it.")
    safety_goal: PublicText = Field(None, description="Safety and reliability: what was to be reached, and why.")
    safety_result: PublicText = Field(None, description="Safety and reliability: what the figures say of it.")
    interpretation: PublicText = Field(None, description="What the results mean, beside earlier studies.")

    input_quality: PublicText = Field(None, description="How bad or missing input is recognised and handled.")
    maintenance: PublicText = Field(None, description="Who watches the model in use, how, and when it is stopped.")
    security: PublicText = Field(None, description="Security practice and accreditation where it runs.")
    next_steps: PublicText = Field(None, description="What has to be shown next.")

    funding: PublicText = Field(None, description="Who paid, and what part they had.")
    third_parties: PublicText = Field(None, description="Parts made by others, and their terms.")
    conflicts: PublicText = Field(None, description="Conflicts of interest.")
    protocol: PublicText = Field(None, description="Where the study protocol is, or that there is none.")
    registration: PublicText = Field(None, description="Trial register and number, or that it is not registered.")
    data_sharing: PublicText = Field(None, description="Whether and how the data can be had.")
    code_sharing: PublicText = Field(None, description="Whether and how code and model can be had.")
    stakeholders: PublicText = Field(None, description="Who was consulted: patients, clinicians, laboratories.")
    involvement: PublicText = Field(None, description="Part of patients and the public in the study, or none.")
    evaluation_references: PublicText = Field(None, description="Evaluations by others.")
    publications: PublicText = Field(None, description="Peer-reviewed publications.")
    reimbursement: PublicText = Field(None, description="Reimbursement.")
    patient_disclosure: PublicText = Field(None, description="Whether patients are asked or told that it is used.")

    sites: dict[str, SiteAbout] = Field(
        {}, description="Site by site what its own file left open; an answer here replaces the file's."
    )


QUESTIONS = {name: str(field.description) for name, field in DossierAnswers.model_fields.items() if name != "sites"}
SITE_QUESTIONS = {name: str(field.description) for name, field in SiteAbout.model_fields.items()}


@dataclass(frozen=True)
class Answers:
    """All answers to the questions of a dossier.

    Attributes:
        of_run: question -> answer, None where nobody answered.
        of_sites: site -> question -> (answer, where it was given), None where nobody answered.
    """

    of_run: Mapping[str, str | None]
    of_sites: Mapping[str, Mapping[str, tuple[str, str] | None]]

    def open_at(self, site: str) -> int:
        """How many questions about a site's data nobody answered."""
        return sum(answer is None for answer in self.of_sites[site].values())


def read_answers(evidence: Evidence, file: Path | None) -> Answers:
    """What people say of a run and of its sites.

    Args:
        evidence: of a finished run; what its sites' files said is in its pipeline.
        file: the file of answers; None for no answers but the sites'.

    Raises:
        MedflError: a file that is none, an unknown key, a text that names a path, a site the run does not have.
    """
    given = validate(DossierAnswers, read_mapping(file, KIND), file) if file else DossierAnswers()
    if strange := next((name for name in given.sites if name not in evidence.roles), None):
        raise MedflError(
            f"{file}: `sites` names {strange}, which is no site of this run ({', '.join(evidence.roles)})."
            f"{nearest(strange, evidence.roles)}"
        )
    files = site_files_about(evidence)
    of_sites: dict[str, dict[str, tuple[str, str] | None]] = {}
    for site in evidence.roles:
        here, there = given.sites.get(site) or SiteAbout(), files.get(site) or SiteAbout()
        of_sites[site] = {}
        for name in SITE_QUESTIONS:
            mine, theirs = getattr(here, name), getattr(there, name)
            where = f"{IN_ANSWERS}, in place of the {IN_SITE_FILE}" if mine and theirs else IN_ANSWERS
            of_sites[site][name] = (mine, where) if mine else (theirs, IN_SITE_FILE) if theirs else None
    return Answers({name: getattr(given, name) for name in QUESTIONS}, of_sites)


def site_files_about(evidence: Evidence) -> dict[str, SiteAbout]:
    """Site -> what its file said `about` its data when the run began. Raises MedflError for a section that is none."""
    entries = [entry for listed in (evidence.run.pipeline.get("sites") or {}).values() for entry in listed or ()]
    spoken = {}
    for entry in entries:
        if isinstance(entry, dict) and entry.get("about"):
            try:
                spoken[str(entry["name"])] = SiteAbout.model_validate(entry["about"])
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                key = ".".join(["about", *map(str, first["loc"])])
                raise MedflError(
                    f"{evidence.run.folder / 'pipeline.yaml'}: `{key}` of the site {entry['name']}: "
                    f"{str(first['msg']).removeprefix('Value error, ')}"
                ) from None
    return spoken


def answers_template(evidence: Evidence) -> str:
    """A commented file of answers for a run, each answer null; of its sites what their files left open. Raises
    MedflError as `site_files_about`."""
    files = site_files_about(evidence)
    lines = [
        f"# Answers for the dossier of the run {evidence.run.name}: `medfl dossier RUN --answers FILE`.",
        "# An answer is one text; null is no answer, and stands in the dossier as not answered. What does not apply is",
        '# answered so: "not applicable: ...". Write no patient, no person and no path: the dossier is handed on.',
        *_questions(QUESTIONS, ""),
        "",
        f"# {DossierAnswers.model_fields['sites'].description}",
        "sites:" if evidence.roles else "sites: {}",
    ]
    for site in evidence.roles:
        spoken = files.get(site) or SiteAbout()
        left = {name: question for name, question in SITE_QUESTIONS.items() if not getattr(spoken, name)}
        lines += [f"  {site}:", *_questions(left, "    ")] if left else [f"  {site}: {{}}  # its file answers all"]
    return "\n".join(lines) + "\n"


def _questions(questions: Mapping[str, str], indent: str) -> Iterable[str]:
    for name, question in questions.items():
        yield ""
        yield from textwrap.wrap(question, 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        yield f"{indent}{name}: null"
