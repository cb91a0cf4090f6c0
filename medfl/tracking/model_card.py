"""The model card: what the model is for, what it was made of, what was measured, and what was not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from medfl.data.citations import GROUPS, LC25000
from medfl.data.sources.source_registry import drawn_data
from medfl.metrics import RATES, format_figure, format_interval
from medfl.metrics.figures import Place, Style, figures_at
from medfl.metrics.fit_words import fit_cautions, fit_means, fit_name, fit_ways
from medfl.metrics.formatting import format_count, patch_words
from medfl.metrics.stability_figures import stability_at
from medfl.metrics.targets import MALIGNANT
from medfl.metrics.units import SHOWN, UNITS, unit_notes, unit_sites, units_shown
from medfl.plain_text import markdown
from medfl.runs.adapted_figures import TITLE, adaptation_sentences, adapted_tables
from medfl.runs.headline import headline
from medfl.runs.model_facts import model_rendering, model_stain, stain_sentences, stored_as, transform_names
from medfl.runs.records import RunRecords, SiteData, papers
from medfl.runs.redact import scrub
from medfl.runs.subgroup_tables import SubgroupTable, subgroup_tables
from medfl.runs.verdict import ROLES

_SOURCES = {
    "lc25000": "LC25000, five classes of lung and colon tissue at 768 x 768 pixels",
    "tissue": "generated tissue: drawn from a seed, no patient is behind it",
    "folder": "patches from the sites' own folders",
    "csv": "patches listed by the sites' own tables",
    "slides": "whole slides, cut into tiles",
    "features": "features of whole slides, which another tool had extracted",
}


def model_card(
    summary: Mapping[str, Any],
    model: Mapping[str, Any],
    pipeline: Mapping[str, Any],
    data: Mapping[str, SiteData] | None = None,
) -> str:
    """Write the card in Markdown from `summary.json`, `model.json`, the resolved pipeline and the allocation."""
    data = data or {}
    entries = [pipeline["baseline"]] if pipeline.get("baseline") else pipeline.get("method") or []
    methods = [e if isinstance(e, str) else str(e["name"]) for e in entries]
    sections = (
        _head(summary, model, pipeline),
        _result(summary, pipeline),
        _data(summary, model, pipeline, data),
        _method(summary, pipeline, methods),
        _table("Held-out sites (never trained on)", summary, "held_out"),
        _table("Training sites (their test splits)", summary, "train"),
        *(_units(summary, key) for key in units_shown(summary["sites"])),
        *(_subgroups(own) for own in subgroup_tables(summary, summary["sites"])),
        *([_adapted(summary)] if summary.get("adaptation") else []),
        _calibration(summary),
        _operating(summary),
        _stability(summary),
        _limits(summary, model, pipeline),
        _citations(summary, pipeline, methods),
    )
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def model_description(run: RunRecords, settings: Mapping[str, Any]) -> str:
    """What a registered model is, above all its versions."""
    classes = ", ".join(map(markdown, settings["classes"]))
    return "\n".join(
        [
            f"Models of the pipeline **{markdown(run.pipeline.get('name', run.name))}**, trained across sites by "
            f"medfl: {markdown(settings['backbone'])}, classes {classes}. The card of a version says what "
            "was measured, and what that version misses.",
            *paragraphs(run.pipeline.get("description")),
            "\nResearch only: not a medical device.",
        ]
    )


def _head(summary: Mapping[str, Any], model: Mapping[str, Any], pipeline: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {markdown(pipeline['name'])}"
    if summary["leaky"]:
        yield "\n**Leaky: copies of one source image may be on both sides of a split. The figures are too good.**"
    yield from paragraphs(pipeline.get("description"))
    mpp = model.get("mpp")
    resolution = (f"{mpp:g} microns per pixel" if mpp else "microns per pixel unknown") + stored_as(model)
    size = model["size"]
    classes = _list(model["classes"])
    yield f"\n{markdown(model['backbone'])}, {size} x {size} pixels, {resolution}. Classes: {classes}."
    start = model.get("start")
    if isinstance(start, Mapping) and start.get("origin"):
        digest = f" (sha256 {markdown(start['sha256'])})" if start.get("sha256") else ""
        licence = markdown(start.get("licence") or "not stated")
        yield f"Training began from {markdown(start['origin'])}{digest}; their licence applies as well: {licence}."
    yield "Input: uint8 RGB patches [N, H, W, 3], any H and W. Output: one probability per class and patch."
    yield "\n## Intended use"
    yield "Research on federated learning in histopathology. Not a medical device; not for diagnosis or treatment."


def _result(summary: Mapping[str, Any], pipeline: Mapping[str, Any]) -> Iterator[str]:
    """What the model misses, before any mean."""
    first = headline(summary, pipeline)
    yield "## Result"
    yield f"**{markdown(first.sentence)}**\n"
    yield from (f"- {what}: {markdown(figures)}" for what, figures in first.lines)
    over = first.figures
    yield (
        f"- AUROC over the {ROLES[first.role]} sites: mean {format_figure(over.get('mean_auroc'))}, worst "
        f"{format_figure(over.get('worst_auroc'))}; calibration: mean ECE {format_figure(over.get('mean_ece'))} "
        f"(debiased {format_figure(over.get('mean_debiased_ece'))}, by noise alone "
        f"{format_figure(over.get('mean_ece_noise'))}), mean NLL {format_figure(over.get('mean_nll'))}"
    )


def paragraphs(description: object) -> list[str]:
    """What a pipeline's author says of it, as plain paragraphs of Markdown without paths."""
    lines = scrub(str(description or "")).splitlines()
    return [f"\n{markdown(line)}" for line in lines if line.strip()]


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(markdown, names))


def _data(
    summary: Mapping[str, Any], model: Mapping[str, Any], pipeline: Mapping[str, Any], data: Mapping[str, SiteData]
) -> Iterator[str]:
    settings = pipeline["data"]
    dealt = settings.get("mode", "dealt") == "dealt"
    yield "## Data"
    kind = settings["source"]
    yield f"Source: {_SOURCES.get(kind, f'patches of the source {markdown(kind)}')}."
    yield (
        "Whole source groups were dealt to simulated institutions; no group is in two sites or two splits."
        if dealt
        else "Every site used its own data, split by source group (in real data, the patient)."
    )
    if names := transform_names(model_rendering(model, pipeline)):
        yield f"Patches go through {_list(names)} first (`data.render`), here and wherever the model is used."
    yield from stain_sentences(pipeline)
    if model_stain(model):
        yield "Wherever the model is used, patches are given to it 16 or more of one laboratory at a time."
    yield "\n| site | role | patches | class mix | digest |\n|---|---|---|---|---|"
    for name, site in summary["sites"].items():
        role = site["role"].replace("_", "-")
        own = data.get(name)
        if own is None:
            yield f"| {markdown(name)} | {role} | {site['n']} (test) | {_mix(site.get('support') or {})} | |"
            continue
        counts: dict[str, int] = {}
        for by_class in own.patches.values():
            for label, count in by_class.items():
                counts[label] = counts.get(label, 0) + count
        total = f"over {own.total()}" if own.withheld else str(own.total())
        yield f"| {markdown(name)} | {role} | {total} | {_shares(counts)} | {markdown(own.digest[:12])} |"


def _mix(support: Mapping[str, Mapping[str, int]]) -> str:
    return _shares({label: entry["patches"] or 0 for label, entry in support.items()})


def _shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{markdown(label)} {100 * count / total:.0f} %" for label, count in counts.items() if count)


def _method(summary: Mapping[str, Any], pipeline: Mapping[str, Any], methods: Sequence[str]) -> Iterator[str]:
    training = pipeline["training"]
    work = training.get("local_steps")
    local = f"{work} local steps" if work else f"{training.get('local_epochs', 1)} local epochs"
    selection = pipeline.get("select", "last")
    chosen = "the last model" if selection == "last" else f"the best {markdown(selection['metric'])} (validation data)"
    yield "## Method"
    chain = " + ".join(map(markdown, methods)) or "FedAvg"
    yield f"{chain}, {training['rounds']} rounds of {local}, seed {summary['seed']}."
    yield f"Selected: round {summary['selected_round']}, {chosen}; held-out sites were measured once, afterwards."


def _table(title: str, summary: Mapping[str, Any], role: str) -> Iterator[str]:
    yield f"## {title}"
    sites = {name: site for name, site in summary["sites"].items() if site["role"] == role}
    if not sites:
        yield "None."
        return
    yield "95 % intervals by bootstrap over source groups. AUROC one against the rest, mean over supported classes.\n"
    columns = _columns()
    yield f"| {' | '.join(['site', 'patches', 'groups', 'classes', *(heading for heading, _ in columns)])} |"
    yield "|" + "---|" * (4 + len(columns))
    for name, site in sites.items():
        cells = [markdown(name), str(site["n"]), str(site["n_groups"]), str(len(site["supported_classes"]))]
        yield f"| {' | '.join(cells + [cell(site) for _, cell in columns])} |"


def _units(summary: Mapping[str, Any], key: str) -> Iterator[str]:
    """The figures of every site per slide or patient, with sensitivity and specificity for what is malignant."""
    yield f"## Per {UNITS[key]}"
    words = patch_words(summary)
    yield f"A {UNITS[key]} is scored by the probabilities of its {words}. 95 % intervals over patients.\n"
    columns = _columns(SHOWN)
    yield f"| {' | '.join(['site', 'role', key, *(heading for heading, _ in columns), *RATES])} |"
    yield "|" + "---|" * (3 + len(columns) + len(RATES))
    for name, entry in unit_sites(summary["sites"], key).items():
        point = (entry.get("operating") or {}).get(MALIGNANT) or {}
        rates = [format_interval(point.get(rate), point.get(f"{rate}_ci")) for rate in RATES]
        cells = [markdown(name), entry["role"].replace("_", "-"), str(entry["n"])]
        yield f"| {' | '.join([*cells, *(cell(entry) for _, cell in columns), *rates])} |"
    yield "\nSensitivity and specificity are those for what is malignant, at a threshold from validation data."
    yield from (f"\n{markdown(note)}." for note in unit_notes(summary["sites"], key))


def _columns(shown: Collection[str] = ()) -> list[tuple[str, Callable[[Mapping[str, Any]], str]]]:
    """(heading, cell of a site) for every figure that the card shows, or for those `shown`."""
    columns: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = []
    for row, style in figures_at(Place.CARD).items():
        if shown and row.key not in shown:
            continue
        if style is Style.CHANGE:
            columns.append((f"{row.label} before", row.format_before))
        columns.append((row.label, row.format if style is Style.VALUE else row.format_interval))
    return columns


def _adapted(summary: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {TITLE}"
    yield from (f"{markdown(sentence)}.\n" for sentence in adaptation_sentences(summary))
    for title, headings, rows in adapted_tables(summary["sites"]):
        yield from () if title == TITLE else ("", f"### {title}")
        yield from _markdown_table(headings, [list(map(markdown, row)) for row in rows])
    yield "\nThe model that is served is the plain one; `medfl evaluate --adapt` and `medfl predict --adapt` adapt it."


def _subgroups(own: SubgroupTable) -> Iterator[str]:
    yield f"## {markdown(own.title)}"
    yield from _markdown_table(own.headings, [[*map(markdown, row[:3]), *row[3:]] for row in own.rows])
    yield from (f"\n{markdown(sentence)}." for sentence in own.sentences)


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table of cells that are Markdown already."""
    yield f"| {' | '.join(headings)} |"
    yield "|" + "---|" * len(headings)
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _calibration(summary: Mapping[str, Any]) -> Iterator[str]:
    yield "## Calibration"
    fit = summary.get("calibration")
    if fit is None:
        yield "None: probabilities are the network's own."
        return
    yield (
        f"{fit_name(fit)}: {fit_means(fit)}. Fitted to {fit['patches']} validation patches of the training sites"
        f"{fit_ways(fit)} (NLL {format_figure(fit['nll_before'])} before, {format_figure(fit['nll_after'])} after). "
        "Every figure here is of these probabilities, but for ECE before."
    )
    yield from (f"{caution[0].upper()}{caution[1:]}." for caution in fit_cautions(fit))


def _operating(summary: Mapping[str, Any]) -> Iterator[str]:
    yield "## Operating points at held-out sites"
    operating = summary.get("operating")
    if not operating:
        yield "None."
        return
    yield f"Thresholds chosen for a sensitivity of {operating['sensitivity']:g} on validation data of training sites.\n"
    yield "| site | target | threshold | positive | negative | sensitivity | specificity |"
    yield "|---|---|---|---|---|---|---|"
    for name, site in summary["sites"].items():
        for target, point in (site.get("operating") or {}).items() if site["role"] == "held_out" else ():
            rates = [format_interval(point[rate], point[f"{rate}_ci"]) for rate in RATES]
            counts = [format_count(point[side]) for side in ("positives", "negatives")]
            cells = [markdown(name), markdown(target), format_figure(point["threshold"]), *counts, *rates]
            yield f"| {' | '.join(cells)} |"


def _stability(summary: Mapping[str, Any]) -> Iterator[str]:
    yield "## Stability over the rounds"
    stability = summary.get("stability") or {}
    yield ", ".join(f"{row.label} {format_figure(stability.get(row.key))}" for row in stability_at(Place.CARD)) + "."


def _limits(summary: Mapping[str, Any], model: Mapping[str, Any], pipeline: Mapping[str, Any]) -> Iterator[str]:
    settings = pipeline["data"]
    few = [name for name, site in summary["sites"].items() if site.get("few_groups")]
    classes = len(model["classes"])
    partial = [
        n for n, s in summary["sites"].items() if s["role"] == "held_out" and len(s["supported_classes"]) < classes
    ]
    yield "## Limits"
    if summary["leaky"]:
        yield "- Leaky splits: copies of one source image may be on both sides. Nothing follows for new patients."
    for what in drawn_data(pipeline) or (["Tissue"] if settings["source"] == "tissue" else []):
        yield f"- Trained and measured on generated {what.lower()}: the figures say nothing about patients."
    if settings["source"] == "lc25000":
        yield "- LC25000 is augmented from few source tiles; its source groups are no patients."
    if settings.get("mode", "dealt") == "dealt":
        strength = settings.get("stain_strength", 1.0)
        yield f"- Institutions and stain differences are simulated (stain strength {strength:g})."
    if not model.get("mpp"):
        yield "- Microns per pixel unknown: patches of another magnification give figures of unknown worth."
    sites = [site for listed in (pipeline.get("sites") or {}).values() for site in listed or ()]
    if own := [site["name"] for site in sites if site.get("render")]:
        yield f"- Sites that transform their own patches, which is not done where the model is used: {_list(own)}."
    if few:
        yield f"- Too few source groups for an interval to be trusted: {_list(few)}."
    if partial:
        yield f"- Held-out sites without all classes: {_list(partial)}."
    if summary.get("failures"):
        yield f"- Sites failed in some rounds ({len(summary['failures'])} failures)."
    yield "- Stains, scanners and populations that no site represents are untested."


def _citations(summary: Mapping[str, Any], pipeline: Mapping[str, Any], methods: Sequence[str]) -> Iterator[str]:
    settings = pipeline["data"]
    yield "## Citations"
    cited = [LC25000] if settings["source"] == "lc25000" else []
    if settings["source"] == "lc25000" and settings.get("source_groups") != "ignore":
        cited.append(GROUPS)
    cited += [f"{markdown(name)}: {paper}" for name, paper in papers(summary, methods).items()]
    yield "\n".join(f"- {line}" for line in cited) or "None."
