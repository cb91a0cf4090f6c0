"""`source: slides` for a model over bags: every slide with a label is a bag of its tiles of tissue.

A slide's label is that of its row in `slides.csv`; what was drawn on it plays no part. A reference is a slide's name.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from pathlib import Path

from medfl.config.spelling import one_form
from medfl.data.left_out import first_few
from medfl.data.patch_store import U8
from medfl.data.rgb import Unreadable
from medfl.data.slides.slide_collection import SlideCollection
from medfl.data.slides.slide_folder import SlideFiles
from medfl.data.slides.slide_table import SLIDES_CSV
from medfl.data.slides.slide_tiling import MARKED
from medfl.data.slides.tissue_tiles import TissueTiles, tiles_or_reasons, tiles_print
from medfl.data.sources.file_source import FileSource
from medfl.data.sources.source import PatchEntry
from medfl.data.sources.source_registry import register_bags
from medfl.data.sources.whole_slides import WholeSlides
from medfl.errors import MedflError


@register_bags
class SlideBags(WholeSlides):
    """The labelled slides below `data.root`, each a bag of tiles."""

    class_word = "label"
    patch_words = file_words = "slide", "slides"
    gives_bags = True

    @functools.cached_property
    def _results(self) -> dict[str, TissueTiles | str]:
        """The tiles of every slide with a label, by its name, or why there are none. Raises MedflError where no slide
        has a label."""
        labelled = [slide for slide in self.collection.slides.values() if self.collection.facts(slide).label]
        if not labelled:
            raise MedflError(
                f"{self.spec.where}: none of {len(self.collection.slides)} slides in {self.folder} has a label, which "
                f"`model.mil` learns; state them in {SLIDES_CSV} (slide,patient,label)"
            )
        results = tiles_or_reasons(self.collection, labelled)
        return {slide.name: result for slide, result in zip(labelled, results, strict=True)}

    @property
    def damaged(self) -> list[str]:
        """Slides that cannot be tiled, with the reason."""
        return [f"{name} ({result})" for name, result in self._results.items() if isinstance(result, str)]

    @functools.cached_property
    def bags(self) -> dict[str, TissueTiles]:
        """The tiles of every slide with a label, by its name.

        Raises MedflError where there is none, and for slides that cannot be tiled, unless they are skipped.
        """
        self.collection.check_damaged(self.damaged)
        bags = {name: result for name, result in self._results.items() if not isinstance(result, str)}
        if not bags:
            raise MedflError(
                f"{self.spec.where}: none of {len(self._results)} slides can be tiled: {first_few(self.damaged)}"
            )
        return bags

    def list_files(self) -> list[PatchEntry]:
        """Every labelled slide, by label and name."""
        self.collection.check_sites()
        own: SlideCollection = self.collection
        entries = [
            PatchEntry(own.facts(tiles.slide).label, name, name, own.patient(tiles.slide))
            for name, tiles in self.bags.items()
        ]
        return sorted(entries, key=lambda entry: (entry.word, entry.key))

    def left_out(self, references: Sequence[str]) -> list[str]:
        """Slides without a label, damaged ones, tiles beyond the most of a slide, pen marks."""
        bare = [slide.name for slide in self.collection.slides.values() if not self.collection.facts(slide).label]
        bags = self.bags.values()
        marked = [f"{tiles.slide.name} {tiles.marks:.1%}" for tiles in bags if tiles.marks > MARKED]
        undrawn = sum(tiles.undrawn for tiles in bags)
        parts = {
            f"Left out: {len(bare):,} slides without a label ({first_few(bare)}).": bare,
            f"Left out: {len(self.damaged):,} slides that cannot be tiled ({first_few(self.damaged)}).": self.damaged,
            f"Left out: {undrawn:,} tiles above `data.tile.per_slide_max` of their slide, by draw.": undrawn,
            f"Marks of a pen, which give no tiles, on {len(marked):,} slides ({first_few(marked)}).": marked,
        }
        return [sentence for sentence, some in parts.items() if some] + list(self.collection.table.notes)

    def no_groups(self, entries: Sequence[PatchEntry]) -> str:
        """Patients are missing."""
        lacking = [entry.reference for entry in entries if not entry.group]
        return (
            f"nothing says whose slides {len(lacking)} of {len(entries)} are ({first_few(lacking)}); write "
            f"{self.folder / SLIDES_CSV} with the columns slide,patient,label"
        )

    def slide(self, reference: str) -> SlideFiles:
        """The slide of a reference. Raises Unreadable."""
        slide = self.collection.in_folder.get(one_form(reference))
        if slide is None:
            raise Unreadable(f"there is no slide {reference} in {self.folder}")
        return slide

    def read(self, reference: str) -> U8:
        """No patch."""
        raise Unreadable("a slide, of which a model over bags sees features and no picture")

    def path(self, reference: str) -> Path:
        """The slide's first file."""
        slide = self.collection.in_folder.get(one_form(reference))
        return self.folder / (slide.files[0] if slide else reference)

    def fingerprints(self, references: Sequence[str]) -> list[str]:
        """A digest of each slide and of how it is tiled."""
        return [tiles_print(self.collection, self.slide(reference)) for reference in references]

    def identity(self, reference: str) -> Hashable:
        """The slide by its content, so that a copy of it is the same slide."""
        return self.kind, self.collection.print_of(self.slide(reference))

    def outside(self, references: Sequence[str]) -> str | None:
        """The first slide that is a link which leads out of the folder, or None."""
        return FileSource.outside(self, references)
