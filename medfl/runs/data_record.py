"""What the sites of a run hold: noted when the run begins, compared whenever somebody goes on with it.

`allocation_summary.csv` has counts and a digest for every site, split and class. Digests are made under a key, since a
plain hash over names lets a patient be found by trying. The key is a machine's own (`data.key` in its cache), so that
two runs of one machine can be compared; a run folder, and the folder of a site elsewhere, keep a copy that stays there.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import secrets
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medfl.config import Pipeline
from medfl.data.atomic_file import PRIVATE_FILE, write_text
from medfl.data.partition import KEYED, Partition
from medfl.errors import MedflError
from medfl.metrics.small_cells import disclosed_rows

if TYPE_CHECKING:
    from medfl.runs.folder import RunFolder

KEY_FILE = "data.key"
WARNINGS = "data_warnings.json"
COLUMNS = ("site", "role", "split", "class", "groups", "patches", "digest")
Row = Mapping[str, str | int]


def data_key(folder: Path, cache: Path) -> bytes:
    """The key of a folder's digests: its own, or else that of the machine's cache, of which it then keeps a copy.

    Raises:
        MedflError: a key that is damaged, or that cannot be written.
    """
    file = folder / KEY_FILE
    if not file.is_file():
        keep_key(folder, _machine_key(cache))
    return _read_key(file)


def keep_key(folder: Path, key: bytes) -> None:
    """Note a key in a folder, readable for its owner only. A key that is there stays. Raises MedflError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            number = os.open(folder / KEY_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
            with os.fdopen(number, "w", encoding="ascii") as stream:
                stream.write(key.hex() + "\n")
    except OSError as error:
        raise MedflError(f"{folder / KEY_FILE} cannot be written ({error.strerror})") from None


def disclosed_summary(pipeline: Pipeline, partition: Partition, key: bytes) -> list[dict[str, str | int]]:
    """The rows of allocation_summary.csv as each site may tell them: the counts of small classes are blank."""
    floors = {site.name: pipeline.min_count(site) for site in pipeline.all_sites}
    shares = {share.site: Partition((share,)).summary(key) for share in partition.sites}
    return [row for site, rows in shares.items() for row in disclosed_rows(rows, floors[site])]


def note_data(folder: RunFolder, partition: Partition, pipeline: Pipeline, warnings: Sequence[str] = ()) -> bytes:
    """Write a new run's allocation.csv, which stays local, and allocation_summary.csv; returns the key.

    Args:
        warnings: sentences on sites whose patches look wrong, for the report.
    """
    key = data_key(folder.path, pipeline.cache_dir)
    if warnings:
        write_text(folder.path / WARNINGS, json.dumps(list(warnings), indent=1) + "\n")
    partition.write(folder.allocation)
    write_rows(folder.allocation_summary, disclosed_summary(pipeline, partition, key))
    return key


def check_data(folder: RunFolder, partition: Partition, cache: Path, exact: bool = False) -> None:
    """Compare what sites hold now with what was noted as a run began; version 0.1 noted names and sizes only.

    Args:
        partition: all sites of the run, or some of them.
        exact: allocation.csv, too, is to be what would be written now, to the order of its rows.

    Raises:
        MedflError: the data of a site have changed, or nothing says what they were.
    """
    noted = read_rows(folder.allocation_summary)
    keyed = any(len(str(row["digest"])) == KEYED for row in noted)
    sites = changed_sites(noted, partition.summary(data_key(folder.path, cache) if keyed else None))
    sites += [share.site for share in partition.sites if share.site not in {row["site"] for row in noted}]
    if not sites and (not exact or _same_table(folder, partition)):
        return
    whose, table = f"of {', '.join(sites)} ", folder.allocation_summary.name
    if not sites:
        whose, table = "", folder.allocation.name
    raise MedflError(
        f"the data {whose}behind {folder.path} has changed since the run began: {table} no longer agrees with what is "
        f"there now; restore the data or start a new run"
    )


def data_warnings(folder: Path) -> list[str]:
    """The warnings that a run noted of its sites' patches; none where the file is damaged."""
    try:
        warnings = json.loads((folder / WARNINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return [str(warning) for warning in warnings] if isinstance(warnings, list) else []


def changed_sites(noted: Iterable[Row], now: Iterable[Row]) -> list[str]:
    """Sites, of those in both tables, that do not hold now what was noted; the one comparison there is.

    Where one side has digests under a key and the other has those of version 0.1, counts are compared.
    """
    before, after = _by_site(noted), _by_site(now)
    return [site for site in before if site in after and not _same(before[site], after[site])]


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of an allocation_summary.csv. Raises MedflError where there is none."""
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream, strict=True))
        if not rows or any(set(row) != set(COLUMNS) or None in row.values() for row in rows):
            raise ValueError
    except (OSError, ValueError, csv.Error):
        raise MedflError(
            f"{file} is missing or damaged, and nothing else says what the sites held; start a new run"
        ) from None
    return rows


def write_rows(file: Path, rows: Iterable[Row]) -> None:
    """Write an allocation_summary.csv: counts and digests only."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, text.getvalue())


def _same_table(folder: RunFolder, partition: Partition) -> bool:
    """Whether allocation.csv is what this partition gives."""
    if not folder.allocation.is_file():
        return False
    with tempfile.TemporaryDirectory() as scratch:
        probe = Path(scratch) / folder.allocation.name
        partition.write(probe)
        return probe.read_bytes() == folder.allocation.read_bytes()


def _machine_key(cache: Path) -> bytes:
    if not (cache / KEY_FILE).is_file():
        keep_key(cache, secrets.token_bytes(32))
    return _read_key(cache / KEY_FILE)


def _read_key(file: Path) -> bytes:
    for _ in range(10):  # another process may have made the file and not yet have written
        with contextlib.suppress(OSError, ValueError):
            key = bytes.fromhex(file.read_text(encoding="ascii").strip())
            if len(key) == 32:
                return key
        time.sleep(0.02)
    raise MedflError(
        f"{file}, the key of the digests of a run's data, is damaged; restore it, or remove it and start new runs"
    )


def _by_site(rows: Iterable[Row]) -> dict[str, list[Row]]:
    sites: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        sites[str(row["site"])].append(row)
    return sites


def _same(before: list[Row], after: list[Row]) -> bool:
    """Whether rows of one site agree; a count that one side withholds agrees with any."""
    keyed = {len(str(row["digest"])) == KEYED for row in (*before, *after) if row["digest"]}
    one, other = ({(row["split"], row["class"]): row for row in rows} for rows in (before, after))
    if one.keys() != other.keys():
        return False
    if len(keyed) == 1 and any(one[place]["digest"] != other[place]["digest"] for place in one):
        return False
    counts = ((str(one[place][name]), str(other[place][name])) for place in one for name in ("groups", "patches"))
    return all(a == b or "" in (a, b) for a, b in counts)
