"""A distributed run laid out on this machine: the run folder, and in it a folder for each party."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from medfl import config
from medfl.config.pipeline_config import default_cache
from medfl.data.atomic_file import write_text
from medfl.data.catalog import brings_own_data
from medfl.data.partition import Partition, make_partition
from medfl.engines.remote.party_files import PARTY, SERVER, read_pipeline, write_server, write_site
from medfl.engines.remote.site_policy import approve, pipeline_digest
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import dump_pipeline, load_pipeline
from medfl.pipeline.model_spec import pinned
from medfl.pipeline.plan_checks import check_plan, check_tracking
from medfl.runs.data_record import check_data, keep_key, note_data
from medfl.runs.folder import RunFolder
from medfl.runs.purge import check_unpurged
from medfl.runs.records import read_json

SCRATCH, OWNER = "medfl-", "owner"
SERVED = "served"  # in the user's cache: run -> the kit it was begun with
ENGINES = ("simulator", "poc", "kit")


@dataclass(frozen=True)
class Laid:
    """A run ready to be started.

    Attributes:
        engine: "simulator", "poc", or "kit" where the sites are on machines of their own.
        run: the run's identity, also on what belongs to it at the sites.
        folder: the run folder.
        pipeline: the resolved pipeline; with kits, what the server may know of it.
        kit: the server's kit, where there is one.
    """

    engine: str
    run: str
    folder: RunFolder
    pipeline: config.Pipeline
    kit: Path | None = None

    @property
    def home(self) -> Path:
        """Where the parties' folders lie."""
        return self.folder.path.resolve() / "engine"

    @property
    def server(self) -> Path:
        """The server's party folder."""
        return self.kit / PARTY if self.kit else self.home / SERVER

    @property
    def sites(self) -> list[str]:
        """Names of all sites, sorted."""
        return sorted(site.name for site in self.pipeline.all_sites)

    @property
    def timeout(self) -> float:
        """Seconds a site has for one message."""
        return self.pipeline.training.answer_seconds


@contextmanager
def scratch(laid: Laid) -> Iterator[Path]:
    """A folder for what goes when the run has ended, keys among it; also what an earlier part left that was killed.

    The run folder only names that one. It is removed where it says itself that it is this run's, which nobody but this
    user could have written there.
    """
    note = laid.home / "scratch"
    with suppress(OSError, ValueError):
        left = Path(note.read_text(encoding="utf-8"))
        if left.name.startswith(SCRATCH) and (left / OWNER).read_text(encoding="utf-8") == str(laid.home):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, ignore_cleanup_errors=True) as folder:
        write_text(Path(folder) / OWNER, str(laid.home))
        write_text(note, folder)
        yield Path(folder)
    note.unlink()


def lay_out(pipeline: config.Pipeline, engine: str, out: Path | str | None) -> Laid:
    """A new run folder with the allocation and every party's files.

    Raises:
        MedflError: what `allocate` raises; a method that needs all data in one process; a folder that holds a run.
    """
    check_distributed(pipeline)
    pipeline = pinned(pipeline)
    allocation = make_partition(pipeline)
    check_plan(pipeline, allocation.counts())
    folder = RunFolder.create(pipeline.name, out)
    laid = Laid(engine, uuid.uuid4().hex, folder, pipeline)
    key = note_data(folder, allocation, pipeline)
    deal_out(laid.home, pipeline, allocation)
    for site in laid.sites:  # processes of this machine
        keep_key(laid.home / site, key)
    write_server(laid.server, pipeline, laid.run, folder.path)
    write_engine(laid)
    return laid


def lay_out_kit(kit: Path, out: Path | str | None) -> Laid:
    """A new run folder for the server of a kit; of the sites it knows what the kit says."""
    pipeline = read_pipeline(kit / PARTY)
    check_distributed(pipeline)
    check_tracking(pipeline)
    folder = RunFolder.create(pipeline.name, out)
    laid = Laid("kit", uuid.uuid4().hex, folder, pipeline, kit.resolve())
    laid.home.mkdir(exist_ok=True)
    write_engine(laid)
    return laid


def write_engine(laid: Laid) -> None:
    """Note how the run is carried out, and last the file that makes its folder a run."""
    if laid.kit is not None:
        note_kit(laid.run, laid.kit)
    facts = {"engine": laid.engine, "run": laid.run, "kit": str(laid.kit) if laid.kit else None}
    write_text(laid.folder.engine, json.dumps(facts) + "\n")
    write_text(laid.folder.pipeline, dump_pipeline(laid.pipeline))


def laid_before(path: Path | str, chosen: Path | None = None) -> Laid:
    """The distributed run of a run folder.

    Args:
        path: the run folder.
        chosen: the server's kit where the user names one. A kit is programs to be started, so one that only the folder
            names counts where this user has begun this run with it.

    Raises:
        MedflError: no run there, it was changed or damaged, its data have changed, or it is of another kit.
    """
    folder = RunFolder.open(path)
    check_unpurged(folder.path, "it cannot go on")
    laid = _laid(folder)
    folder.check_pipeline()
    if laid.kit is None and chosen is None:
        check_data(folder, make_partition(laid.pipeline), laid.pipeline.cache_dir, exact=True)
        return laid
    if chosen is not None and laid.kit != chosen:
        raise MedflError(f"{path} holds a run of another kit ({laid.kit}); name another folder with --out")
    if chosen is not None:
        note_kit(laid.run, chosen)
    elif str(laid.kit) != kit_of(laid.run):
        raise MedflError(
            f"{folder.engine} names the kit {laid.kit}, whose programs would be started, and you have not begun this "
            f"run with it; if the kit is yours, go on with `medfl deploy serve {laid.kit} --out {path}`"
        )
    return laid


def _laid(folder: RunFolder) -> Laid:
    """What a run folder says of its engine, all of it inside the folder. Raises MedflError."""
    facts = read_json(folder.engine)
    engine, run, kit = (facts.get(key) for key in ("engine", "run", "kit"))
    typed = isinstance(kit, str | None) and isinstance(run, str) and re.fullmatch("[0-9a-f]{32}", run)
    if not typed or engine not in ENGINES or (kit is not None) != (engine == "kit"):
        raise MedflError(f"{folder.engine} is damaged; restore it from a copy, or begin a new run in another folder")
    home = folder.path / "engine"
    if link := next((path for path in (home, *home.iterdir()) if path.is_symlink()), None):
        raise MedflError(f"{link} is a link, and all that a run writes stays in its folder; put the file itself there")
    return Laid(str(engine), str(run), folder, load_pipeline(folder.pipeline), Path(kit) if kit else None)


def note_kit(run: str, kit: Path) -> None:
    """Note for this user that a run is carried out from a kit."""
    file = default_cache() / SERVED / run
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, str(kit))


def kit_of(run: str) -> str | None:
    """The kit that this user began a run with, if any."""
    try:
        return (default_cache() / SERVED / run).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def check_distributed(pipeline: config.Pipeline) -> None:
    """Raise MedflError for a method that sites in processes of their own cannot serve."""
    if pipeline.baseline == "centralised":
        raise MedflError(
            "`baseline: centralised` pools the training data of all sites, so they have to be in one process; run it "
            "without --engine, or choose a method"
        )
    if SERVER in {site.name for site in pipeline.all_sites}:
        raise MedflError(f"a site is named {SERVER}, which here is the name of the server; rename it")


def deal_out(home: Path, pipeline: config.Pipeline, allocation: Partition) -> None:
    """Write every site's party folder below `home`."""
    shares = {share.site: share for share in allocation.sites}
    for site in pipeline.all_sites:
        share = None if brings_own_data(pipeline, site) else shares[site.name]
        write_site(home / site.name, pipeline, site, share)
        approve(home / site.name, pipeline_digest(home / site.name))  # whoever starts all parties is all of them
