"""Whether a dossier that was filed is as it was written: each file by its line in SHA256SUMS."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from medfl.errors import MedflError
from medfl.plain_text import printable
from medfl.runs.digests import file_digest

SUMS = "SHA256SUMS"
SIGNATURE = f"{SUMS}.sig"
HEX = frozenset("0123456789abcdef")
SHOWN = 100


def dossier_in(place: Path) -> Path:
    """The folder of the dossier that is meant: itself, or that of a run. Raises MedflError where there is none."""
    for folder in (place, place / "dossier"):
        if (folder / SUMS).is_file():
            return folder
    raise MedflError(f"{place} holds no dossier (no {SUMS}); name its folder, or the run that it is of")


def stated_sums(folder: Path) -> Mapping[str, str]:
    """Name of a file -> SHA-256, as SHA256SUMS has them. Raises MedflError where it is none, or leads outside."""
    file = folder / SUMS
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise MedflError(f"{file} cannot be read ({error}); take the dossier from where it was filed") from None
    sums = {}
    for number, line in enumerate(lines, 1):
        digest, _, name = line.partition("  ")
        path = PurePosixPath(name)
        if (
            len(digest) != 64
            or set(digest) - HEX
            or not name
            or path.is_absolute()
            or ".." in path.parts
            or name in sums
        ):
            raise MedflError(f"{file}, line {number}: {printable(line, SHOWN)} is no line of it; it was changed")
        sums[name] = digest
    return sums


def differences(folder: Path) -> list[str]:
    """A sentence for each file that was changed, is missing or was added since the dossier was written."""
    sums = stated_sums(folder)
    problems = []
    for name, digest in sorted(sums.items()):
        path = folder / name
        try:
            if not path.is_file():
                problems.append(f"{name} is missing")
            elif file_digest(path) != digest:
                problems.append(f"{name} was changed")
        except OSError as error:
            problems.append(f"{name} cannot be read ({error.strerror})")
    here = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    added = sorted(here - sums.keys() - {SUMS, SIGNATURE})
    return problems + [f"{printable(name, SHOWN)} was added" for name in added]
