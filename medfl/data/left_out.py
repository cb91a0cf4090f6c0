"""Images below a folder that are not taken for patches, counted and told: half a class may be among them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable
from functools import cached_property
from pathlib import Path

from medfl.config.regular_file import open_regular
from medfl.config.spelling import show
from medfl.data.images import files_below, is_ignored, is_image

HEAD = 132  # bytes of a file that are looked at
SIGNATURES = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"),
    *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),  # TIFF, of slides too
    *(b"\0\0\0\x0cjP  \r\n", b"\xff\x4f\xff\x51", b"\0\0\0\x0cJXL \r\n"),
)
SHOWN = 4  # kinds or names that one sentence lists


def first_few(names: Iterable[str]) -> str:
    """The first of some names, and how many more there are."""
    every = [show(name) for name in names]
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more


def left_out(root: Path, names: Collection[str]) -> list[str]:
    """Sentences on the images below `root` that are not among `names`, its images that are taken (paths below it).

    Raises OSError for a folder that cannot be read.
    """
    survey = _Survey(root, frozenset(names))
    ignored, endings, beside = survey.counts()
    sentences = []
    if ignored:
        sentences.append(f"Left out: {_count(ignored)} in hidden files and in folders of systems ({_list(ignored)}).")
    if endings:
        sentences.append(
            f"Left out: {_count(endings)} by content that do not end like one ({_list(endings)}); rename them if they "
            f"are patches."
        )
    if beside:
        sentences.append(
            f"Left out: {_count(beside)} in no class folder ({_list(beside)}); move them into one if they are patches."
        )
    return sentences


class _Survey:
    """A folder, and which of its images are taken."""

    def __init__(self, root: Path, names: frozenset[str]) -> None:
        self.root = root
        self.names = names

    def counts(self) -> tuple[Counter[str], Counter[str], Counter[str]]:
        """Images that are not taken: by the folder for which they are ignored, by ending, by the folder they lie in."""
        ignored: Counter[str] = Counter()
        endings: Counter[str] = Counter()
        beside: Counter[str] = Counter()
        for entry in files_below(self.root, also_ignored=True):
            name = os.path.relpath(entry.path, self.root)
            if name.replace(os.sep, "/") in self.names:
                continue
            system = next((part for part in name.split(os.sep) if is_ignored(part)), None)
            if system is not None:
                if is_image(entry.name.lstrip(".")):
                    ignored["hidden files" if system == entry.name else system] += 1
            elif is_image(entry.name):
                if os.path.isfile(entry.path) and os.path.realpath(entry.path) not in self._files:
                    beside[name.split(os.sep)[0] if os.sep in name else "."] += 1
            elif _has_image(Path(entry.path)):
                endings[os.path.splitext(entry.name)[1].lower() or "no ending"] += 1
        return ignored, endings, beside

    @cached_property
    def _files(self) -> frozenset[str]:
        """The images that are taken, links followed: a folder may be reached in two ways."""
        return frozenset(os.path.realpath(self.root / name) for name in self.names)


def _has_image(file: Path) -> bool:
    """Whether a file begins as an image does."""
    try:
        with open_regular(file) as stream:
            head = stream.read(HEAD)
    except OSError:
        return False
    return (
        head.startswith(SIGNATURES)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
        or (head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"avif"))
        or head[128:132] == b"DICM"
    )


def _count(kinds: Counter[str]) -> str:
    total = kinds.total()
    return f"{total:,} image{'' if total == 1 else 's'}"


def _list(kinds: Counter[str]) -> str:
    parts = [f"{show(kind)} {count:,}" for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))]
    return ", ".join(parts[:SHOWN]) + (f" and {len(parts) - SHOWN} more" if len(parts) > SHOWN else "")
