"""The house style of charts: inline SVG whose colours are the page's CSS variables and whose font is the page's.

A chart is drawn by matplotlib in stand-in colours, one per token, and every stand-in is then replaced by
`var(--token)`; so one picture is legible on a light screen, on a dark one and on paper. Text stays text.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medfl.plain_text import visible

TOKENS = ("ink", "quiet", "rule", "before", "after", "mark", "heat", "paper", *(f"c{i}" for i in range(8)))
"""Names of the CSS variables that charts use; `c0` to `c7` are for classes, told apart in every colour vision."""
_STAND_INS = {f"#{index + 1:02x}0a5c": token for index, token in enumerate(TOKENS)}
_COLOURS = {token: stand_in for stand_in, token in _STAND_INS.items()}
HATCHES = ("", "////", "....", "xxxx")
PIXELS = 72.0
"""matplotlib's SVG has 72 units an inch, so a figure of 340 / 72 inches is 340 CSS pixels wide."""

_RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may be called $x$
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # shipped with matplotlib, hence the same layout everywhere
    "font.size": 11.0,
    "axes.labelsize": 11.0,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "text.color": _COLOURS["ink"],
    "axes.labelcolor": _COLOURS["quiet"],
    "axes.edgecolor": _COLOURS["quiet"],
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": _COLOURS["rule"],
    "grid.linewidth": 0.8,
    "xtick.color": _COLOURS["quiet"],
    "ytick.color": _COLOURS["quiet"],
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.0,
    "lines.solid_capstyle": "round",
    "hatch.linewidth": 0.7,
    "hatch.color": _COLOURS["paper"],
}
P = ParamSpec("P")


def colour(token: str) -> str:
    """The stand-in for a CSS variable, to be used as a matplotlib colour."""
    return _COLOURS[token]


def class_look(index: int) -> dict[str, Any]:
    """Fill of the class with this index: eight colours, then the same ones hatched."""
    return {"facecolor": colour(class_token(index)), "hatch": HATCHES[index // 8 % len(HATCHES)]}


def class_token(index: int) -> str:
    """The CSS variable of the class with this index."""
    return f"c{index % 8}"


def canvas(width: float, height: float) -> Figure:
    """An empty figure of this many CSS pixels."""
    return Figure(figsize=(width / PIXELS, height / PIXELS), dpi=PIXELS)


def axes(figure: Figure, left: float, top: float, right: float, bottom: float) -> Axes:
    """Axes that leave these margins, in CSS pixels: fixed, so that charts side by side line up."""
    width, height = (inches * PIXELS for inches in figure.get_size_inches())
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    return figure.add_axes(box)


def chart(draw: Callable[P, Figure]) -> Callable[P, Markup]:
    """Turn a drawing function into one that returns inline SVG.

    The function must take the keywords `name`, unique on its page (ids are made of it), and `finding`, the sentence
    that stands in for the picture where it is not seen. Equal arguments give equal text.
    """

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Markup:
        name, finding = str(kwargs["name"]), str(kwargs["finding"])
        key = hashlib.sha256(name.encode()).hexdigest()[:8]
        with matplotlib.rc_context(_settings() | {"svg.hashsalt": key}):  # type: ignore[arg-type]
            text = rendered(draw(*args, **kwargs))
        return Markup(_inline(text, key, visible(finding)))

    return drawn


def rendered(figure: Figure) -> str:
    """A figure as the text of an SVG file, under the settings that hold."""
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the page's reader has the font, or one like it
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


@functools.cache
def _settings() -> dict[str, Any]:
    """matplotlib's own defaults, whatever the user's matplotlibrc says, and the house style above them."""
    default = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
    return default | _RC


_NUMBERS = re.compile(r"-?\d+\.\d+")
_STAND_IN = re.compile("|".join(map(re.escape, _STAND_INS)))
_REFERENCE = re.compile(r"(?<=url\(#)[^)]+")
_GEOMETRY = ("d", "x", "y", "width", "height", "transform")
_XLINK = "{http://www.w3.org/1999/xlink}href"


def _inline(text: str, key: str, finding: str) -> str:
    """matplotlib's SVG file as an element of an HTML page: no prolog, no metadata, ids of its own, page colours."""
    root = ElementTree.fromstring(text)
    box = root.get("viewBox", "0 0 0 0")
    root.attrib.clear()
    root.attrib |= {"class": "chart", "viewBox": box, "role": "img", "aria-label": finding}
    ids: dict[str, str] = {}
    for element in root.iter():
        references = _REFERENCE.findall(element.get("clip-path", "") + element.get("style", ""))
        for reference in [*references, element.get(_XLINK, "#")[1:]]:
            if reference:
                ids.setdefault(reference, f"m{key}-{len(ids)}")
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        _tidy(element, ids)
    return ElementTree.tostring(root, encoding="unicode")


def _tidy(element: ElementTree.Element, ids: dict[str, str]) -> None:
    element.tag = element.tag.rpartition("}")[2]
    if element.tag != "text":
        element.text = None
    element.tail = None
    given = dict(element.attrib)
    element.attrib.clear()
    for attribute, value in given.items():
        if attribute == "id":
            if value in ids:
                element.set("id", ids[value])
        elif attribute == _XLINK:
            element.set("href", f"#{ids[value[1:]]}")
        elif attribute in _GEOMETRY:
            value = _NUMBERS.sub(lambda m: f"{float(m[0]):.1f}".removesuffix(".0"), value)
            value = re.sub(r"\s+", " ", value).strip()
            if not value.startswith("rotate(-0 "):
                element.set(attribute, value)
        else:
            value = re.sub(r"font-family: [^;]*(; )?", "", value)
            value = _REFERENCE.sub(lambda m: ids[m[0]], value)
            element.set(attribute, _STAND_IN.sub(lambda m: f"var(--{_STAND_INS[m[0]]})", value))
