"""The slides of one site: which they are, whose, what is known of them, and their labelled tiles."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medfl import config
from medfl.data.left_out import first_few
from medfl.data.rgb import Unreadable
from medfl.data.slides.slide_folder import SlideFiles, SlideFingerprints, list_slides
from medfl.data.slides.slide_reader import SUFFIXES
from medfl.data.slides.slide_table import SLIDES_CSV, SlideFacts, SlideTable, read_slide_table
from medfl.data.slides.slide_tiling import MARKED, SlideTask, SlideTiling, tile_slide
from medfl.data.slides.tile_grid import TileScale, tile_scale
from medfl.data.slides.tile_labels import contradiction, tile_labels
from medfl.data.sources.source import SourceSpec
from medfl.errors import MedflError
from medfl.seeds import seed_for

WORKERS = 4
NO_FACTS = SlideFacts(0)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledTile:
    """One tile: the word for its class, and its corner in level-0 pixels."""

    word: str
    x: int
    y: int


@dataclass(frozen=True)
class TiledSlide:
    """What became of one slide.

    Attributes:
        slide: its files.
        side: level-0 pixels of a tile's side.
        tiles: those with a label, drawn where there are too many.
        problem: why there are none, empty where it could be tiled.
        marks: share of it that a pen marked.
        unlabelled, undrawn: tiles of tissue without a label, and beyond the most of a slide.
        notes: what is to be told of its annotation.
    """

    slide: SlideFiles
    side: float = 0.0
    tiles: tuple[LabelledTile, ...] = ()
    problem: str = ""
    marks: float = 0.0
    unlabelled: int = 0
    undrawn: int = 0
    notes: tuple[str, ...] = ()


class SlideCollection:
    """The slides below a folder that are a site's.

    Args:
        spec: what the site's file and the pipeline say.
        root: the folder, or the table in it.
        meaning: the class that a word stands for, None for one that is left out; raises MedflError for any other.
    """

    def __init__(self, spec: SourceSpec, root: Path, meaning: Callable[[str], int | None]) -> None:
        self.spec = spec
        self.root = root
        self.folder = root if root.is_dir() else root.parent
        self.meaning = meaning
        self.tile = spec.data.tile or config.TileSettings()
        self._digests: dict[str, str] = {}

    @functools.cached_property
    def scale(self) -> TileScale:
        """What a tile is. Raises MedflError where the pipeline does not say at which microns per pixel."""
        scale = tile_scale(self.spec.data)
        if scale is None:
            raise MedflError(
                f"{self.spec.where}: slides are read at the microns per pixel that the model sees, which the pipeline "
                f"does not state; add `data.mpp`, for example 0.5"
            )
        return scale

    @functools.cached_property
    def in_folder(self) -> dict[str, SlideFiles]:
        """Every slide of the folder by its name. Raises MedflError where there is none."""
        slides = list_slides(self.folder, self.spec.where)
        if not slides:
            raise MedflError(
                f"{self.spec.where}: no slide in {self.folder} (`data.root`); slides end in {', '.join(SUFFIXES)}"
            )
        return {slide.name: slide for slide in slides}

    @functools.cached_property
    def table(self) -> SlideTable:
        """What `slides.csv` says; nothing where there is none."""
        path = self.root if self.root.is_file() else self.folder / SLIDES_CSV
        if not path.is_file():
            return SlideTable({}, False)
        table = read_slide_table(path, list(self.in_folder.values()), self.spec.where)
        for note in table.notes:
            log.warning("%s: %s", self.spec.where, note)
        return table

    @functools.cached_property
    def slides(self) -> dict[str, SlideFiles]:
        """The site's slides by name: all of the folder, or those that the table gives to it."""
        facts, site = self.table.facts, self.spec.site
        if not self.table.has_sites or site is None:
            return self.in_folder
        own = {name: slide for name, slide in self.in_folder.items() if facts.get(name, NO_FACTS).site == site}
        if not own:
            sites = ", ".join(sorted({row.site for row in facts.values() if row.site}))
            raise MedflError(f"{self.spec.where}: no row of {SLIDES_CSV} is of this site; its sites are {sites}")
        return own

    def facts(self, slide: SlideFiles) -> SlideFacts:
        """What the table says of a slide."""
        return self.table.facts.get(slide.name, NO_FACTS)

    def patient(self, slide: SlideFiles) -> str:
        """Whose slide it is, empty where nothing says it."""
        return slide.name if self.spec.source_groups == "filename" else self.facts(slide).patient

    def print_of(self, slide: SlideFiles) -> str:
        """A digest of a slide's files as they were when it was first asked for. Raises OSError."""
        if slide.name not in self._digests:
            self._digests[slide.name] = self._prints.of(slide)
        return self._digests[slide.name]

    @functools.cached_property
    def _prints(self) -> SlideFingerprints:
        return SlideFingerprints(self.folder, self.spec.cache)

    def task(self, slide: SlideFiles) -> SlideTask:
        """What there is to look at in a slide. Raises OSError."""
        prints = [self.print_of(slide)]
        if slide.annotation is not None:
            prints.append(hashlib.sha256(slide.annotation.read_bytes()).hexdigest()[:32])
        mpp = self.facts(slide).mpp
        path = self.folder / slide.files[0]
        return SlideTask(path, slide.annotation, self.scale, mpp or self.spec.mpp, mpp is not None, tuple(prints))

    @functools.cached_property
    def tiled(self) -> list[TiledSlide]:
        """What became of every slide that has a label or an annotation; looked at once, on a few threads.

        Raises MedflError where there is none, for words that are no class and for contradictions.
        """
        labelled = [slide for slide in self.slides.values() if slide.annotation or self.facts(slide).label]
        if not labelled:
            raise MedflError(
                f"{self.spec.where}: none of {len(self.slides)} slides in {self.folder} has an annotation or a label; "
                f"put QuPath's GeoJSON or ASAP's XML beside each, called as the slide, or state labels in {SLIDES_CSV} "
                f"(slide,patient,label)"
            )
        with ThreadPoolExecutor(WORKERS) as pool:
            tilings = list(pool.map(self._tiling, labelled))
        return [self._labelled(slide, tiling) for slide, tiling in zip(labelled, tilings, strict=True)]

    def _tiling(self, slide: SlideFiles) -> SlideTiling | str:
        """The tiles of a slide, or why there are none."""
        try:
            return tile_slide(self.task(slide), self.spec.cache)
        except Unreadable as error:
            return str(error)
        except OSError as error:
            return error.strerror or str(error)

    def _labelled(self, slide: SlideFiles, tiling: SlideTiling | str) -> TiledSlide:
        if isinstance(tiling, str):
            return TiledSlide(slide, problem=tiling)
        if tiling.words:
            classes = {word: self.meaning(word) for word in tiling.words}
            if problem := contradiction(tiling, classes):
                raise MedflError(f"{self.spec.where}: {slide.annotation}: {problem}")
            words = tile_labels(tiling, classes)
        else:
            words = [self.facts(slide).label] * len(tiling.x)
        rows = drawn = [row for row, word in enumerate(words) if word]
        limit = self.tile.per_slide_max
        if limit and len(rows) > limit:
            drawn = drawn_tiles(slide, rows, limit)
        return TiledSlide(
            slide,
            side=tiling.side,
            tiles=tuple(LabelledTile(words[row], tiling.x[row], tiling.y[row]) for row in drawn),
            marks=tiling.marks,
            unlabelled=words.count(""),
            undrawn=len(rows) - len(drawn),
            notes=tuple(tiling.notes),
        )

    def check(self) -> None:
        """Raise MedflError for slides that cannot be tiled, unless they are skipped, where no tile has a label, and for
        a table that gives slides to sites while a pipeline deals them."""
        self.check_sites()
        self.check_damaged([f"{result.slide.name} ({result.problem})" for result in self.tiled if result.problem])
        if not any(result.tiles for result in self.tiled):
            unlabelled = sum(result.unlabelled for result in self.tiled)
            raise MedflError(
                f"{self.spec.where}: no tile of {len(self.tiled)} slides in {self.folder} has a label; {unlabelled} "
                f"tiles have tissue and no class whose regions cover more than half of them. Look at them with `medfl "
                f"slides preview`, or lower `data.tile.min_tissue`"
            )

    def check_sites(self) -> None:
        """Raise MedflError for a table that gives slides to sites while a pipeline deals them."""
        if self.table.has_sites and self.spec.site is None:
            raise MedflError(
                f"{self.spec.where}: {SLIDES_CSV} gives slides to sites, and the pipeline deals them out; set "
                f"`data.mode: own`, or remove the column site"
            )

    def check_damaged(self, damaged: Sequence[str]) -> None:
        """Raise MedflError for slides, named with the reason, that cannot be tiled, unless they are skipped."""
        if damaged and not self.tile.skip_damaged:
            raise MedflError(
                f"{self.spec.where}: {len(damaged)} of {len(self.slides)} slides in {self.folder} cannot be tiled: "
                f"{first_few(damaged)}; mend or remove them, or set `data.tile.skip_damaged: true`, which leaves them "
                f"out with a count"
            )
        if damaged:
            log.warning("%s: %s left out: %s", self.spec.where, _count(len(damaged)), first_few(damaged))

    def sentences(self) -> Iterator[str]:
        """What is not among the tiles: slides without a label, damaged ones, tiles without one, pen marks."""
        bare = [slide.name for slide in self.slides.values() if not slide.annotation and not self.facts(slide).label]
        if bare:
            yield f"Left out: {_count(len(bare))} without an annotation or a label ({first_few(bare)})."
        damaged = [f"{result.slide.name}: {result.problem}" for result in self.tiled if result.problem]
        if damaged:
            yield f"Left out: {_count(len(damaged))} that cannot be tiled ({first_few(damaged)})."
        unlabelled = sum(result.unlabelled for result in self.tiled)
        if unlabelled:
            yield f"Left out: {unlabelled:,} tiles of tissue that no class's regions cover by more than half."
        undrawn = sum(result.undrawn for result in self.tiled)
        if undrawn:
            yield f"Left out: {undrawn:,} tiles above `data.tile.per_slide_max` of their slide, by draw."
        marked = [f"{result.slide.name} {result.marks:.1%}" for result in self.tiled if result.marks > MARKED]
        if marked:
            yield f"Marks of a pen, which give no tiles, on {_count(len(marked))} ({first_few(marked)})."
        notes = Counter(note for result in self.tiled for note in result.notes)
        if notes:
            listing = [f"{note} on {_count(count)}" for note, count in sorted(notes.items())]
            yield f"Annotations: {first_few(listing)}."
        yield from self.table.notes

    def without_patient(self) -> Sequence[str]:
        """Names of the tiled slides of which nothing says whose they are."""
        return [result.slide.name for result in self.tiled if result.tiles and not self.patient(result.slide)]


def drawn_tiles(slide: SlideFiles, rows: Sequence[int], limit: int) -> list[int]:
    """So many of a slide's tiles, drawn by its name: the same at every start."""
    rng = np.random.default_rng(seed_for("tiles", slide.stem))
    drawn: list[int] = sorted(rng.permutation(rows)[:limit].tolist())
    return drawn


def _count(slides: int) -> str:
    return f"{slides:,} slide{'' if slides == 1 else 's'}"
