"""TRIPOD+AI: the 27 items, 52 with their parts, of reporting a clinical prediction model, named in few words.

Collins et al. 2024, doi:10.1136/bmj-2023-078378; the wording there counts.
"""

from __future__ import annotations

from medfl.report.dossier.checklist import Checklist, ChecklistItem

_PARTS = {
    "Title and abstract": (
        ("1", "Title", "summary:/pipeline summary:/classes answer:population"),
        ("2", "Abstract", "fact:headline answer:summary"),
    ),
    "Introduction": (
        ("3a", "Healthcare context, rationale, existing models", "answer:background"),
        ("3b", "Population, purpose, users", "answer:population answer:intended_use answer:users"),
        ("3c", "Known health inequalities", "answer:inequalities"),
        ("4", "Objectives", "answer:objectives"),
    ),
    "Methods": (
        (
            "5a",
            "Sources of data, representativeness",
            "pipeline:/data/source fact:sites about:owner answer:data_choice",
        ),
        ("5b", "Dates of the data", "about:period"),
        ("6a", "Setting and centres", "fact:sites about:setting"),
        ("6b", "Eligibility", "about:eligibility"),
        ("6c", "Treatments received", "answer:treatments"),
        ("7", "Preparation and quality checks", "fact:preparation fact:warnings"),
        ("8a", "Outcome and how it was assessed", "summary:/classes answer:reference_standard about:annotation"),
        ("8b", "Assessors of the outcome", "about:annotators"),
        ("8c", "Blinding of the assessment", "answer:blinding"),
        ("9a", "Choice of predictors", "fact:inputs"),
        ("9b", "Definition of predictors, how measured", "fact:inputs about:scanner about:staining"),
        ("9c", "Assessors of predictors", "fact:no_reader"),
        ("10", "Sample size and its rationale", "summary:/sites/*/n_groups answer:sample_size"),
        ("11", "Missing data", "answer:missing_data"),
        ("12a", "Use and partition of the data", "fact:splits pipeline:/data/splits"),
        ("12b", "Handling of predictors", "fact:preparation pipeline:/training/augment"),
        (
            "12c",
            "Type of model, its building, internal validation",
            "fact:method summary:/model/backbone pipeline:/training summary:/select answer:model_choice",
        ),
        ("12d", "Heterogeneity across clusters", "fact:heterogeneity"),
        ("12e", "Measures of performance", "fact:measures fact:intervals"),
        ("12f", "Model updating", "fact:updating"),
        ("12g", "How predictions are calculated", "fact:outputs fact:use"),
        ("13", "Class imbalance", "answer:imbalance"),
        ("14", "Fairness", "answer:fairness"),
        ("15", "Output and thresholds", "fact:outputs summary:/operating/thresholds answer:thresholds"),
        ("16", "Differences between development and evaluation", "fact:external answer:differences"),
        ("17", "Ethical approval and consent", "about:ethics about:consent"),
    ),
    "Open science": (
        ("18a", "Funding", "answer:funding"),
        ("18b", "Conflicts of interest", "answer:conflicts"),
        ("18c", "Protocol", "answer:protocol"),
        ("18d", "Registration", "answer:registration"),
        ("18e", "Data sharing", "answer:data_sharing"),
        ("18f", "Code sharing", "fact:software answer:code_sharing"),
    ),
    "Patient and public involvement": (("19", "Involvement", "answer:involvement"),),
    "Results": (
        ("20a", "Flow of participants", "summary:/sites/*/n summary:/sites/*/n_groups answer:exclusions"),
        ("20b", "Characteristics by source of data", "summary:/sites/*/support answer:characteristics"),
        ("20c", "Evaluation data beside development data", "fact:counts answer:differences"),
        ("21", "Numbers in each analysis", "fact:counts summary:/calibration/patches"),
        (
            "22",
            "The full model and access to it",
            "summary:/model summary:/digests/model.safetensors answer:availability",
        ),
        (
            "23a",
            "Performance with intervals, subgroups",
            "summary:/held_out/mean_auroc summary:/held_out/mean_auroc_ci summary:/held_out/mean_ece"
            " summary:/sites/*/auroc summary:/sites/*/auroc_ci fact:subgroups answer:subgroups",
        ),
        (
            "23b",
            "Heterogeneity of performance",
            "summary:/held_out/worst_auroc summary:/sites/*/auroc summary:/sites/*/ece summary:/stability/site_spread",
        ),
        ("24", "Results of updating", "fact:updating summary:/sites/*/ece_before summary:/sites/*/ece"),
    ),
    "Discussion": (
        ("25", "Interpretation", "fact:headline answer:interpretation"),
        ("26", "Limitations", "fact:limits"),
        ("27a", "Poor or missing input", "answer:input_quality"),
        ("27b", "Interaction and expertise of users", "answer:users answer:instructions"),
        ("27c", "Next steps", "answer:next_steps"),
    ),
}

TRIPOD_AI = Checklist(
    "tripod_ai",
    "TRIPOD+AI",
    "Collins et al., TRIPOD+AI statement, BMJ 2024: doi:10.1136/bmj-2023-078378",
    tuple(
        ChecklistItem(number, section, topic, tuple(sources.split()))
        for section, items in _PARTS.items()
        for number, topic, sources in items
    ),
)
