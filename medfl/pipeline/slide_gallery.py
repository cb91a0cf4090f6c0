"""Whole slides in small, with what a model says of them: for pages that stay where the slides are.

One is a section of a run's report that shows patches, the other the page beside the heat maps of a prediction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from medfl.data.atomic_file import write_text
from medfl.data.bag_store import BagStore, SiteStore
from medfl.data.partition import SitePartition
from medfl.data.patch_store import U8
from medfl.data.render import RenderSettings
from medfl.data.rgb import Unreadable
from medfl.data.slides.slide_reader import Slide
from medfl.data.slides.tissue_tiles import tissue_tiles
from medfl.data.sources.whole_slides import WholeSlides
from medfl.metrics.units import NO_CLASS
from medfl.pipeline.slide_verdicts import Probs, slide_scorer
from medfl.pipeline.trained_model import TrainedModel
from medfl.report.embedded_picture import embedded
from medfl.report.html_blocks import PatchPicture, join, slides, text
from medfl.report.html_page import PageSection, render_page
from medfl.runs.model_facts import unit_top
from medfl.site.measurement import store_units
from medfl.site.shared_model import SharedModel

SIDE = 320  # pixels of a slide's longer side: about 15 KB
PAGE = "index.html"
NOTICE = "This page shows patients' tissue and the names of slides: it belongs to the machine that holds them."
ATTENTION = "Colour is attention, a tile's share in the verdict: full at the tile with the largest."
SCORES = "Colour is the probability of {}, tile by tile: full at 1."


@dataclass(frozen=True)
class ScoredSlide:
    """A slide with its picture u8[h, w, 3], its probabilities f64[C] and the label that is known, "" where none is."""

    name: str
    picture: U8
    scores: Probs
    label: str


def colours(facts: Mapping[str, Any], attention: bool) -> str:
    """What the colours of a model's heat maps mean, in a sentence."""
    malignant = facts.get("malignant") or ()
    return ATTENTION if attention else SCORES.format(" or ".join(malignant) or "the likeliest class of the slide")


def write_slide_page(folder: Path, facts: Mapping[str, Any], attention: bool, scored: Sequence[PatchPicture]) -> None:
    """Write `index.html` into the folder of a prediction's heat maps. Raises OSError."""
    lead = f"{colours(facts, attention)} Beside this page lie the pictures as they are, and GeoJSON for QuPath."
    section = PageSection("slides", "Slides", slides(scored), lead)
    counts = [f"model of run {facts.get('run', '(not stated)')}", f"{len(scored):,} slides"]
    write_text(
        folder / PAGE,
        render_page("Slides as the model sees them", [section], facts=counts, kicker="medfl predict", notice=NOTICE),
    )


def slide_figure(slide: ScoredSlide, classes: Sequence[str], named: bool = True) -> PatchPicture:
    """A slide in small with its likeliest class and, where it is known, its label."""
    said = int(np.argmax(slide.scores))
    note = f"labelled {slide.label}" if slide.label else ""
    return PatchPicture(
        embedded(slide.picture, SIDE), f"{classes[said]} {slide.scores[said]:.2f}", note, slide.name if named else ""
    )


@dataclass(frozen=True)
class SlideScores:
    """The test slides of a site: names, probabilities f64[n, C], labels i64[n] and patients i64[n]."""

    names: Sequence[str]
    probs: Probs
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]

    @classmethod
    def of(cls, share: SitePartition, store: SiteStore, probs: Probs, facts: Mapping[str, Any]) -> SlideScores:
        """Those of a site, from the probabilities [n, C] of its test rows: bags, or tiles of slides."""
        rows = store.splits["test"]
        malignant = tuple(facts.get("malignant") or ())
        if isinstance(store, BagStore):
            reference = dict(zip(share.names, share.references, strict=True))  # a store may lack damaged ones
            names = [reference[store.names[row]] for row in rows]
            return cls(names, probs, store.labels[rows], store.groups[rows])
        units = store_units(store, rows, list(facts["classes"]), malignant, unit_top(facts)).get("slides")
        if units is None:  # a tile of each slide
            numbers = [] if store.slides is None else store.slides[rows].tolist()
            names = [store.slide_names[number] for number in numbers]
            return cls(names, probs, store.labels[rows], store.groups[rows])
        names = [store.slide_names[number] for number in units.numbers]
        return cls(names, units.scores(probs), units.labels, units.groups)

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """bool[n]: those whose label is known and is not the likeliest class."""
        return np.asarray((self.probs.argmax(axis=1) != self.labels) & (self.labels != NO_CLASS))

    def telling(self, most: int) -> list[int]:
        """At most so many slides: the wrong ones first, the surest error before the others, then classes in turn; of a
        patient, one."""
        wrong = self.wrong
        turn = np.zeros(len(self.labels), dtype=np.int64)
        for label in np.unique(self.labels):
            own = np.flatnonzero(self.labels == label)
            turn[own] = np.arange(len(own))
        chosen: dict[int, int] = {}
        for place in np.lexsort((self.labels, turn, -self.probs.max(axis=1) * wrong, ~wrong)).tolist():
            chosen.setdefault(int(self.groups[place]), place)
        return list(chosen.values())[:most]


def slide_blocks(
    model: TrainedModel,
    source: WholeSlides,
    look: RenderSettings,
    bench: SharedModel,
    own: SlideScores,
    most: int,
    named: bool,
) -> Iterator[Markup]:
    """A site's part of the section of slides: some of its test slides as heat maps.

    Args:
        model, bench: the model, and a workbench with the weights that count at the site in its network.
        source: the site's slides; look: how their tiles are rendered.
        own: its test slides with their scores.
        most: how many are shown at most.
        named: whether slides are called by their names, which only their site should see.

    Raises:
        MedflError: the encoder's weights are not here.
    """
    collection, classes = source.collection, list(model.facts["classes"])
    score = slide_scorer(model, collection, bench, look)
    shown = []
    for place in own.telling(most):
        slide = collection.in_folder[own.names[place]]
        try:
            tiles = tissue_tiles(collection, slide)
            picture = score(tiles).heat_map(model.facts, Slide(collection.folder / slide.files[0]), tiles)
        except (Unreadable, OSError) as error:
            yield text(f"{slide.name if named else 'A slide'} cannot be shown: {error}")
            continue
        label = "" if own.labels[place] == NO_CLASS else classes[own.labels[place]]
        shown.append(slide_figure(ScoredSlide(slide.name, picture, own.probs[place], label), classes, named))
    yield text(f"{int(own.wrong.sum())} of {len(own.names)} test slides misclassified; {len(shown)} are shown:")
    yield slides(shown)


def slide_section(model: TrainedModel, blocks: Sequence[Markup]) -> PageSection:
    """The section of slides of a report."""
    lead = f"{colours(model.facts, model.reads_bags)} Wrong ones come first. Of a patient, one slide is shown."
    return PageSection("slides", "Slides", join(*blocks), lead)
