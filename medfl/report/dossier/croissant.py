"""A site's data sheet as Croissant JSON-LD: aggregates above the disclosure floor, and what the site says of its data.

Croissant 1.0 and its vocabulary for responsible AI: https://docs.mlcommons.org/croissant/docs/croissant-spec.html,
https://docs.mlcommons.org/croissant/docs/croissant-rai-spec.html. The data stay at their site, so nothing is
distributed: the counts, and the questions with their answers, are record sets with their records inside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from medfl.report.dossier.checklist import OPEN
from medfl.report.dossier.dossier_answers import SITE_QUESTIONS, Answers
from medfl.report.dossier.site_counts import SiteCounts
from medfl.report.run_results import Evidence

CONFORMS = "http://mlcommons.org/croissant/1.0"
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the specification asks for; its terms are what the sheets are read by."""
TEXT, INTEGER = "sc:Text", "sc:Integer"


def data_sheet(evidence: Evidence, site: str, counts: SiteCounts, answers: Answers) -> str:
    """The sheet of one site as JSON text. A property that nobody answered is left out, and its question stands among
    the record set `about` as not answered."""
    said = {name: answer[0] for name, answer in answers.of_sites[site].items() if answer}
    data = evidence.run.data.get(site)
    sheet: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": f"{evidence.summary['pipeline']}: {site}",
        "description": _description(evidence, site, counts),
        "conformsTo": CONFORMS,
        "isAccessibleForFree": False,
    }
    if data is not None:
        sheet["identifier"] = data.digest
    if owner := said.get("owner"):
        sheet["creator"] = {"@type": "sc:Organization", "name": owner}
    if licence := said.get("licence"):
        sheet["license"] = licence
    sheet |= _responsible(evidence, site, counts, said)
    facts = [(name, question, said.get(name, OPEN)) for name, question in SITE_QUESTIONS.items()]
    mpp = site_mpp(evidence, site)
    facts.append(("mpp", "Microns per pixel of the site's images.", f"{mpp:g}" if mpp else OPEN))
    sets = [_records("about", "What the site says of its data.", ABOUT_FIELDS, facts)]
    if counts.counts:
        rows = [(c.split, c.label, c.patches, c.groups) for c in counts.counts]
        note = f"Patches and source groups by split and class, each of at least {counts.floor} source groups."
        sets.append(_records("counts", note, COUNT_FIELDS, rows))
    return json.dumps(sheet | {"recordSet": sets}, indent=2, ensure_ascii=False) + "\n"


ABOUT_FIELDS = (("key", TEXT), ("question", TEXT), ("answer", TEXT))
COUNT_FIELDS = (("split", TEXT), ("class", TEXT), ("patches", INTEGER), ("groups", INTEGER))


def site_mpp(evidence: Evidence, site: str) -> float | None:
    """Microns per pixel of a site's images: its own, or the pipeline's; None where nobody says."""
    listed = [entry for sites in (evidence.pipeline.get("sites") or {}).values() for entry in sites or ()]
    own = next((entry.get("mpp") for entry in listed if entry.get("name") == site), None)
    return own or evidence.summary.get("mpp")


def _description(evidence: Evidence, site: str, counts: SiteCounts) -> str:
    role = {"train": "trained the model", "held_out": "was only measured"}[evidence.roles[site]]
    few = f" Counts are withheld, so that none of fewer than {counts.floor} source groups is told."
    hidden = few if counts.withheld else ""
    return (
        f"Histopathology patches of the site {site}, which {role} in the run {evidence.run.name}. The data are not "
        f"distributed: they stay at the site, and this sheet holds aggregates only.{hidden}"
    )


def _responsible(evidence: Evidence, site: str, counts: SiteCounts, said: Mapping[str, str]) -> dict[str, Any]:
    """The properties of the vocabulary for responsible AI that have an answer."""
    together = {
        "rai:dataCollection": ("setting", "period", "eligibility", "scanner", "staining"),
        "rai:dataAnnotationProtocol": ("annotation",),
        "rai:annotatorDemographics": ("annotators",),
        "rai:personalSensitiveInformation": ("consent", "ethics"),
    }
    made: dict[str, Any] = {}
    for name, questions in together.items():
        if parts := [f"{question}: {said[question]}" for question in questions if question in said]:
            made[name] = "; ".join(parts)
    if counts.withheld:
        made["rai:dataLimitations"] = (
            f"Counts are withheld, so that none of fewer than {counts.floor} source groups is told."
        )
    return made


def _records(
    name: str, description: str, fields: Sequence[tuple[str, str]], rows: Sequence[Sequence[str | int]]
) -> dict[str, Any]:
    """A record set with its records inside."""
    ids = [f"{name}/{field}" for field, _ in fields]
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "field": [
            {"@type": "cr:Field", "@id": at, "name": at, "dataType": kind}
            for at, (_, kind) in zip(ids, fields, strict=True)
        ],
        "data": [dict(zip(ids, row, strict=True)) for row in rows],
    }
