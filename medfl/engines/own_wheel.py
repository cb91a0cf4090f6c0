"""The medfl that runs here as a wheel, for parties who cannot take it from anywhere else.

It is put together from the files that are installed, be it from a wheel or from a copy of the repository: no build tool
and no network is needed, and what travels is the very code that runs here. One installation, one wheel.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

import medfl
from medfl.errors import DISTRIBUTION, MedflError
from medfl.runs.versions import installed_version

OF_AN_INSTALLATION = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_build.json", "uv_cache.json")
"""Metadata of how medfl came here, which does not travel."""
EPOCH = (1980, 1, 1, 0, 0, 0)
REGULAR_FILE = 0o100644 << 16


@cache
def own_wheel() -> tuple[str, bytes]:
    """The wheel's file name and content.

    Raises:
        MedflError: medfl runs without having been installed, so its metadata is not there.
    """
    try:
        metadata = _metadata(distribution(DISTRIBUTION))
    except PackageNotFoundError:
        metadata = {}
    if not {"METADATA", "WHEEL", "entry_points.txt"} <= metadata.keys():
        raise MedflError(
            f"no wheel of {DISTRIBUTION} can be made, since the metadata of an installed one is not here; install "
            f"medfl from a wheel, or with `uv sync` in a copy of the repository"
        )
    stem = f"{DISTRIBUTION.replace('-', '_')}-{installed_version()}"
    files = dict(_package()) | {f"{stem}.dist-info/{name}": content for name, content in sorted(metadata.items())}
    record = f"{stem}.dist-info/RECORD"
    files[record] = _record(files, record)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr, entry.compress_type = REGULAR_FILE, zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return f"{stem}-py3-none-any.whl", stream.getvalue()


@cache
def pinned_requirements(extra: str) -> dict[str, str]:
    """Name -> version of medfl and of everything that it needs with an extra, as they are installed here. Build labels
    (`+cpu`) are left out: they say how a package was built, and another party may need another build."""
    pins: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(DISTRIBUTION, ""), (DISTRIBUTION, extra)]
    while queue:
        name, wanted = queue.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            here = distribution(name)
        except PackageNotFoundError:
            continue
        pins[here.name.lower()] = here.version.partition("+")[0]
        for requirement in map(Requirement, here.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                queue += [(requirement.name.lower(), part) for part in ("", *sorted(requirement.extras))]
    return dict(sorted(pins.items()))


def _package() -> Iterator[tuple[str, bytes]]:
    root = Path(str(medfl.__file__)).parent
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
        if path.is_file() and not hidden and path.suffix != ".pyc":
            yield f"{root.name}/{inside.as_posix()}", path.read_bytes()


def _metadata(installed: Distribution) -> dict[str, bytes]:
    """Files of the metadata that belong into a wheel, by their name in it."""
    parts = {}
    for file in installed.files or ():
        folder, *inside = file.parts
        if folder.endswith(".dist-info") and inside and inside[-1] not in OF_AN_INSTALLATION:
            parts["/".join(inside)] = Path(str(file.locate())).read_bytes()
    return parts


def _record(files: Mapping[str, bytes], record: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        writer.writerow([name, f"sha256={digest}", len(content)])
    writer.writerow([record, "", ""])
    return text.getvalue().encode()
