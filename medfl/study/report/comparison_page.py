"""The picture of two runs compared: differences with their intervals, as a page or as a picture."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

from medfl.data.atomic_file import replacing, write_text
from medfl.errors import MedflError
from medfl.metrics.formatting import format_bounds
from medfl.plain_text import visible
from medfl.report.html_blocks import Picture, figures, join, table, text
from medfl.report.html_page import PageSection, render_page
from medfl.study.compare_runs import MEAN, label, verdict
from medfl.study.report.study_charts import Dots, Level, dots

COLUMNS = ("site", "figure", "patches (groups)", "first", "second", "difference [95 %]", "p")
FORMS = (".html", ".json", ".png")


def comparison_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """The cells of `COLUMNS`, a row for each site and figure, the mean of the sites last."""
    rows = []
    for name, entry in _places(result):
        count = f"{entry['n']} ({entry['n_groups']})" if "n" in entry else ""
        for key, cell in entry["figures"].items():
            difference = f"{cell['difference']:+.3f}"
            if cell["ci"] is not None:
                difference += f" {format_bounds(cell['ci'], '+.3f')}"
            few = " too few groups" if entry["few_groups"] and cell["ci"] is not None else ""
            p = "n/a" if cell["p"] is None else "<0.001" if cell["p"] < 0.001 else f"{cell['p']:.3f}"
            figures_ = [f"{cell['one']:.3f}", f"{cell['other']:.3f}", difference + few, p]
            rows.append([name, label(key), count, *figures_])
    return rows


def write_comparison(result: Mapping[str, Any], out: Path) -> None:
    """Write a comparison as .html, .json or .png, as the file's name ends. Raises MedflError."""
    ending = check_form(out)
    try:
        if ending == ".json":
            write_text(out, json.dumps(result, indent=2, allow_nan=False) + "\n")
        elif ending == ".html":
            write_text(out, comparison_html(result))
        else:
            with replacing(out) as staged:
                staged.write_bytes(_png(result))
    except OSError as error:
        raise MedflError(f"--out {out} cannot be written: {error.strerror}") from None


def check_form(out: Path) -> str:
    """The ending of a file that a comparison can be written to. Raises MedflError for another one."""
    if out.suffix.lower() not in FORMS:
        raise MedflError(f"--out {out}: name a file that ends in {', '.join(FORMS)}")
    return out.suffix.lower()


def comparison_html(result: Mapping[str, Any]) -> str:
    """One self-contained page."""
    one, other = result["one"], result["other"]
    pictures = []
    for number, key in enumerate(_keys(result)):
        finding = f"Difference in {label(key)} between {one} and {other}, site by site"
        picture = dots(
            _dots(result, key),
            name=f"difference-{number}",
            finding=finding,
            xlabel=f"{label(key)}: first minus second",
            levels=[Level(0.0, "no difference")],
            signed=True,
        )
        pictures.append(Picture(label(key), picture))
    sections = [
        PageSection("differences", "Differences", figures(pictures), "A dot is first minus second, a line its 95 %."),
        PageSection("table", "Table", join(table(COLUMNS, comparison_rows(result), text=3), text(*_how(result)))),
    ]
    return render_page(
        f"{one} and {other}",
        sections,
        kicker="medfl compare",
        subtitle=verdict(result),
        facts=[f"first: {one}", f"second: {other}"],
        notice="LEAKY: source groups were ignored, so test patches may have been trained on." * bool(result["leaky"]),
    )


def _how(result: Mapping[str, Any]) -> list[str]:
    sentences = [
        "Both models were measured on the same patches. Intervals and p (two-sided, not corrected for the number of "
        "rows) are of a t test over source groups. Of Brier score and ECE less is better."
    ]
    if result["withheld"]:
        sentences.append(f"Nothing is told of {', '.join(result['withheld'])}, for too few source groups.")
    return sentences


def _places(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [*result["sites"].items(), *([(MEAN, result["mean"])] if result["mean"] else [])]


def _keys(result: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(key for _, entry in _places(result) for key in entry["figures"]))


def _dots(result: Mapping[str, Any], key: str) -> list[Dots]:
    rows = []
    for name, entry in _places(result):
        if cell := entry["figures"].get(key):
            ends = None if cell["ci"] is None else tuple(cell["ci"])
            rows.append(Dots(name, cell["difference"], ends, beside=f"{cell['difference']:+.3f}", minor=name != MEAN))
    return rows


def _png(result: Mapping[str, Any]) -> bytes:
    """The same differences as a picture, a panel a figure."""
    from matplotlib.figure import Figure

    keys, places = _keys(result), _places(result)
    with matplotlib.rc_context({"text.parse_math": False, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(8.0, 1.0 + len(keys) * (0.7 + 0.28 * len(places))), dpi=120, layout="constrained")
        panels = figure.subplots(len(keys), 1, squeeze=False)[:, 0]
        figure.suptitle(visible(f"{result['one']} minus {result['other']}"), fontsize=11)
        for ax, key in zip(panels, keys, strict=True):
            shown = [(name, entry["figures"][key]) for name, entry in places if key in entry["figures"]]
            for row, (name, cell) in enumerate(shown):
                look = "black" if name == MEAN else "dimgrey"
                if cell["ci"] is not None:
                    ax.plot(cell["ci"], [row, row], color=look, linewidth=2)
                ax.plot([cell["difference"]], [row], "o", color=look, markersize=6)
            ax.axvline(0.0, color="grey", linewidth=1, linestyle="--")
            ax.set_yticks(range(len(shown)), [visible(name) for name, _ in shown], fontsize=9)
            ax.set_ylim(len(shown) - 0.5, -0.5)
            ax.tick_params(axis="x", labelsize=9)
            ax.set_title(label(key), loc="left", fontsize=10)
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
    return stream.getvalue()
