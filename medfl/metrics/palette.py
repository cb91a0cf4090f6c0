"""The colours of every picture: pages, charts, previews. One table for light paper, one for a dark screen.

`c0` to `c7` are for classes and other series. Any two of them, and any two of `before`, `after` and `mark`, lie at
least `APART` apart in CIE L*a*b*, as seen with full colour vision, with deuteranopia, protanopia and tritanopia
(simulated after Machado et al. 2009, doi:10.1109/TVCG.2009.113); a test holds them to it. They differ in lightness
first, which all eyes see.
"""

from __future__ import annotations

APART = 20.0

SERIES = ("#2aabff", "#e29b09", "#06935b", "#6b361c", "#91adcc", "#ad4988", "#7a7204", "#34373e")
DARK_SERIES = ("#2290e4", "#ce9614", "#1cca86", "#965a2f", "#9fb4ea", "#d3a9bd", "#feed06", "#6a6e73")

LIGHT = {
    "paper": "#ffffff",
    "panel": "#f5f7f9",
    "ink": "#1b2430",
    "quiet": "#56616f",
    "rule": "#dde2e8",
    "accent": "#0b5a9d",
    "warn": "#9a4a00",
    "warn-panel": "#fff6ea",
    "warn-rule": "#efc78f",
    "alarm": "#b3161b",
    "before": "#c75b00",
    "after": "#0069b0",
    "mark": "#8c1d62",
    "heat": "#6aa5dc",
    **{f"c{index}": colour for index, colour in enumerate(SERIES)},
}
DARK = {
    "paper": "#11161c",
    "panel": "#1a212a",
    "ink": "#e7ebf0",
    "quiet": "#a3adb9",
    "rule": "#2f3945",
    "accent": "#79b8f3",
    "warn": "#f2b56b",
    "warn-panel": "#251d12",
    "warn-rule": "#6b4c22",
    "alarm": "#ff8f88",
    "before": "#f09a4a",
    "after": "#5fb2f0",
    "mark": "#f6c1e4",
    "heat": "#2c69a8",
    **{f"c{index}": colour for index, colour in enumerate(DARK_SERIES)},
}
"""CSS variables by name, without their dashes."""


def css_variables(colours: dict[str, str]) -> str:
    """`--paper: #ffffff; --panel: ...`"""
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
