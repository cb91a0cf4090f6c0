"""Sections for the record: failures, bytes and time; configuration, versions, data, citations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from medfl.data.citations import GROUPS, LC25000
from medfl.report.html_blocks import folded, heading, join, links, listing, table, text
from medfl.report.html_page import PageSection
from medfl.report.run_results import Evidence, role_word
from medfl.runs.model_facts import stored_as

FEDAVG = "arXiv:1602.05629"
TEMPERATURE = "arXiv:1706.04599"
SHOWN_FAILURES = 60
PHASES = ("prepare", "train", "evaluate", "aggregate", "track", "total")


def conduct(evidence: Evidence) -> PageSection:
    """What went wrong, what was sent, how long it took."""
    blocks = []
    failures = evidence.failures()
    if failures:
        rows = [
            [str(f["site"]), str(f["round"]), str(f.get("phase", "round")), str(f["reason"])]
            for f in failures[:SHOWN_FAILURES]
        ]
        blocks.append(table(["site", "round", "when", "kind of failure"], rows, text=4))
        rest = (
            f"{len(failures) - SHOWN_FAILURES} more failures are not listed. " if len(failures) > SHOWN_FAILURES else ""
        )
        blocks.append(text(f"{rest}The reasons in full are in rounds.jsonl and stay on the machine of the run."))
    else:
        blocks.append(text("No failure: every site answered whenever it was asked."))
    sent = _bytes(evidence)
    if any(down or up for down, up in sent.values()):
        rows = [[name, size(down), size(up)] for name, (down, up) in sent.items()]
        if len(rows) > 1:
            rows.append(["all", *(size(sum(part)) for part in zip(*sent.values(), strict=True))])
        blocks += [heading("Sent over all rounds"), table(["site", "to the site", "from the site"], rows)]
    seconds = evidence.summary.get("timings") or {}
    if seconds and not evidence.site:
        order = [*(k for k in PHASES if k in seconds), *(k for k in sorted(seconds) if k not in PHASES)]
        rows = [[phase, f"{seconds[phase]:,.1f}"] for phase in order]
        blocks += [heading("Time"), table(["phase", "seconds"], rows, stack=False)]
    return PageSection("conduct", "Failures, bytes and time", join(*blocks))


def _bytes(evidence: Evidence) -> dict[str, tuple[int, int]]:
    """Site -> (bytes to it, bytes from it) over all rounds."""
    sent = dict.fromkeys(evidence.roles, (0, 0))
    for record in evidence.run.rounds:
        for name, entry in record["sites"].items():
            if name in sent:
                down, up = sent[name]
                sent[name] = (down + int(entry.get("bytes_down", 0)), up + int(entry.get("bytes_up", 0)))
    return sent


def size(count: float) -> str:
    """`1.5 MB`: bytes in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def configuration(evidence: Evidence) -> PageSection:
    """What to repeat the run with, and whom to cite."""
    summary, pipeline = evidence.summary, evidence.pipeline
    model, versions = summary.get("model") or {}, summary.get("versions") or {}
    work = pipeline["training"]
    steps = work.get("local_steps")
    facts = [
        ["method", chain(evidence)],
        ["backbone", f"{model.get('backbone')}, {model.get('parameters', 0):,} parameters"],
        ["began from", _start(model.get("start"))],
        ["architecture fingerprint", str(model.get("fingerprint"))],
        ["patches", _patches(summary, pipeline)],
        ["classes", ", ".join(evidence.classes)],
        ["rounds", f"{summary['rounds']}, of {f'{steps} local steps' if steps else _epochs(work)}"],
        *([["stopped early", str(stopped["reason"])]] if (stopped := summary.get("stopped")) else []),
        ["selected", f"round {summary['selected_round']} ({_selection(pipeline)})"],
        ["seed", str(summary["seed"])],
        ["data", f"{pipeline['data']['source']}, {pipeline['data'].get('mode', 'dealt')}"],
    ]
    if not evidence.site:
        facts.append(["data digest", _digest(evidence)])
    rows = [[name, role_word(data.role), f"{data.total():,}", data.digest] for name, data in _data(evidence)]
    blocks = [table(["", "setting"], facts, text=2)]
    if rows:
        blocks += [heading("Data"), table(["site", "role", "patches", "digest"], rows, text=4)]
    if versions:
        software = [[name, str(value)] for name, value in versions.items()]
        blocks += [heading("Versions and device"), table(["", "version"], software, text=2, stack=False)]
    blocks += [heading("Cite"), links(list(_citations(evidence)))]
    shown = yaml.safe_dump(_own(evidence), sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)
    blocks.append(folded("Pipeline as it was run, without local paths", listing(shown)))
    return PageSection("configuration", "Configuration and citations", join(*blocks))


def chain(evidence: Evidence) -> str:
    """The method with its parameters: `ecgr (keep 0.5, beta 0.2)`; the empty chain is FedAvg."""
    links_ = evidence.summary.get("chain") or [{"name": name} for name in evidence.run.methods]
    return " + ".join(_link(link) for link in links_) or "FedAvg"


def _start(weights: Mapping[str, Any] | None) -> str:
    """The weights that training began from."""
    if weights is None:
        return "not stated"
    if not weights.get("origin"):
        return "random weights"
    return (
        f"{weights['origin']}; licence {weights.get('licence') or 'not stated'}; sha256 {weights.get('sha256') or '-'}"
    )


def _link(link: Mapping[str, Any]) -> str:
    parameters = ", ".join(f"{key} {value}" for key, value in link.items() if key != "name")
    return f"{link['name']} ({parameters})" if parameters else str(link["name"])


def _patches(summary: Mapping[str, Any], pipeline: Mapping[str, Any]) -> str:
    pixels = pipeline["data"].get("size", "?")
    mpp = summary.get("mpp")
    resolution = f"{mpp:g} microns per pixel" if mpp else "microns per pixel unknown"
    return f"{pixels} × {pixels} pixels, {resolution}{stored_as(pipeline['data'].get('store') or {})}"


def _epochs(work: Mapping[str, Any]) -> str:
    epochs = work.get("local_epochs", 1)
    return f"{epochs} local epoch{'s' if epochs != 1 else ''}"


def _selection(pipeline: Mapping[str, Any]) -> str:
    select = pipeline.get("select", "last")
    if isinstance(select, str):
        return "the last model"
    return f"{select['mode']} {select['metric']}, on validation data"


def _data(evidence: Evidence) -> list[tuple[str, Any]]:
    return [(name, evidence.run.data[name]) for name in evidence.roles if name in evidence.run.data]


def _digest(evidence: Evidence) -> str:
    """What all sites' data hashes to: equal for equal files dealt equally by one machine, wherever they lie."""
    lines = "\n".join(f"{name} {data.digest}" for name, data in sorted(_data(evidence)))
    return hashlib.sha256(lines.encode()).hexdigest()[:32]


def _own(evidence: Evidence) -> dict[str, Any]:
    """The pipeline that the page may show: on a site's own page only that site's entry, and no free text of all."""
    if not evidence.site:
        return dict(evidence.pipeline)
    sites = evidence.pipeline.get("sites") or {}
    own = {
        role: [entry for entry in sites.get(role) or [] if entry.get("name") == evidence.site]
        for role in ("train", "held_out")
    }
    shown = {key: value for key, value in evidence.pipeline.items() if key != "description"}  # it may tell of others
    return {**shown, "sites": {role: entries for role, entries in own.items() if entries}}


def _citations(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """(text, address): method papers, calibration, data."""
    if not evidence.arm:
        yield paper_link("FedAvg", FEDAVG)
    for name, paper in evidence.run.papers.items():
        yield paper_link(name, paper)
    if evidence.calibrated:
        yield paper_link("Temperature and vector scaling", TEMPERATURE)
    data = evidence.pipeline["data"]
    if data["source"] == "lc25000":
        yield LC25000.replace("*", ""), f"https://arxiv.org/abs/{LC25000.rpartition('arXiv:')[2]}"
        if data.get("source_groups") != "ignore":
            yield GROUPS, f"https://doi.org/{GROUPS.rpartition('doi:')[2]}"


def paper_link(name: str, paper: str) -> tuple[str, str]:
    """Text and address of "arXiv:..." or "doi:..."."""
    kind, _, number = paper.partition(":")
    places = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
    return f"{name}: {paper}", places[kind] + number if kind in places else ""
