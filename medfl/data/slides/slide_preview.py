"""What a site's slides look like to medfl: pictures with tissue, tiles, regions and pen marks, and a page of them."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medfl.config.spelling import show
from medfl.data.atomic_file import write_text
from medfl.data.patch_store import U8
from medfl.data.rgb import Unreadable
from medfl.data.slides.slide_collection import SlideCollection
from medfl.data.slides.slide_folder import SlideFiles
from medfl.data.slides.slide_library import slide_library
from medfl.data.slides.slide_reader import Slide
from medfl.data.slides.slide_tiling import SlideLook, look_at
from medfl.errors import MedflError
from medfl.metrics.palette import SERIES

SIDE = 1200  # pixels of a picture's longer side
UNLABELLED, MARKED, OUTLINE = "#7a7a7a", (220, 30, 30), (30, 30, 30)
PAGE = "index.html"


@dataclass(frozen=True)
class SlidePicture:
    """One slide of a preview: its name, the picture's file, and what there is to say of it."""

    name: str
    file: str
    text: str


def preview_slides(
    collection: SlideCollection, out: Path, most: int, progress: Callable[[str], None]
) -> list[SlidePicture]:
    """Write a picture of each slide, at most `most`, and a page of them into a new folder.

    Tissue is bright and what is none is pale, pen marks are red; tiles have the colour of the class that covers most of
    them, grey where none does; regions are outlined. A slide that cannot be read is on the page with the reason.

    Raises:
        MedflError: no slide, or `out` cannot be written.
    """
    pictures = []
    words = _Colours()
    try:
        out.mkdir(parents=True)
        for number, slide in enumerate(list(collection.slides.values())[:most]):
            progress(slide.name)
            pictures.append(_picture(collection, slide, out / f"{number + 1:03d}.png", words))
        write_text(out / PAGE, _page(pictures, len(collection.slides) - len(pictures), words))
    except FileExistsError:
        raise MedflError(f"{out} exists already; name another folder with --out") from None
    except OSError as error:
        raise MedflError(f"{out} cannot be written ({error.strerror}); name another folder with --out") from None
    return pictures


class _Colours:
    """A colour for each word, in the order in which they come."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}

    def __call__(self, word: str) -> str:
        return self.of.setdefault(word, SERIES[len(self.of) % len(SERIES)]) if word else UNLABELLED


def _picture(collection: SlideCollection, files: SlideFiles, file: Path, colours: _Colours) -> SlidePicture:
    from PIL import Image

    try:
        task = collection.task(files)
        look = look_at(task)
        slide = Slide(task.path, task.mpp, task.override)
        picture, scale = slide.overview(max(slide.width, slide.height) / SIDE)
    except Unreadable as error:
        return SlidePicture(files.name, "", f"cannot be tiled: {error}")
    label = collection.facts(files).label
    words = _words(look, label)
    image = Image.fromarray(_shaded(picture, look))
    _draw(image, look, words, scale, colours)
    image.save(file, optimize=True)
    return SlidePicture(files.name, file.name, "; ".join(_sentences(look, words, collection.patient(files))))


def _words(look: SlideLook, label: str) -> list[str]:
    """For each tile the word that covers more than half of it; the slide's label where nothing was drawn."""
    if not look.tiling.words:
        return [label] * len(look.tiling.x)
    return [look.tiling.words[int(np.argmax(row))] if max(row) > 0.5 else "" for row in look.tiling.shares]


def _sentences(look: SlideLook, words: list[str], patient: str) -> Iterator[str]:
    tiling = look.tiling
    yield f"patient {patient}" if patient else "no patient stated"
    yield f"{tiling.mpp:.4g} microns per pixel"
    yield f"{look.mask.tissue.mean():.0%} tissue"
    counts = ", ".join(f"{word or 'without a label'} {count:,}" for word, count in sorted(Counter(words).items()))
    yield f"{len(words):,} tiles{f' ({counts})' if counts else ''}"
    if tiling.marks > 0:
        yield f"pen marks on {tiling.marks:.1%}"
    yield from tiling.notes
    for one, other, share in tiling.overlaps:
        yield f"{share:.0%} of {one} or {other} lie under the other"


def _shaded(picture: U8, look: SlideLook) -> U8:
    """The picture, pale where there is no tissue and red where a pen wrote."""
    import cv2

    size = picture.shape[1], picture.shape[0]
    tissue, marks = (
        cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        for mask in (look.mask.tissue, look.mask.marks)
    )
    shaded = np.where((tissue | marks)[..., None], picture, 128 + picture // 2).astype(np.uint8)
    shaded[marks] = (shaded[marks] // 2 + np.array(MARKED) // 2).astype(np.uint8)
    return shaded


def _draw(image: Any, look: SlideLook, words: list[str], scale: float, colours: _Colours) -> None:
    """Tiles as frames, regions as outlines."""
    from PIL import ImageDraw

    pen, side = ImageDraw.Draw(image), look.tiling.side / scale
    for x, y, word in zip(look.tiling.x, look.tiling.y, words, strict=True):
        left, top = x / scale, y / scale
        pen.rectangle((left + 1, top + 1, left + max(side - 1, 2), top + max(side - 1, 2)), outline=colours(word))
    shapely = slide_library("shapely")
    for region in look.regions:
        for part in shapely.get_parts(region.shape):
            for ring in (part.exterior, *part.interiors):
                points = [(x / scale, y / scale) for x, y, *_ in ring.coords]
                pen.line(points, fill=OUTLINE, width=5)
                pen.line(points, fill=colours(region.word), width=3)


def _page(pictures: list[SlidePicture], rest: int, colours: _Colours) -> str:
    legend = " ".join(
        f'<span style="border-left:1em solid {colour};padding:0 1em 0 .4em">{html.escape(show(word))}</span>'
        for word, colour in [*colours.of.items(), ("no label", UNLABELLED)]
    )
    blocks = "".join(
        f"<h2>{html.escape(show(picture.name))}</h2><p>{html.escape(show(picture.text))}</p>"
        + (f'<img src="{picture.file}" alt="">' if picture.file else "")
        for picture in pictures
    )
    more = f"<p>and {rest:,} more slides</p>" if rest else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Slides</title>'
        "<style>body{font:15px sans-serif;margin:2em;max-width:1240px}img{max-width:100%;border:1px solid #ccc}</style>"
        f"<h1>Slides as they are tiled</h1><p>{legend}</p>{blocks}{more}</html>\n"
    )
