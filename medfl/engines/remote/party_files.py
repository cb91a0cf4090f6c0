"""What each party of a distributed run is given, as files in a folder of its own.

server/  pipeline.yaml     the pipeline; of sites their names, roles, lines, densities and `about` only
         run.json          the run's identity and the run folder
<site>/  pipeline.yaml     the pipeline; of the other sites their names and roles only
         site.yaml         this site's own file, which the site may edit (`data.root`)
         allocation.csv    where data are dealt: this site's patches; it stays at the site
         state/            what the site keeps between rounds, by run
         medfl.log         what went wrong at this party, in full; it stays here
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medfl import config
from medfl.config.resolved import read_resolved
from medfl.config.yaml_file import validate
from medfl.data.atomic_file import PRIVATE_FOLDER, write_text
from medfl.data.catalog import Catalog, brings_own_data, pipeline_source
from medfl.data.partition import SitePartition, own_partition
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import dump_pipeline, load_site
from medfl.pipeline.model_spec import model_at_a_site

SERVER = "server"
PARTY = "medfl"  # the folder's name inside a kit
KITS = "kits.json"  # in the server's kit: the sites that have one
KEY = "consortium.key"  # in a site's kit where it brings its own data
COLUMNS = ("row", "split", "class", "group_index", "group", "name", "file")


def write_server(folder: Path, pipeline: config.Pipeline, run: str, run_folder: Path | None) -> None:
    """The server's files; `run_folder` is None where the run is begun later, on the server's own machine."""
    folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    others_plan = _with_sites(pipeline, {site.name: _line(site) for site in pipeline.all_sites})
    write_text(folder / "pipeline.yaml", dump_pipeline(others_plan))
    if run_folder is not None:
        write_run(folder, run, run_folder)


def write_run(folder: Path, run: str, run_folder: Path) -> None:
    """The server's run.json: which run it is to carry out, and where it writes."""
    write_text(folder / "run.json", json.dumps({"run": run, "folder": str(run_folder.resolve())}) + "\n")


def write_site(folder: Path, pipeline: config.Pipeline, site: config.SiteConfig, share: SitePartition | None) -> None:
    """A site's files; `share` is what it is dealt, None where it brings its own data."""
    folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    others = {other.name: config.SiteConfig(name=other.name, role=other.role) for other in pipeline.all_sites}
    others_plan = _with_sites(pipeline, others)
    # The first model comes from the server, and tracking is the server's.
    update = {"model": model_at_a_site(pipeline), "tracking": config.Tracking(enabled=False), "registry": None}
    others_plan = others_plan.model_copy(update=update)
    write_text(folder / "pipeline.yaml", dump_pipeline(others_plan))
    site_text = yaml.safe_dump(site.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
    write_text(folder / "site.yaml", site_text)
    if share is not None:
        write_text(folder / "allocation.csv", _slice(share), private=True)


def read_server(folder: Path) -> tuple[config.Pipeline, dict[str, Any]]:
    """The server's pipeline, and run.json."""
    facts: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return read_pipeline(folder), facts


def read_pipeline(folder: Path) -> config.Pipeline:
    """A party's pipeline. Its rules were checked by the one who wrote it, who knew all the sites."""
    file = folder / "pipeline.yaml"
    return validate(config.Pipeline, read_resolved(file), file)


def read_site(folder: Path, name: str) -> tuple[config.Pipeline, config.SiteConfig, SitePartition]:
    """A site's pipeline, file and data.

    Raises:
        MedflError: files missing or of another site, data that are not there.
    """
    pipeline, site = read_pipeline(folder), load_site(folder / "site.yaml")
    if site.name != name:
        raise MedflError(
            f"{folder / 'site.yaml'} is the file of {site.name}, but this kit belongs to {name}; put the file that "
            f"came with the kit back"
        )
    role = next((other.role for other in pipeline.all_sites if other.name == name), None)
    if role is None:
        raise MedflError(f"{folder / 'pipeline.yaml'} names no site {name}; ask the consortium for a kit of this run")
    site = site.model_copy(update={"role": role})
    mine = {other.name: other if other.name != name else site for other in pipeline.all_sites}
    pipeline = _with_sites(pipeline, mine)
    if brings_own_data(pipeline, site):
        if (folder.parent / "startup").is_dir():  # a kit
            group_key(folder / KEY)
        try:
            return pipeline, site, own_partition(pipeline, site, role)
        except MedflError as error:
            raise MedflError(f"{folder / 'site.yaml'}: {error}") from None
    return pipeline, site, _dealt(pipeline, site, role, folder / "allocation.csv")


def group_key(file: Path) -> bytes:
    """The key that the consortium's sites hash names with. Raises MedflError."""
    try:
        key = bytes.fromhex(file.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        key = b""
    if len(key) != 32:
        raise MedflError(
            f"{file} is missing or damaged, and without it a patient at two sites is not seen; put the file that came "
            f"with the kit back"
        )
    return key


def whole_lines(file: Path) -> list[str]:
    """The lines of a file that others write, none of them torn; none where there is no file."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return text[: text.rfind("\n") + 1].splitlines()


def _line(site: config.SiteConfig) -> config.SiteConfig:
    """What the server knows of a site."""
    return config.SiteConfig(name=site.name, role=site.role, link=site.link, density=site.density, about=site.about)


def _with_sites(pipeline: config.Pipeline, sites: Mapping[str, config.SiteConfig]) -> config.Pipeline:
    listed = config.Sites(
        train=[sites[site.name] for site in pipeline.train_sites],
        held_out=[sites[site.name] for site in pipeline.held_out_sites],
    )
    return pipeline.model_copy(update={"sites": listed})


def _slice(share: SitePartition) -> str:
    text, catalog = io.StringIO(), share.catalog
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for split, positions in share.splits.items():
        for row in share.rows[positions]:
            group, reference = catalog.groups[row], catalog.references[row]
            label = catalog.classes[catalog.labels[row]]
            writer.writerow([row, split, label, group, catalog.group_names[group], catalog.names[row], reference])
    return text.getvalue()


def _dealt(pipeline: config.Pipeline, site: config.SiteConfig, role: str, file: Path) -> SitePartition:
    """The share that a slice states, over a catalog of its rows alone, in the order of the whole."""
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            lines = list(csv.DictReader(stream))
        rows = np.array([int(line["row"]) for line in lines])
        order = np.argsort(rows)
        ordered = [lines[at] for at in order]
        classes = tuple(pipeline.task.classes)
        numbers = sorted({int(line["group_index"]) for line in lines})
        names = {int(line["group_index"]): line["group"] for line in lines}
        source = pipeline_source(pipeline)
        catalog = Catalog(
            source=source,
            references=tuple(line["file"] for line in ordered),
            names=tuple(line["name"] for line in ordered),
            labels=np.array([classes.index(line["class"]) for line in ordered]),
            groups=np.searchsorted(numbers, [int(line["group_index"]) for line in ordered]),
            group_names=tuple(names[number] for number in numbers),
            classes=classes,
            groups_unknown=pipeline.data.source_groups == "ignore",
            scope="",
            published=True,
        )
        rank = np.empty(len(lines), dtype=np.int64)
        rank[order] = np.arange(len(lines))
        splits: dict[str, list[int]] = {}
        for at, line in enumerate(lines):
            splits.setdefault(line["split"], []).append(int(rank[at]))
    except FileNotFoundError:
        raise MedflError(f"there is no {file}; put the file that came with the kit back") from None
    except (OSError, KeyError, ValueError, TypeError):
        raise MedflError(f"{file} is damaged; put the file that came with the kit back") from None
    stray = source.outside(catalog.references)
    if stray is not None:
        raise MedflError(
            f"{file} names {source.describe(stray)}, which leads out of {source.place} (`data.root`); ask for a kit "
            f"that does not"
        )
    absent = source.absent(catalog.references)
    if absent:
        raise MedflError(
            f"{len(absent)} of {len(lines)} {source.patch_words[1]} of {file} are not there, the first is "
            f"{source.describe(absent[0])}; set `data.root` in {file.with_name('pipeline.yaml')} to where the data lie "
            f"on this machine"
        )
    positions = {split: np.array(rows) for split, rows in splits.items()}
    return SitePartition(site.name, role, catalog, np.arange(len(lines)), positions)
