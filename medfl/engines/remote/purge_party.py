"""What a site's kit holds of runs that are over: states, logs, names of files; what that is, and its removal."""

from __future__ import annotations

from pathlib import Path

from medfl.engines.remote.party_files import PARTY
from medfl.engines.remote.site_endpoint import LOG
from medfl.errors import MedflError
from medfl.runs.data_record import KEY_FILE
from medfl.runs.purge import remove

STATE, ALLOCATION = "state", "allocation.csv"
JOB = "????????-????-????-????-????????????"  # FLARE's folders of the jobs that it carried out


def is_kit(folder: Path) -> bool:
    """Whether a folder is a party's kit."""
    return (folder / "startup").is_dir() and (folder / PARTY).is_dir()


def private_kit_parts(kit: Path) -> list[Path]:
    """What names files or patients, or holds what the site kept between rounds, sorted. The audit log, which does
    neither, the kit's own key and the site's own file are not among them."""
    named = [kit / PARTY / name for name in (STATE, ALLOCATION, KEY_FILE, LOG, "flare.log")]
    named += [*kit.glob(JOB), *kit.glob("*log*.txt"), *kit.glob("log.json")]
    return sorted(path for path in named if path.exists() or path.is_symlink())


def at_work(kit: Path) -> bool:
    """Whether a process of this machine takes part with a kit; without FLARE's packages none can."""
    try:
        from medfl.engines.processes import Crew, kit_mark
    except ImportError:
        return False
    return bool(Crew(kit_mark(kit)).marked())


def purge_kit(kit: Path) -> None:
    """Remove these parts. Raises MedflError where that cannot be done, or a process of this machine takes part with
    the kit."""
    if at_work(kit):
        raise MedflError(f"{kit} is taking part in a run; end `medfl deploy join`, and give the same command again")
    try:
        remove(private_kit_parts(kit))
    except OSError as error:
        raise MedflError(
            f"{error.filename or kit} cannot be removed ({error.strerror}); end `medfl deploy join`, and give the same "
            f"command again"
        ) from None
