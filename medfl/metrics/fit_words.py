"""How a calibration came about, in words: the same for console, report and card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medfl.metrics.temperature import ENOUGH_GROUPS

BOUNDS = {
    "lower": "left alone, since the model separates these patches perfectly",
    "upper": "the model is no better than chance on them",
}


def fit_name(fit: Mapping[str, Any]) -> str:
    """What was fitted, from `calibration` of a summary."""
    if "temperature" in fit:
        return f"Temperature {fit['temperature']:.3f}"
    if not fit.get("scale"):
        return "Vector scaling, which changes nothing"
    ends = [f"{min(fit[key]):.3f} to {max(fit[key]):.3f}" for key in ("scale", "bias")]
    return f"Vector scaling, factors {ends[0]} and constants {ends[1]} by class"


def fit_means(fit: Mapping[str, Any]) -> str:
    """What becomes of the logits."""
    if "temperature" in fit:
        return "logits are divided by it"
    return "each class's logit times its factor, plus its constant"


def fit_ways(fit: Mapping[str, Any]) -> str:
    """How the patches counted and were seen, with a comma before each part; empty where as they are."""
    ways = ", every site counting the same" if fit.get("weights") == "sites" else ""
    if count := fit.get("laboratories"):
        each = "a random laboratory" if count == 1 else f"{count} random laboratories each"
        ways += f", seen through {each} (strength {fit['stain_strength']:g})"
    return ways


def fit_cautions(fit: Mapping[str, Any]) -> list[str]:
    """What to keep in mind: a pull by few groups, an end of the range."""
    cautions = []
    if fit.get("pulled"):
        where = "towards 1" if "temperature" in fit else f"towards the temperature {fit['towards']:.3f} for all"
        enough = str(ENOUGH_GROUPS) if "temperature" in fit else f"{ENOUGH_GROUPS} for every class"
        cautions.append(f"pulled {where}, since {fit['groups']} source groups are fewer than {enough}")
    if bound := fit.get("bound"):
        cautions.append(BOUNDS[bound])
    return cautions
