"""Sentences that a run answers a checklist with; each is empty where it does not apply."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from medfl.metrics.figures import Place, figures_at
from medfl.metrics.fit_words import fit_cautions, fit_means, fit_name, fit_ways
from medfl.report.dossier.site_counts import SiteCounts
from medfl.report.limitations import limits, several
from medfl.report.provenance import chain, start_words
from medfl.report.run_results import Evidence
from medfl.runs.adapted_figures import adaptation_sentences
from medfl.runs.data_record import data_warnings
from medfl.runs.model_facts import stain_sentences, transform_names
from medfl.runs.redact import scrub_text
from medfl.runs.subgroup_tables import subgroup_tables

Fact = Callable[[Evidence], str]
OWN_WORDS = "Research only: nothing here was tested in care, and this is not a medical device."


def dossier_facts(evidence: Evidence, counts: Mapping[str, SiteCounts]) -> dict[str, str]:
    """Name -> sentence, of every fact that a checklist may ask for."""
    facts = {name: fact(evidence) for name, fact in _FACTS.items()}
    return facts | {"counts": _counts(counts), "stays": _stays(counts)}


def _purpose_limit(evidence: Evidence) -> str:
    return OWN_WORDS


def _headline(evidence: Evidence) -> str:
    return evidence.headline.sentence


def _accuracy(evidence: Evidence) -> str:
    return "; ".join(f"{what}: {figures}" for what, figures in evidence.headline.lines[:-2])


def _subgroups(evidence: Evidence) -> str:
    """AUROC with its interval of each subgroup at each site, those of few patients withheld."""
    parts = []
    for own in subgroup_tables(evidence.summary, evidence.measured):
        rows = [f"{value}, {site} ({role}): {auroc}" for value, site, role, _, auroc, *_ in own.rows]
        parts.append(f"{own.title}, AUROC [95 %]: {'; '.join([*rows, *own.sentences])}.")
    return " ".join(parts)


def _gates(evidence: Evidence) -> str:
    return f"Gates: {evidence.headline.verdict}."


def _registered(evidence: Evidence) -> str:
    return evidence.headline.registered


def _sites(evidence: Evidence) -> str:
    trained, unseen = evidence.of_role("train"), evidence.of_role("held_out")
    made = " They are simulated: one collection was dealt to them." if _dealt(evidence) else ""
    held_out = f"Held out: {several(unseen)}." if unseen else "None was held out."
    return f"Training sites: {several(trained)}. {held_out}{made}"


def _external(evidence: Evidence) -> str:
    unseen = evidence.of_role("held_out")
    if not unseen:
        return "Internal only: every site trained, and was measured on test splits of its own."
    kind = ", simulated" if _dealt(evidence) else ""
    return f"External: at sites that never trained ({several(unseen)}{kind}), measured once, at the end."


def _preparation(evidence: Evidence) -> str:
    data = evidence.pipeline["data"]
    steps = [f"Patches of {data.get('size', '?')} x {data.get('size', '?')} pixels"]
    steps += [f"transforms {', '.join(transform_names(data['render']))}"] if data.get("render") else []
    if data.get("on_bad_image"):
        steps.append(f"images that cannot be read: {data['on_bad_image']}")
    return " ".join([f"{'; '.join(steps)}.", *stain_sentences(evidence.pipeline)])


def _warnings(evidence: Evidence) -> str:
    warnings = data_warnings(evidence.run.folder)
    return scrub_text(" ".join(f"{warning[:1].upper()}{warning[1:]}." for warning in warnings))


def _inputs(evidence: Evidence) -> str:
    mpp = evidence.summary.get("mpp")
    at = f"at {mpp:g} microns per pixel" if mpp else "at a resolution that is not stated"
    return f"The pixels of the image {at}; no other predictor, and none was selected beforehand."


def _no_reader(evidence: Evidence) -> str:
    return "Nobody reads a predictor: pixels are the only ones."


def _outputs(evidence: Evidence) -> str:
    what = "bag of features" if evidence.pipeline["data"]["source"] == "features" else "patch"
    return f"One probability per class for each {what}; a class is called by its highest probability or a threshold."


def _use(evidence: Evidence) -> str:
    return "The command medfl predict applies the model: model.safetensors, its weights, and model.json, what they are."


def _splits(evidence: Evidence) -> str:
    if evidence.summary["leaky"]:
        return "By patch: source groups were ignored."
    dealt = "Whole source groups were dealt to sites and splits" if _dealt(evidence) else "Each site split its own data"
    return f"{dealt} by source group (in real data the patient), drawn from the seed {evidence.summary['seed']}."


def _disjoint(evidence: Evidence) -> str:
    if evidence.summary["leaky"]:
        return "LEAKY: copies of one source image may be on both sides of a split."
    return "Source group, in real data the patient: none is at two sites or in two splits of a site."


def _method(evidence: Evidence) -> str:
    summary, training = evidence.summary, evidence.pipeline["training"]
    work = training.get("local_steps")
    local = f"{work} local steps" if work else f"{training.get('local_epochs', 1)} local epochs"
    where = f"baseline {evidence.arm}" if evidence.arm else f"federated, {chain(evidence)}"
    played = f"{stopped['round']} of {summary['rounds']}" if (stopped := summary.get("stopped")) else summary["rounds"]
    return f"Deep learning, {where}: {played} rounds of {local}."


def _ensemble(evidence: Evidence) -> str:
    return "One model a site, none combined." if evidence.arm == "local_only" else "None: one model."


def _measures(evidence: Evidence) -> str:
    labels = ", ".join(row.label for row in figures_at(Place.CARD))
    return (
        f"{labels}; sensitivity and specificity at thresholds chosen on validation data; docs/metrics.md defines them."
    )


def _intervals(evidence: Evidence) -> str:
    return "95 % intervals by bootstrap over source groups, so that patches of one patient are no independent evidence."


def _heterogeneity(evidence: Evidence) -> str:
    return "Every site is measured alone, with intervals; mean, worst and spread over sites stand beside."


def _updating(evidence: Evidence) -> str:
    fit = evidence.summary.get("calibration")
    if fit is None:
        said = ["No recalibration: probabilities are the network's own"]
    else:
        cautions = "".join(f"; {caution}" for caution in fit_cautions(fit))
        said = [
            f"{fit_name(fit)}: {fit_means(fit)}; fitted to {fit['patches']} validation patches of training sites"
            f"{fit_ways(fit)}{cautions}"
        ]
    return " ".join(f"{sentence}." for sentence in [*said, *adaptation_sentences(evidence.summary)])


def _limits(evidence: Evidence) -> str:
    return f"{' '.join(name for name, _ in limits(evidence))} In full: index.html, Result."


def _start(evidence: Evidence) -> str:
    start = evidence.summary.get("model", {}).get("start")
    return f"Training began from: {start_words(start)}." if start is not None else ""


def _software(evidence: Evidence) -> str:
    return f"medfl {evidence.summary.get('versions', {}).get('medfl', 'of an unknown version')}, Apache-2.0."


def _transparency(evidence: Evidence) -> str:
    return "This folder: TRIPOD+AI and CLAIM checklists, a data sheet for each site, hashes."


def _papers(evidence: Evidence) -> str:
    return "; ".join(f"{name}: {paper}" for name, paper in evidence.run.papers.items())


def _counts(counts: Mapping[str, SiteCounts]) -> str:
    """Patches by site and split, as far as they may be told."""
    return f"Patches by split: {'; '.join(f'{site}: {own.words()}' for site, own in counts.items())}."


def _stays(counts: Mapping[str, SiteCounts]) -> str:
    floors: Sequence[int] = sorted({own.floor for own in counts.values()})
    floor = " to ".join(map(str, dict.fromkeys([floors[0], floors[-1]]))) if floors else "?"
    return (
        "Images, file names and patients' names stay at their site; updates of the model and counts leave it, and "
        f"counts of fewer than {floor} source groups are withheld (docs/privacy.md)."
    )


def _dealt(evidence: Evidence) -> bool:
    return bool(evidence.pipeline["data"].get("mode", "dealt") == "dealt")


_FACTS: dict[str, Fact] = {
    "accuracy": _accuracy,
    "disjoint": _disjoint,
    "ensemble": _ensemble,
    "external": _external,
    "gates": _gates,
    "headline": _headline,
    "heterogeneity": _heterogeneity,
    "inputs": _inputs,
    "intervals": _intervals,
    "limits": _limits,
    "measures": _measures,
    "method": _method,
    "no_reader": _no_reader,
    "outputs": _outputs,
    "papers": _papers,
    "preparation": _preparation,
    "registered": _registered,
    "research_only": _purpose_limit,
    "sites": _sites,
    "software": _software,
    "splits": _splits,
    "subgroups": _subgroups,
    "start": _start,
    "transparency": _transparency,
    "updating": _updating,
    "use": _use,
    "warnings": _warnings,
}
