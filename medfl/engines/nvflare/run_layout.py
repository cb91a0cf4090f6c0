"""A distributed run laid out on this machine: the run folder, and in it a folder for each party."""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medfl import config
from medfl.data.atomic_file import write_text
from medfl.data.catalog import brings_own_data
from medfl.data.partition import Partition, make_partition
from medfl.engines.remote.party_files import PARTY, SERVER, read_pipeline, write_server, write_site
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import dump_pipeline, load_pipeline
from medfl.pipeline.model_spec import pinned
from medfl.pipeline.run import same_allocation, write_summary_csv
from medfl.runs.folder import RunFolder

SCRATCH = "medfl-"
TIMEOUT = 3600.0  # seconds a site has for one message, where `training.timeout` states no other


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
        return self.pipeline.training.timeout or TIMEOUT


@contextmanager
def scratch(laid: Laid) -> Iterator[Path]:
    """A folder for what goes when the run has ended, keys among it; also what an earlier part left that was killed."""
    note = laid.home / "scratch"
    if note.is_file() and (left := Path(note.read_text(encoding="utf-8"))).name.startswith(SCRATCH):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, ignore_cleanup_errors=True) as folder:
        note.write_text(folder, encoding="utf-8")
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
    folder = RunFolder.create(pipeline.name, out)
    laid = Laid(engine, uuid.uuid4().hex, folder, pipeline)
    allocation.write(folder.allocation)
    write_summary_csv(folder.allocation_summary, allocation.summary())
    deal_out(laid.home, pipeline, allocation)
    write_server(laid.server, pipeline, laid.run, folder.path)
    write_engine(laid)
    return laid


def lay_out_kit(kit: Path, out: Path | str | None) -> Laid:
    """A new run folder for the server of a kit; of the sites it knows what the kit says."""
    pipeline = read_pipeline(kit / PARTY)
    check_distributed(pipeline)
    folder = RunFolder.create(pipeline.name, out)
    laid = Laid("kit", uuid.uuid4().hex, folder, pipeline, kit.resolve())
    laid.home.mkdir(exist_ok=True)
    write_engine(laid)
    return laid


def write_engine(laid: Laid) -> None:
    """Note how the run is carried out, and last the file that makes its folder a run."""
    facts = {"engine": laid.engine, "run": laid.run, "kit": str(laid.kit) if laid.kit else None}
    write_text(laid.folder.engine, json.dumps(facts) + "\n")
    write_text(laid.folder.pipeline, dump_pipeline(laid.pipeline))


def laid_before(path: Path | str) -> Laid:
    """The distributed run of a run folder.

    Raises:
        MedflError: no run there, or its data have changed.
    """
    folder = RunFolder.open(path)
    facts = json.loads(folder.engine.read_text(encoding="utf-8"))
    kit = Path(facts["kit"]) if facts["kit"] else None
    laid = Laid(facts["engine"], facts["run"], folder, load_pipeline(folder.pipeline), kit)
    if kit is not None:
        return laid
    same_allocation(make_partition(laid.pipeline), folder)
    return laid


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
