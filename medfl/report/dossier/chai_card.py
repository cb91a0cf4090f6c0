"""The fields of the applied model card of the Coalition for Health AI, version 0.2 of its schema.

https://github.com/coalition-for-health-ai/mc-schema; a field's number is the name of its element there.
"""

from __future__ import annotations

from medfl.report.dossier.checklist import Checklist, ChecklistItem

_TESTS = (
    ("TestType", "Kind of test", "fact:external"),
    ("TestingDataDescription", "Testing data", "fact:counts"),
    ("ValidationProcessAndJustification", "Validation and why", "fact:splits fact:intervals"),
)
_PARTS = {
    "Basic information": (
        ("ModelName", "Name", "summary:/pipeline"),
        ("ModelDeveloper", "Developer", "answer:developer"),
        ("DeveloperContact", "Contact", "answer:contact"),
    ),
    "Release": (
        ("ReleaseStage", "Stage", "answer:release_stage"),
        ("ReleaseDate", "Date", "answer:release_date"),
        ("ReleaseVersion", "Version", "fact:registered answer:release_version"),
        ("GlobalAvailability", "Availability", "answer:availability"),
        ("EHRCompatibility", "Compatible systems", "answer:compatibility"),
        ("RegulatoryApproval", "Regulatory approval", "answer:regulatory"),
    ),
    "Summary": (
        ("Summary", "Summary", "fact:headline answer:summary"),
        ("Keywords", "Keywords", "answer:keywords"),
    ),
    "Uses and directions": (
        ("IntendedUseAndWorkflow", "Intended use and workflow", "answer:intended_use"),
        ("PrimaryIntendedUsers", "Intended users", "answer:users"),
        ("HowToUse", "How to use it", "fact:use answer:instructions"),
        ("TargetedPatientPopulation", "Patients it is meant for", "answer:population"),
        ("CautionedOutOfScopeSettings", "Out of scope", "fact:research_only answer:out_of_scope"),
    ),
    "Warnings": (
        ("KnownRisksAndLimitations", "Known risks and limits", "fact:limits answer:risks"),
        ("KnownBiasesOrEthicalConsiderations", "Known biases, ethics", "answer:biases about:ethics"),
        ("ClinicalRiskLevel", "Clinical risk level", "answer:risk_level"),
    ),
    "System facts": (
        ("OutcomesAndOutputs", "Outcome and output", "summary:/classes fact:outputs"),
        ("ModelType", "Type of model", "fact:method summary:/model/backbone summary:/model/parameters"),
        ("FoundationModels", "Weights that it began from", "fact:start"),
        ("InputDataSource", "Source of input", "pipeline:/data/source about:scanner about:staining"),
        ("OutputAndInputDataTypes", "Types of input and output", "fact:inputs fact:outputs"),
        ("DevelopmentDataCharacterization", "Development data", "fact:sites fact:counts answer:characteristics"),
        ("BiasMitigationApproaches", "Mitigation of bias", "answer:fairness"),
        ("OngoingMaintenance", "Maintenance", "answer:maintenance"),
        ("Security", "Security", "fact:stays answer:security"),
        ("Transparency", "Transparency", "fact:transparency"),
    ),
    "Transparency": (
        ("FundingSource", "Funding", "answer:funding"),
        ("ThirdPartyInformation", "Third parties", "answer:third_parties"),
        ("StakeholdersConsulted", "Who was consulted", "answer:stakeholders"),
    ),
    "Usefulness, usability, efficacy": (
        ("MetricGoal", "Goal", "answer:usefulness_goal"),
        (
            "MetricResult",
            "Result",
            "summary:/held_out/mean_auroc summary:/held_out/mean_auroc_ci summary:/held_out/worst_auroc"
            " summary:/held_out/mean_ece",
        ),
        ("Interpretation", "Interpretation", "answer:interpretation"),
        *_TESTS,
    ),
    "Fairness and equity": (
        ("MetricGoal", "Goal", "answer:fairness_goal"),
        ("MetricResult", "Result", "summary:/sites/*/auroc fact:subgroups answer:subgroups"),
        ("Interpretation", "Interpretation", "answer:fairness_result"),
        *_TESTS,
    ),
    "Safety and reliability": (
        ("MetricGoal", "Goal", "answer:safety_goal"),
        ("MetricResult", "Result", "fact:headline fact:accuracy fact:gates"),
        ("Interpretation", "Interpretation", "answer:safety_result"),
        *_TESTS,
    ),
    "Resources": (
        ("EvaluationReferences", "Evaluations by others", "answer:evaluation_references"),
        ("ClinicalTrial", "Trial", "answer:registration"),
        ("PeerReviewedPublications", "Publications", "answer:publications"),
        ("ReimbursementStatus", "Reimbursement", "answer:reimbursement"),
        (
            "PatientConsentOrDisclosure",
            "Consent of patients, what they are told",
            "about:consent answer:patient_disclosure",
        ),
        ("Bibliography", "Bibliography", "fact:papers"),
    ),
}

CHAI_CARD = Checklist(
    "model_card",
    "Model card",
    "Coalition for Health AI, applied model card, schema 0.2: https://mc.chai.org/v0.2/schema.xsd",
    tuple(
        ChecklistItem(number, section, topic, tuple(sources.split()))
        for section, items in _PARTS.items()
        for number, topic, sources in items
    ),
)
