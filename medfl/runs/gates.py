"""What a result must reach to enter the registry."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfl import config
from medfl.config.yaml_file import BROKEN, parse, read_mapping, validate
from medfl.errors import MedflError
from medfl.metrics.figures import figure
from medfl.metrics.units import UNITS, unit_entry
from medfl.runs.verdict import ROLES

SIDES = {"higher": "below", "lower": "above"}
"""On which side of its bound a figure of this direction misses."""


@dataclass(frozen=True)
class Gate:
    """A bound that a pipeline file may set on a figure over the sites of one role.

    A figure of which more is better is held to the smallest lower 95 % bound over the sites, one of which less is
    better to the mean over them.

    Attributes:
        key: in the pipeline file.
        role: of the sites.
        figure: key of the figure.
        adapted: whether it is read of the adapted model, at each site on the patches that it was judged on.
        unit: "slides" or "patients" for a figure over these (`medfl.metrics.units`); "" for patches.
        of_mean: whether it is held to the lower 95 % bound of the mean over the sites in place of the smallest.
    """

    key: str
    role: str
    figure: str
    adapted: bool = False
    unit: str = ""
    of_mean: bool = False


GATES = (
    Gate("held_out_auroc_min", "held_out", "auroc"),
    Gate("worst_site_auroc_min", "train", "auroc"),
    Gate("held_out_ece_max", "held_out", "ece"),
    Gate("held_out_adapted_auroc_min", "held_out", "auroc", adapted=True),
    Gate("held_out_adapted_ece_max", "held_out", "ece", adapted=True),
    Gate("held_out_patient_auroc_min", "held_out", "auroc", unit="patients"),
    Gate("held_out_patient_mean_auroc_min", "held_out", "auroc", unit="patients", of_mean=True),
    Gate("held_out_patient_ece_max", "held_out", "ece", unit="patients"),
    Gate("held_out_slide_auroc_min", "held_out", "auroc", unit="slides"),
)


def read_gates(entries: Sequence[str]) -> config.Gates:
    """Gates given at the command line: `held_out_auroc_min=0.9`, or a YAML file with keys as under `registry.gates`; of
    two bounds for one figure the stricter one counts.

    Raises:
        MedflError: an entry is neither, names no gate, or states a bound out of range.
    """
    gates = config.Gates()
    for entry in entries:
        key, sign, text = entry.partition("=")
        try:
            section = {key.strip(): parse(text)} if sign and not Path(entry).is_file() else None
        except BROKEN:
            raise MedflError(f"--gates {entry}: the bound is not valid YAML") from None
        if section is None:
            section = read_mapping(Path(entry), "gates")
        given = validate(config.Gates, section, Path(f"--gates {entry}"))
        if not bounds(given):
            raise MedflError(
                f"--gates {entry}: it states no gate; write KEY=BOUND, or a YAML file of such keys: "
                f"{', '.join(gate.key for gate in GATES)}"
            )
        gates = stricter(gates, given)
    return gates


def stricter(one: config.Gates, other: config.Gates) -> config.Gates:
    """The gates of both; of two bounds for one figure the one that is harder to pass."""
    merged = bounds(one)
    for key, bound in bounds(other).items():
        pick = max if key.endswith("_min") else min
        merged[key] = pick(bound, merged.get(key, bound))
    return config.Gates(**merged)


def bounds(gates: config.Gates) -> dict[str, float]:
    """Key -> bound of the gates that are stated."""
    return dict(gates.model_dump(exclude_none=True))


def passed_bounds(gates: config.Gates | None, tag: str | None) -> dict[str, float]:
    """The bounds that a model has passed: those asked for now, and those that its version says it passed before."""
    try:
        earlier = config.Gates.model_validate(json.loads(tag or "{}"))
    except ValueError:  # anyone at the server can set a tag
        earlier = config.Gates()
    return bounds(stricter(gates or config.Gates(), earlier))


def gates_text(passed: Mapping[str, float]) -> str:
    """The bounds in words."""
    return ", ".join(f"{key} {bound:g}" for key, bound in passed.items())


@dataclass(frozen=True)
class GateResult:
    """What a run reached at one gate.

    Attributes:
        gate: its key in the pipeline file.
        bound: what it asks for.
        value: what the run reached; None when there is no such figure, or none that is finite.
        what: which figure, in words.
        side: on which side of the bound a miss lies, in a word.
        passed: whether the value reaches the bound.
    """

    gate: str
    bound: float
    value: float | None
    what: str
    side: str
    passed: bool = False

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.gate}: {self.what} is not available, {self.bound:g} is asked for"
        place = "within" if self.passed else self.side
        return f"{self.gate}: {self.what} is {self.value:.4f}, {place} the bound {self.bound:g}"


def check(summary: Mapping[str, Any], gates: config.Gates, roles: Mapping[str, str] | None = None) -> list[GateResult]:
    """The gates a result misses; empty when it passes all that are set. Arguments as of `gate_results`."""
    return [result for result in gate_results(summary, gates, roles) if not result.passed]


def gate_results(
    summary: Mapping[str, Any], gates: config.Gates, roles: Mapping[str, str] | None = None
) -> list[GateResult]:
    """What a result reaches at every gate that is set; empty where none is.

    AUROC gates read the smallest lower 95 % bound over the sites they speak of: held-out sites on all their data
    (`held_out_auroc_min`), training sites on their test splits (`worst_site_auroc_min`). `held_out_ece_max` reads
    the mean ECE over the held-out sites of what is registered, the calibrated model. `held_out_adapted_auroc_min` and
    `held_out_adapted_ece_max` read the same of the adapted model, `held_out_patient_*` and `held_out_slide_*` per
    patient and per slide; `held_out_patient_mean_auroc_min` the lower bound of the mean over the sites. A figure that
    is not available misses its gate.

    Args:
        summary: `summary.json`.
        gates: the bounds.
        roles: site -> role of every site that should have been measured; by default those of the summary, which
            does not know a site whose measurement failed.
    """
    roles = roles or {name: site["role"] for name, site in summary["sites"].items()}
    results = []
    for gate in GATES:
        bound = getattr(gates, gate.key)
        if bound is None:
            continue
        names = sorted(name for name, role in roles.items() if role == gate.role)
        direction = figure(gate.figure).direction
        if gate.of_mean:
            value, what = _bound_of_mean(summary, gate, names)
            passes = value is not None and value >= bound
        elif direction == "higher":
            value, what = _smallest_lower_bound(summary, gate, names)
            passes = value is not None and value >= bound
        else:
            value, what = _mean(summary, gate, names)
            passes = value is not None and value <= bound
        value = value if value is not None and math.isfinite(value) else None  # nan misses
        results.append(GateResult(gate.key, bound, value, what, SIDES[direction], passes))
    return results


def _smallest_lower_bound(summary: Mapping[str, Any], gate: Gate, names: list[str]) -> tuple[float | None, str]:
    label, kind = _label(gate), ROLES[gate.role]
    bounds: dict[str, float] = {}
    for name in names:
        interval = _entry(summary, gate, name).get(f"{gate.figure}_ci")
        if interval is None:
            return None, f"the {_whose(gate)}lower 95 % bound of {label} at the {kind} site {name}"
        bounds[name] = float(interval[0])
    if not bounds:
        return None, f"the {_whose(gate)}{label} of a {kind} site"
    worst = min(names, key=lambda name: bounds[name])
    return bounds[worst], f"the {_whose(gate)}lower 95 % bound of {label} at the {kind} site {worst}"


def _bound_of_mean(summary: Mapping[str, Any], gate: Gate, names: list[str]) -> tuple[float | None, str]:
    what = f"the lower 95 % bound of the {_whose(gate)}mean {_label(gate)} of the {ROLES[gate.role]} sites"
    interval = _over(summary, gate, names).get(f"mean_{gate.figure}_ci")
    return (None if interval is None else float(interval[0])), what


def _mean(summary: Mapping[str, Any], gate: Gate, names: list[str]) -> tuple[float | None, str]:
    what = f"the {_whose(gate)}mean {_label(gate)} of the {ROLES[gate.role]} sites"
    return _over(summary, gate, names).get(f"mean_{gate.figure}"), what


def _over(summary: Mapping[str, Any], gate: Gate, names: list[str]) -> Mapping[str, Any]:
    """The figures over all sites of a gate's role; none where a site lacks the gate's figure."""
    if not names or any(_entry(summary, gate, name).get(gate.figure) is None for name in names):
        return {}
    over: Mapping[str, Any] = summary["held_out" if gate.role == "held_out" else "train_sites"]
    if gate.adapted:
        over = (summary.get("adaptation") or {}).get("held_out") or {}
    # Without figures per patient at any site, each patch is a patient of its own, whose figures are those of patches.
    return over.get(gate.unit, over) if gate.unit else over


def _entry(summary: Mapping[str, Any], gate: Gate, site: str) -> Mapping[str, Any]:
    """The figures of a site that a gate reads; none where there are none."""
    entry: Mapping[str, Any] = summary["sites"].get(site, {})
    if gate.unit:
        slides = gate.unit == "slides" and summary.get("source") == "features"  # whose rows are slides
        return entry if slides else unit_entry(entry, gate.unit)
    return (entry.get("adapted") or {}).get("figures") or {} if gate.adapted else entry


def _whose(gate: Gate) -> str:
    return "adapted model's " if gate.adapted else ""


def _label(gate: Gate) -> str:
    return figure(gate.figure).label + (f" per {UNITS[gate.unit]}" if gate.unit else "")
