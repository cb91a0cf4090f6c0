"""How figures are printed: alike on the console, in reports, in the model card and in a study's tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

BAG_NETWORK = "mil_"
"""How the names of networks over bags of features begin, whose rows are slides."""
MISSING = "n/a"
WITHHELD = "*"
"""How a table shows a count of few patients."""


def format_figure(value: float | None, form: str = ".3f", missing: str = MISSING) -> str:
    """Print a figure without its interval: `0.943`, `n/a`; a whole number, such as a round, as it is."""
    if value is None:
        return missing
    return str(value) if isinstance(value, int) else f"{value:{form}}"


def patch_words(summary: Mapping[str, Any]) -> str:
    """What the patches of a run are called, several of them: slides, where its network sees bags of features."""
    source, model = summary.get("source"), summary.get("model") or {}
    if source == "features" or str(model.get("backbone")).startswith(BAG_NETWORK):
        return "slides"
    return "tiles" if source == "slides" else "patches"


def format_count(count: int | None) -> str:
    """A count, or the mark of one that is withheld."""
    return WITHHELD if count is None else str(count)


def format_about(value: float | None) -> str:
    """A figure from cells of several patients: `about 0.943`, `n/a`."""
    return MISSING if value is None else f"about {format_figure(value)}"


def format_interval(
    value: float | None,
    ci: Sequence[float] | None,
    digits: int = 3,
    few_groups: bool = False,
) -> str:
    """Print a figure with its interval: `0.943 [0.901, 0.972]`, `0.943 [0.90, 0.97] too few groups`, `n/a`.

    Few groups print their interval with one digit less: more would be pretence. Rounding never closes an
    interval onto a perfect value: a lower bound below 1 is not printed as 1, nor an upper bound above 0 as 0.
    """
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:.{digits}f} "
    if ci is None or (ci[0] == ci[1] and ci[0] in (0.0, 1.0)):
        text += format_bounds(None)
    else:
        shown = max(1, digits - 1) if few_groups else digits
        unit = 10.0**-shown
        low = min(ci[0], 1.0 - unit) if ci[0] < 1.0 else ci[0]
        high = max(ci[1], unit) if ci[1] > 0.0 else ci[1]
        text += format_bounds((low, high), f".{shown}f")
    return text + (" too few groups" if few_groups else "")


def format_mean(mean: float | None, ci: Sequence[float] | None, form: str = ".3f") -> str:
    """Print a mean over repeats, or a difference of means (`form` "+.3f"), with its interval: `+0.012 [n/a]`."""
    return MISSING if mean is None else f"{mean:{form}} {format_bounds(ci, form)}"


def format_bounds(ci: Sequence[float] | None, form: str = ".3f") -> str:
    """Print an interval alone: `[0.901, 0.972]`, `[n/a]`."""
    return f"[{MISSING}]" if ci is None else f"[{ci[0]:{form}}, {ci[1]:{form}}]"
