"""What must be read first of a finished run: what the model misses, and where; its gates; its name in the registry.

An AUROC says how well scores are ordered. It does not say that at the threshold that was chosen, or among the classes
that are named, a cancer is missed. So the headline counts patches, in two ways, and says which:

- *sensitivity for malignant*: the share of malignant patches whose summed probability of the malignant classes reaches
  the threshold that validation data chose. One yes-or-no question, as a reader of a worklist asks it.
- *recall of a class*: the share of its patches that are named so, the model's answer being its most probable class, as
  `medfl predict` and a confusion matrix have it. Not at the class's own threshold: that one is chosen for sensitivity
  alone, and calling everything by that class would reach it.

Both are read from counts that sites tell (`medfl.metrics.small_cells`); what a site withholds is left out and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medfl import config
from medfl.metrics.formatting import format_figure, format_interval, patch_words
from medfl.metrics.targets import MALIGNANT
from medfl.metrics.units import UNITS, unit_sites, units_shown
from medfl.runs.gates import GateResult, gate_results
from medfl.runs.verdict import ROLES


@dataclass(frozen=True)
class HitRate:
    """How many of some patches were found.

    Attributes:
        hits, patches: counts, patches above 0.
        site: where; "" over all sites that tell.
        label: the class; "" for all that is malignant.
        ci: 95 % interval, where there is one.
        taken_for: the class that the others were most often taken for; "" where it is not told or nothing was missed.
    """

    hits: int
    patches: int
    site: str = ""
    label: str = ""
    ci: tuple[float, float] | None = None
    taken_for: str = ""

    @property
    def rate(self) -> float:
        return self.hits / self.patches

    @property
    def missed(self) -> int:
        return self.patches - self.hits


@dataclass(frozen=True)
class RunHeadline:
    """The first lines of a run's result, as data.

    Attributes:
        role: of the sites spoken of: held-out ones, or where there are none the training sites on their test splits.
        sites: how many of them were measured.
        malignant: sensitivity for malignant at the site where it is lowest; None without such a target, threshold or
            count.
        malignant_overall: the same over all sites that tell.
        has_malignant: whether the task names malignant classes.
        threshold, sought: of the target malignant, and the sensitivity that it was chosen for on validation data.
        recall: of the class and site where it is lowest; recall_overall: of the class that is lowest over all sites.
        silent: sites that tell none of these counts.
        withheld: site -> classes whose counts it withholds, of those that tell others.
        figures: the means and the worst of the sites of the role, as `summary.json` has them; none of one
            site alone.
        gates: what the run reached at each gate; None where the page is one site's and may not tell of others.
        gates_stated, gates_passed: whether there are gates, and whether all are passed.
        registered: its name in the registry, in words; "" where it is in none.
        asked: the name that the pipeline asks for; "" where it asks for none.
        own_models: whether every site was measured with a model of its own.
        patches: what patches are called: "patches", "tiles", "slides".
        of_units: sensitivity for malignant per slide and per patient (keys of `medfl.metrics.units.UNITS`), at the site
            where it is lowest, and the threshold.
    """

    role: str
    sites: int
    malignant: HitRate | None
    malignant_overall: HitRate | None
    has_malignant: bool
    threshold: float | None
    sought: float | None
    recall: HitRate | None
    recall_overall: HitRate | None
    silent: tuple[str, ...]
    figures: Mapping[str, Any]
    gates: tuple[GateResult, ...] | None
    gates_stated: bool
    gates_passed: bool
    registered: str = ""
    asked: str = ""
    own_models: bool = False
    patches: str = "patches"
    of_units: Mapping[str, tuple[HitRate, float | None]] = field(default_factory=dict)
    withheld: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """What the model misses, in one plain sentence."""
        model = "the site's own model" if self.own_models else "the model"
        missed, wrong = self.malignant, self.recall
        if missed is None and wrong is None:
            return "No site was measured." if not self.sites else f"No site tells how many {self.patches} were found."
        said = []
        if missed is not None:
            where = f"at {missed.site} {model} misses" if missed.missed else f"{model} misses"
            overall = self.malignant_overall or missed
            count = f"{missed.missed} of {missed.patches}" if missed.missed else f"none of {overall.patches}"
            said.append(f"{where} {count} malignant {self.patches} at the threshold {format_figure(self.threshold)}")
        if wrong is not None and wrong.missed:
            same = missed is not None and missed.missed and missed.site == wrong.site
            where = "and takes" if same else f"at {wrong.site} {'it' if missed else model} takes"
            slip = f", most often {wrong.taken_for}" if wrong.taken_for else ""
            said.append(f"{where} {wrong.missed} of {wrong.patches} {wrong.label} for another class{slip}")
        elif wrong is not None:
            hidden = sorted({label for labels in self.withheld.values() for label in labels})
            whole = not hidden and not self.silent
            less = f"nothing is known of {', '.join(hidden) or 'the rest'}, whose counts are withheld"
            said.append(
                "every class is named right everywhere" if whole else f"of what is told all is named right; {less}"
            )
        text = (" " if said[-1].startswith("and ") else "; ").join(said)
        return f"{text[0].upper()}{text[1:]}."

    @property
    def lines(self) -> list[tuple[str, str]]:
        """(what, figures) of every further line, in the order in which they are read."""
        lines = []
        if self.has_malignant:
            lines.append(("Sensitivity for malignant", self._sensitivity()))
        for key, (rate, threshold) in self.of_units.items():
            shown = f"{format_interval(rate.rate, rate.ci)} at {rate.site} ({rate.hits} of {rate.patches})"
            lowest = "lowest " if self.sites > 1 else ""
            lines.append((f"Sensitivity per {UNITS[key]}", f"{lowest}{shown}; threshold {format_figure(threshold)}"))
        if self.recall is not None:
            lines.append(("Recall, worst class", self._recall(self.recall)))
        if self.silent or self.withheld:
            partly = [f"{name} ({', '.join(labels)})" for name, labels in self.withheld.items()]
            lines.append(("Counts withheld", f"few patients: {', '.join([*self.silent, *partly])}"))
        return [*lines, ("Gates", self.verdict), ("Registry", self.place)]

    @property
    def place(self) -> str:
        """Where the model is in the registry, or why it is not."""
        if self.registered:
            return self.registered
        if not self.asked:
            return "not registered"
        return (
            f"not in {self.asked}: its gates are missed" if self.gates_stated and not self.gates_passed else self.asked
        )

    @property
    def verdict(self) -> str:
        """What the gates say."""
        if not self.gates_stated:
            return "none stated, so nothing was asked of this model"
        word = "passed" if self.gates_passed else "MISSED"
        if not self.gates:
            return word
        shown = [str(result) for result in self.gates if self.gates_passed or not result.passed]
        return f"{word} ({'; '.join(shown)})"

    def _sensitivity(self) -> str:
        rate, overall = self.malignant, self.malignant_overall
        if rate is None:
            return "not known: no threshold could be chosen, or no site tells its count"
        text = f"{format_interval(rate.rate, rate.ci)} at {rate.site} ({rate.hits} of {rate.patches})"
        if overall is not None and overall != rate and self.sites > 1:
            text = (
                f"lowest {text}; all {ROLES[self.role]} sites {overall.rate:.3f} ({overall.hits} of {overall.patches})"
            )
        aim = f", chosen for {self.sought:g} on validation data" if self.sought else ""
        return f"{text}; threshold {format_figure(self.threshold)}{aim}"

    def _recall(self, worst: HitRate) -> str:
        text = f"{worst.label} at {worst.site} {worst.rate:.3f} ({worst.hits} of {worst.patches} named so)"
        overall = self.recall_overall
        if overall is not None and self.sites > 1:
            text += f"; all {ROLES[self.role]} sites: {overall.label} {overall.rate:.3f}"
            text += f" ({overall.hits} of {overall.patches})"
        return text


def headline(
    summary: Mapping[str, Any],
    pipeline: Mapping[str, Any] | None = None,
    registered: str = "",
    site: str | None = None,
    roles: Mapping[str, str] | None = None,
) -> RunHeadline:
    """What must be read first of `summary.json`.

    Args:
        summary: with `sites`, `held_out`, `train_sites`; also the figures of `medfl evaluate`.
        pipeline: as the run resolved it, for its gates and the name that it asks for.
        registered: the model's place in the registry, in words; "" says what the pipeline asks for.
        site: one site alone, on a page that tells nothing of others.
        roles: site -> role of all sites of the run, as for `gate_results`.
    """
    measured = {name: entry for name, entry in summary["sites"].items() if site in (None, name)}
    role = "held_out" if any(entry["role"] == "held_out" for entry in measured.values()) else "train"
    chosen = {name: entry for name, entry in sorted(measured.items()) if entry["role"] == role}
    points = {name: (entry.get("operating") or {}).get(MALIGNANT) for name, entry in chosen.items()}
    malignant = [rate for name, point in points.items() if (rate := _sensitivity(name, point)) is not None]
    recalls = [rate for name, entry in chosen.items() for rate in _recalls(name, entry)]
    named = {rate.site for rate in (*malignant, *recalls)}
    thresholds = [point["threshold"] for point in points.values() if point]
    registry = (pipeline or {}).get("registry") or {}
    gates = config.Gates.model_validate(registry.get("gates") or {})
    results = gate_results(summary, gates, roles) if pipeline is not None and site is None else []
    any_gate = bool(gates.model_dump(exclude_none=True))
    return RunHeadline(
        role=role,
        sites=len(chosen),
        malignant=_lowest(malignant),
        malignant_overall=_lowest(_overall(malignant)),
        has_malignant=any(points.values()),
        threshold=thresholds[0] if thresholds else None,
        sought=(summary.get("operating") or {}).get("sensitivity"),
        recall=_lowest(recalls),
        recall_overall=_lowest(_overall(recalls)),
        silent=tuple(name for name, entry in chosen.items() if name not in named and entry.get("withheld")),
        withheld={
            name: tuple(entry["withheld"]["classes"])
            for name, entry in chosen.items()
            if name in named and (entry.get("withheld") or {}).get("classes")
        },
        figures=(summary.get("held_out" if role == "held_out" else "train_sites") or {}) if site is None else {},
        gates=tuple(results) if site is None else None,
        gates_stated=any_gate,
        gates_passed=any_gate and all(r.passed for r in results or gate_results(summary, gates, roles)),
        registered=registered,
        asked=_asked_for(registry),
        own_models=bool(summary.get("cross_site_auroc")),
        patches=patch_words(summary),
        of_units=_of_units(chosen),
    )


def _of_units(sites: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[HitRate, float | None]]:
    """Sensitivity for malignant per slide and per patient at the site where it is lowest, and the threshold."""
    lowest = {}
    for key in units_shown(sites):
        points = {name: (e.get("operating") or {}).get(MALIGNANT) for name, e in unit_sites(sites, key).items()}
        rate = _lowest([own for name, point in points.items() if (own := _sensitivity(name, point)) is not None])
        if rate is not None:
            lowest[key] = rate, (points[rate.site] or {}).get("threshold")
    return lowest


def _asked_for(registry: Mapping[str, Any]) -> str:
    """The name and alias that a pipeline asks of the registry."""
    if not registry.get("name"):
        return ""
    return str(registry["name"]) + (f", alias {registry['alias']}" if registry.get("alias") else "")


def _sensitivity(site: str, point: Mapping[str, Any] | None) -> HitRate | None:
    """Of an operating point; None where its rate or its count is not told."""
    if not point or point.get("sensitivity") is None or not point.get("positives"):
        return None
    patches, ci = int(point["positives"]), point.get("sensitivity_ci")
    return HitRate(round(point["sensitivity"] * patches), patches, site, ci=None if ci is None else (ci[0], ci[1]))


def _recalls(site: str, entry: Mapping[str, Any]) -> Iterator[HitRate]:
    """Of every class whose patches and hits a site tells."""
    classes: Sequence[str] = list(entry.get("support") or {})
    for index, (label, counts) in enumerate(zip(classes, entry.get("confusion") or (), strict=False)):
        patches, hits = entry["support"][label]["patches"], counts[index]
        if patches and hits is not None:
            others = {classes[j]: count for j, count in enumerate(counts) if j != index and count}
            yield HitRate(hits, patches, site, label, taken_for=max(others, key=lambda name: others[name], default=""))


def _overall(rates: Iterable[HitRate]) -> list[HitRate]:
    """Over all sites, class by class."""
    sums: dict[str, tuple[int, int]] = {}
    for rate in rates:
        hits, patches = sums.get(rate.label, (0, 0))
        sums[rate.label] = hits + rate.hits, patches + rate.patches
    return [HitRate(hits, patches, label=label) for label, (hits, patches) in sums.items()]


def _lowest(rates: Sequence[HitRate]) -> HitRate | None:
    """The lowest rate; of equal ones that of the most patches, then the first by name."""
    return min(rates, key=lambda rate: (rate.rate, -rate.patches, rate.site, rate.label), default=None)
