"""The slides below a folder, the annotation file of each, and how a slide's files are known again."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from medfl.config.spelling import one_form
from medfl.data.fingerprints import Fingerprints, whole_content
from medfl.data.images import files_below
from medfl.data.left_out import first_few
from medfl.data.slides.annotation_file import SUFFIXES as ANNOTATION_SUFFIXES
from medfl.data.slides.slide_reader import DICOM, SUFFIXES
from medfl.errors import MedflError, nearest

ANNOTATIONS = "annotations"
SAMPLES, SAMPLE = 64, 1 << 16  # parts of a large file that its digest is over, and bytes of each
MARKS = (b'"Feature', b"ASAP_Annotations", b"MicronsPerPixel")


@dataclass(frozen=True)
class SlideFiles:
    """One slide.

    Attributes:
        name: its file below the folder, with slashes and in one Unicode form; of a DICOM slide its folder.
        files: all files that belong to it, relative to the folder; the first is the one to open.
        annotation: its annotation file, None without one.
    """

    name: str
    files: tuple[str, ...]
    annotation: Path | None = None

    @property
    def stem(self) -> str:
        """The file's name without folder and ending."""
        return stem_of(self.name, SUFFIXES)


def stem_of(name: str, suffixes: Sequence[str]) -> str:
    """A file's name without its folder and the longest of the endings that it has."""
    name = name.rpartition("/")[2]
    ending = max(
        (suffix for suffix in (*suffixes, ".ome.tif", ".ome.tiff") if _ends(name, suffix)), key=len, default=""
    )
    return name[: len(name) - len(ending)]


def list_slides(root: Path, where: str) -> list[SlideFiles]:
    """Every slide below a folder with its annotation file, sorted by name.

    An annotation is called as its slide, and lies beside it or anywhere below `annotations/`.

    Raises:
        MedflError: an annotation of no slide, or of two; two annotations of one slide; loose DICOM files.
        OSError: a folder cannot be read.
    """
    names = sorted(Path(entry.path).relative_to(root).as_posix() for entry in files_below(root))
    slides: dict[str, tuple[str, ...]] = {}
    for name in names:
        if not _ends(name, *SUFFIXES) or name.startswith(f"{ANNOTATIONS}/"):
            continue
        if _ends(name, DICOM):
            folder = name.rpartition("/")[0]
            if not folder:
                raise MedflError(
                    f"{where}: {root / name} lies in {root} itself; put the .dcm files of each slide into a folder of "
                    f"its own, which names the slide"
                )
            slides[folder] = (*slides.get(folder, ()), name)
        else:
            beside = f"{name.rpartition('.')[0]}/" if _ends(name, ".mrxs", ".vms", ".vmu") else "\0"
            slides[name] = (name, *(other for other in names if other.startswith(beside)))
    annotations = _annotations(root, names, slides, where)
    return [SlideFiles(one_form(name), files, annotations.get(name)) for name, files in sorted(slides.items())]


def _annotations(root: Path, names: Sequence[str], slides: dict[str, tuple[str, ...]], where: str) -> dict[str, Path]:
    """The annotation file of each slide that has one."""
    owned = {file for files in slides.values() for file in files}
    by_stem: dict[str, list[str]] = {}
    for slide in slides:
        for form in {one_form(stem_of(slide, SUFFIXES)), one_form(slide.rpartition("/")[2])}:
            by_stem.setdefault(form, []).append(slide)
    annotations: dict[str, Path] = {}
    for name in names:
        if not _ends(name, *ANNOTATION_SUFFIXES) or name in owned:
            continue
        apart, path = name.startswith(f"{ANNOTATIONS}/"), root / name
        stem, folder = one_form(stem_of(name, ANNOTATION_SUFFIXES)), name.rpartition("/")[0]
        candidates = by_stem.get(stem, [])
        if not apart:
            candidates = [slide for slide in candidates if slide.rpartition("/")[0] == folder]
        if not candidates:
            if apart or _is_annotation(path):
                raise MedflError(
                    f"{where}: the annotation {path} is of no slide; call it as its slide, or remove it."
                    f"{nearest(stem, by_stem)}"
                )
            continue
        if len(candidates) > 1:
            raise MedflError(
                f"{where}: the annotation {path} may be of several slides ({first_few(candidates)}); put it beside its "
                f"slide"
            )
        if candidates[0] in annotations:
            raise MedflError(
                f"{where}: the slide {candidates[0]} has two annotations, {annotations[candidates[0]]} and {path}; "
                f"keep one"
            )
        annotations[candidates[0]] = path
    return annotations


class SlideFingerprints:
    """What the slides of a folder are known by: digests of their files, of large ones over parts spread over all.

    Args:
        root: the folder.
        cache: where notes are kept, so that a second start reads none of it.
    """

    def __init__(self, root: Path, cache: Path) -> None:
        self._prints = Fingerprints(str(root), cache / "slides" / "fingerprints", spread_content)

    def of(self, slide: SlideFiles) -> str:
        """The slide's digest (128 bits, hexadecimal), the same wherever it lies. Raises OSError."""
        return _joined(tuple(self._prints.of(slide.files)))


@functools.lru_cache(maxsize=4096)
def _joined(prints: tuple[str, ...]) -> str:
    return prints[0] if len(prints) == 1 else hashlib.sha256("".join(sorted(prints)).encode()).hexdigest()[:32]


def spread_content(file: FileIO) -> str:
    """A digest (128 bits, hexadecimal) of an open file: of all of a small one; of a large one of its size, its two ends
    and parts evenly between, 4 MB together. Slides have gigabytes, and lie on network drives."""
    size = file.seek(0, 2)
    file.seek(0)
    if size <= 4 * SAMPLES * SAMPLE:
        return whole_content(file)
    digest = hashlib.sha256(str(size).encode())
    for part in range(SAMPLES):
        file.seek((size - SAMPLE) * part // (SAMPLES - 1))
        digest.update(file.read(SAMPLE) or b"")
    return digest.hexdigest()[:32]


def _ends(name: str, *suffixes: str) -> bool:
    return name.lower().endswith(suffixes)


def _is_annotation(path: Path) -> bool:
    """Whether a file looks like an annotation, and not like something else that a scanner or a program left there."""
    if path.suffix.lower() == ".geojson" or path.name.lower().endswith(".gz"):
        return True
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return any(mark in head for mark in MARKS)
