"""One picture of all sites: a row of patches each, as the model will see them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medfl import config
from medfl.data.partition_by_class_mix import apportion
from medfl.data.patch_store import I64, PatchStore
from medfl.errors import MedflError
from medfl.metrics.palette import LIGHT, SERIES
from medfl.plain_text import shortened
from medfl.seeds import seed_for

MAX_SITES = 24
DPI = 100
PATCH = 1.0  # inches a side; the rest of the layout is in inches too
GAP, LABEL, LEFT, MARGIN, FOOT = 0.08, 0.22, 2.15, 0.25, 0.45
ABOVE, BELOW = 15, 32  # characters of a class's name above a patch and in the legend
INK, QUIET, COLOURS = LIGHT["ink"], LIGHT["quiet"], SERIES
SHOWN_SPLIT = {"train": "train", "held_out": "test"}


def preview(stores: Sequence[PatchStore], path: Path, pipeline: config.Pipeline, per_site: int = 8) -> None:
    """Write a PNG with a row of `per_site` patches for each site, at most 24 sites.

    Training sites show patches of their train split, held-out sites of their test data; the classes of a row are in
    proportion to the site's mix, each present class at least once where there is room, each patch from a source group
    of its own where there are enough. The bar under a site's name is its class mix.

    Raises:
        MedflError: no site, or `path` cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    if not stores:
        raise MedflError("there is no site to show; list sites in the pipeline")
    rows, classes = stores[:MAX_SITES], pipeline.task.classes
    width = MARGIN + LEFT + per_site * (PATCH + GAP) - GAP + MARGIN
    height = MARGIN + len(rows) * (LABEL + PATCH + GAP) + FOOT
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    page = _Page(figure, width, height)
    for index, store in enumerate(rows):
        _row(page, MARGIN + index * (LABEL + PATCH + GAP), store, classes, per_site)
    _legend(page, height - FOOT + 0.2, classes, len(stores) - len(rows))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # an empty box stands for it
        canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    try:
        Image.fromarray(pixels).save(path, format="PNG", optimize=True)
    except OSError as error:
        raise MedflError(f"{path} cannot be written ({error.strerror}); name another file with --out") from None


class _Page:
    """Drawing in inches from the top left corner."""

    def __init__(self, figure: Any, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height

    def text(self, x: float, y: float, text: str, size: float, **style: Any) -> None:
        self.figure.text(
            x / self.width, 1 - y / self.height, text, fontsize=size, parse_math=False, **{"va": "baseline", **style}
        )

    def axes(self, x: float, y: float, width: float, height: float) -> Any:
        box = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(box)
        axes.set_axis_off()
        return axes


def _row(page: _Page, top: float, store: PatchStore, classes: Sequence[str], per_site: int) -> None:
    role = "train" if "train" in store.splits else "held_out"
    counts = np.bincount(store.labels, minlength=len(classes))
    above = top + LABEL
    page.text(MARGIN, above + 0.22, store.site, 10.5, color=INK, weight="bold")
    page.text(MARGIN, above + 0.42, "trains" if role == "train" else "held out", 8, color=QUIET, style="italic")
    groups = len(np.unique(store.groups))
    page.text(MARGIN, above + 0.60, f"{len(store.labels):,} patches, {groups:,} sources", 8, color=QUIET)
    bar = page.axes(MARGIN, above + 0.70, LEFT - 0.35, 0.09)
    bar.set_xlim(0, 1)
    start = 0.0
    for label, share in enumerate(counts / counts.sum()):
        bar.barh(0, share, left=start, height=1, color=_colour(label), edgecolor="white", linewidth=0.6)
        start += share
    bar.set_ylim(-0.5, 0.5)
    for column, patch in enumerate(_choose(store, counts, store.splits[SHOWN_SPLIT[role]], per_site)):
        x, label = MARGIN + LEFT + column * (PATCH + GAP), int(store.labels[patch])
        page.text(x, above - 0.06, shortened(classes[label], ABOVE), 7, color=_colour(label))
        page.axes(x, above, PATCH, PATCH).imshow(
            np.asarray(store.images[patch]), interpolation="lanczos", aspect="auto"
        )


def _choose(store: PatchStore, counts: I64, rows: I64, total: int) -> list[int]:
    """Rows to show, by class: numbers as the mix has them, groups as different as can be."""
    present = np.bincount(store.labels[rows], minlength=len(counts))
    number = apportion(total, counts / counts.sum())
    for lacking in np.flatnonzero((number == 0) & (present > 0)):
        if number.max() > 1:
            number[number.argmax()] -= 1
            number[lacking] = 1
    order = np.random.default_rng(seed_for("preview", store.site)).permutation(rows)
    selection: list[int] = []
    for label, count in enumerate(number):
        mine = order[store.labels[order] == label]
        _, firsts = np.unique(store.groups[mine], return_index=True)
        others = np.setdiff1d(np.arange(len(mine)), firsts)
        selection += mine[np.concatenate([np.sort(firsts), others])[:count]].tolist()
    return selection


def _legend(page: _Page, y: float, classes: Sequence[str], hidden: int) -> None:
    x = MARGIN + LEFT
    for label, name in enumerate(shortened(name, BELOW) for name in classes):
        page.axes(x, y - 0.09, 0.12, 0.1).axhspan(0, 1, color=_colour(label))
        page.text(x + 0.18, y, name, 8, color=INK)
        x += 0.45 + 0.075 * len(name)
    if hidden:
        page.text(MARGIN, y, f"and {hidden} more sites", 8, color=QUIET)


def _colour(label: int) -> str:
    return COLOURS[label % len(COLOURS)]
