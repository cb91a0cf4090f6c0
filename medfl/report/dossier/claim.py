"""CLAIM, update of 2024: the 44 items of reporting artificial intelligence in medical imaging, named in few words.

Tejani et al. 2024, doi:10.1148/ryai.240300; the wording there counts.
"""

from __future__ import annotations

from medfl.report.dossier.checklist import Checklist, ChecklistItem

_PARTS = {
    "Title and abstract": (
        ("1", "Identification as a study of AI, and which", "fact:method summary:/model/backbone"),
        ("2", "Abstract", "fact:headline answer:summary"),
    ),
    "Introduction": (
        ("3", "Background, intended use", "answer:background answer:intended_use"),
        ("4", "Aims and hypotheses", "answer:objectives"),
    ),
    "Study design": (
        ("5", "Prospective or retrospective", "answer:design"),
        ("6", "Goal of the study", "answer:objectives"),
    ),
    "Data": (
        ("7", "Sources", "pipeline:/data/source fact:sites about:owner about:setting about:period"),
        ("8", "Inclusion and exclusion", "about:eligibility"),
        ("9", "Preprocessing", "fact:preparation"),
        ("10", "Selection of subsets", "answer:data_choice"),
        ("11", "De-identification", "fact:stays answer:deidentification"),
        ("12", "Missing data", "answer:missing_data"),
        ("13", "Image acquisition", "summary:/mpp about:scanner about:staining"),
    ),
    "Reference standard": (
        ("14", "Definition", "summary:/classes answer:reference_standard"),
        ("15", "Rationale", "answer:reference_standard"),
        ("16", "Source of annotations", "about:annotators"),
        ("17", "Annotation of test data", "about:annotation"),
        ("18", "Variability between and within raters", "answer:agreement"),
    ),
    "Data partitions": (
        ("19", "How data were assigned", "fact:splits pipeline:/data/splits"),
        ("20", "Level at which partitions are disjoint", "fact:disjoint summary:/leaky"),
    ),
    "Testing data": (("21", "Intended sample size", "summary:/sites/*/n_groups answer:sample_size"),),
    "Model": (
        ("22", "Description", "summary:/model fact:inputs fact:outputs"),
        ("23", "Software", "summary:/versions"),
        ("24", "Initial parameters", "fact:start summary:/model/start"),
    ),
    "Training": (
        ("25", "Details of training", "fact:method pipeline:/training summary:/rounds"),
        ("26", "Selection of the final model", "summary:/select summary:/selected_round"),
        ("27", "Ensembling", "fact:ensemble"),
    ),
    "Evaluation": (
        ("28", "Metrics", "fact:measures"),
        ("29", "Uncertainty and significance", "fact:intervals"),
        ("30", "Robustness or sensitivity", "answer:robustness"),
        ("31", "Explainability", "answer:explainability"),
        (
            "32",
            "Evaluation on internal data",
            "summary:/train_sites/sites summary:/train_sites/mean_auroc summary:/train_sites/mean_ece",
        ),
        ("33", "Testing on external data", "fact:external summary:/held_out/mean_auroc summary:/held_out/mean_ece"),
        ("34", "Registration of the trial", "answer:registration"),
    ),
    "Results": (
        ("35", "Patients included and excluded", "summary:/sites/*/n_groups answer:exclusions"),
        ("36", "Characteristics by partition", "fact:counts summary:/sites/*/support answer:characteristics"),
        (
            "37",
            "Performance with uncertainty",
            "summary:/held_out/mean_auroc summary:/held_out/mean_auroc_ci summary:/sites/*/auroc"
            " summary:/sites/*/auroc_ci summary:/sites/*/ece summary:/sites/*/ece_ci",
        ),
        ("38", "Diagnostic accuracy and its precision", "fact:accuracy summary:/operating/thresholds"),
        ("39", "Analysis of failures", "fact:headline summary:/sites/*/confusion"),
    ),
    "Discussion": (
        ("40", "Limitations", "fact:limits"),
        ("41", "Implications for practice", "answer:interpretation answer:intended_use"),
    ),
    "Other": (
        ("42", "Full protocol", "answer:protocol"),
        ("43", "Availability of software, model, data", "fact:software answer:code_sharing answer:data_sharing"),
        ("44", "Funding and the part of funders", "answer:funding"),
    ),
}

CLAIM = Checklist(
    "claim",
    "CLAIM 2024",
    "Tejani et al., CLAIM 2024 Update, Radiology: Artificial Intelligence 2024: doi:10.1148/ryai.240300",
    tuple(
        ChecklistItem(number, section, topic, tuple(sources.split()))
        for section, items in _PARTS.items()
        for number, topic, sources in items
    ),
)
