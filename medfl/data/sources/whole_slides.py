"""`source: slides`: whole slides, tiled where there is tissue and labelled by what was drawn on them.

A tile's label is the class whose regions cover most of it, more than half; without an annotation it is that of its
slide in `slides.csv`. A reference is a slide's name with the corner and side of a tile in pixels of its finest level,
`ward/a12.svs#10240,20480,448`. Patients are the source groups. Without `data.root` dealt slides are generated.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Hashable, Sequence
from pathlib import Path

from medfl import config
from medfl.config.spelling import one_form
from medfl.data.left_out import first_few
from medfl.data.patch_store import U8
from medfl.data.rgb import Unreadable
from medfl.data.slides.slide_collection import SlideCollection
from medfl.data.slides.slide_folder import SlideFiles
from medfl.data.slides.slide_reader import OpenSlides
from medfl.data.slides.slide_table import SLIDES_CSV
from medfl.data.sources.file_source import FileSource
from medfl.data.sources.source import PatchEntry, PatchGroups
from medfl.data.sources.source_registry import register
from medfl.errors import MedflError


@register
class WholeSlides(FileSource):
    """Tiles of the slides below `data.root`, or of those that its `slides.csv` gives to the site."""

    kind = "slides"
    class_word = "annotation or label"
    patch_words = "tile", "tiles"
    reads_by_scale = True
    drawn = "Slides"

    def find_root(self) -> Path:
        """The folder that `data.root` names, or generated slides where data are dealt and it names none."""
        if self.spec.root is None and self.spec.site is None:
            from medfl.data.synthetic.slide_writing import write_slides

            return write_slides(self.spec.cache, self.spec.classes, self.spec.data.slides or config.DrawnSlides())
        return super().find_root()

    def check_root(self, root: Path, start: str) -> None:
        """Raise MedflError unless the root is a folder or the table in one."""
        if not root.is_dir() and root.suffix.lower() != ".csv":
            raise MedflError(f"{start} {root}, which is no folder; name the folder of slides, or its {SLIDES_CSV}")

    @functools.cached_property
    def folder(self) -> Path:
        """The folder of slides."""
        return self.collection.folder

    @functools.cached_property
    def collection(self) -> SlideCollection:
        """The site's slides and their tiles."""
        return SlideCollection(self.spec, self.root, self.meaning)

    def meaning(self, word: str) -> int | None:
        """The class that a word stands for, None for one that `labels` drop. Raises MedflError for any other."""
        return None if self.drops(word) else self.class_index(word)

    def list_files(self) -> list[PatchEntry]:
        """Every labelled tile, by slide, then row by row. Raises MedflError as `SlideCollection.check` does."""
        self.collection.check()
        entries = []
        for result in self.collection.tiled:
            name, patient = result.slide.name, self.collection.patient(result.slide)
            digits = len(str(max((max(tile.x, tile.y) for tile in result.tiles), default=0)))
            for tile in result.tiles:
                key = f"{name}/x{tile.x:0{digits}d}-y{tile.y:0{digits}d}"
                entries.append(PatchEntry(tile.word, key, f"{name}#{tile.x},{tile.y},{result.side:.10g}", patient))
        return entries

    def left_out(self, references: Sequence[str]) -> list[str]:
        """Slides without a label, damaged ones, tiles without one, pen marks."""
        return list(self.collection.sentences())

    def groups(self, entries: Sequence[PatchEntry]) -> PatchGroups:
        """The patient of every tile. Raises MedflError where nothing says whose slides they are."""
        if self.spec.source_groups not in (None, "filename", "ignore"):
            raise MedflError(
                f"{self.spec.where}: `data.source_groups` names {self.spec.source_groups}; the patients of slides "
                f"stand in {SLIDES_CSV} (slide,patient), or write `filename` (every slide is of a patient of its own)"
            )
        if self.spec.source_groups == "filename":
            return PatchGroups([entry.group for entry in entries], str(self.folder.resolve()))
        return super().groups(entries)

    def slides(self, references: Sequence[str]) -> list[str]:
        """The slide of each tile."""
        return [reference.rpartition("#")[0] for reference in references]

    def group_tables(self) -> list[Path]:
        """None: patients stand in the table of slides."""
        return []

    def own_groups(self, entries: Sequence[PatchEntry]) -> list[str] | None:
        """The patients, where every slide has one."""
        return [entry.group for entry in entries] if all(entry.group for entry in entries) else None

    def no_groups(self, entries: Sequence[PatchEntry]) -> str:
        """Patients are missing."""
        lacking = self.collection.without_patient()
        return (
            f"nothing says whose slides {len(lacking)} of {len(self.collection.slides)} are ({first_few(lacking)}); "
            f"write {self.folder / SLIDES_CSV} with the columns slide,patient"
        )

    @functools.cached_property
    def _open_slides(self) -> OpenSlides:
        return OpenSlides()

    def slide_of(self, reference: str) -> tuple[SlideFiles, int, int, float]:
        """The slide of a reference, and corner and side of the tile in its level-0 pixels. Raises Unreadable."""
        name, _, numbers = reference.rpartition("#")
        slide = self.collection.in_folder.get(one_form(name))
        if slide is None:
            raise Unreadable(f"there is no slide {name} in {self.folder}")
        x, y, side = numbers.split(",")
        return slide, int(x), int(y), float(side)

    def read(self, reference: str) -> U8:
        """The tile u8[size, size, 3]. Raises Unreadable."""
        slide, x, y, side = self.slide_of(reference)
        size = self.collection.scale.size
        return self._open_slides.get(self.folder / slide.files[0]).read(x, y, side, side, (size, size))

    def path(self, reference: str) -> Path:
        """The file of the slide of a reference."""
        name = one_form(reference.rpartition("#")[0])
        slide = self.collection.in_folder.get(name)
        return self.folder / (slide.files[0] if slide else name)

    def byte_count(self, reference: str) -> int:
        """Bytes of the slide's first file."""
        return self.path(reference).stat().st_size

    def fingerprints(self, references: Sequence[str]) -> list[str]:
        """A digest of each tile: of its slide, its place and its size."""
        prints: dict[str, str] = {}
        size, digests = self.collection.scale.size, []
        for reference in references:
            name, _, place = reference.rpartition("#")
            if name not in prints:
                prints[name] = self.collection.print_of(self.collection.in_folder[one_form(name)])
            digests.append(hashlib.sha256(f"{prints[name]} {place} {size}".encode()).hexdigest()[:32])
        return digests

    def slide_prints(self, references: Sequence[str]) -> list[str]:
        """Digests of the slides' files."""
        slides = {reference.rpartition("#")[0] for reference in references}
        return sorted({self.collection.print_of(self.collection.in_folder[one_form(slide)]) for slide in slides})

    def identity(self, reference: str) -> Hashable:
        """The tile by its slide's content, so that a copy of a slide is the same slide."""
        slide, *place = self.slide_of(reference)
        return self.kind, self.collection.print_of(slide), *place

    def describe(self, reference: str) -> str:
        """The slide's path and the place on it."""
        return f"{self.folder}/{reference}"

    def outside(self, references: Sequence[str]) -> str | None:
        """The first tile whose slide is a link that leads out of the folder, or None."""
        firsts = {reference.rpartition("#")[0]: reference for reference in reversed(references)}
        return next((ref for ref in reversed(firsts.values()) if super(WholeSlides, self).outside([ref])), None)
