"""Which images were cut from one source and must not be torn apart between training and test.

A source group is the original tile of augmented copies, the slide, or the patient. How it is found:

- `lc25000`: a CSV `label,filename,source_group`, named by `data.source_groups`, else `source_groups.csv` inside the
  root, else `lc25000_source_groups.csv` inside or beside it. Without one the data are refused.
- `folder` (one folder per class): a CSV as above or `path,source_group`; else sub-folders, `<class>/<group>/...`, one
  per slide or patient (one sub-folder name in two classes is one patient); else the user must say what holds:
  `source_groups: filename` (every file is a source of its own) or `ignore`.
- `csv`: its column `source_group`, with the same two words to override.

A folder of files without any of these is refused, not taken for one source per file: in a hospital's own data several
patches of one patient are the rule, and the optimistic figures they give look like good ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medfl.data.sources.csv_table import read_rows
from medfl.errors import MedflError

LC25000_CSV = "lc25000_source_groups.csv"
GROUPS_CSV = "source_groups.csv"
LEAK = (
    "LC25000 is 1,250 tiles, each augmented about 20 times, so a random split puts near copies of test images into "
    "training and every figure is too good (doi 10.1007/978-3-031-73748-0_2)"
)


@dataclass(frozen=True)
class GroupSource:
    """What a pipeline or site file says about its data; `where` names that file's subject in messages."""

    where: str
    kind: str
    root: Path
    groups: str | None
    classes: tuple[str, ...]
    labels: dict[str, str]

    @property
    def folder(self) -> Path:
        """What paths are relative to."""
        return self.root.parent if self.kind == "csv" else self.root

    @property
    def augmented(self) -> bool:
        """Whether the data are known to hold augmented copies."""
        return self.kind in ("lc25000", "tissue")


@dataclass(frozen=True)
class Found:
    """One image: the folder's or CSV's word for its class, its path below that folder, its place, a CSV's group."""

    word: str
    key: str
    path: Path
    group: str = ""

    @property
    def name(self) -> str:
        """What the image is called at its site."""
        return f"{self.word}/{self.key}"


@dataclass(frozen=True)
class Groups:
    """The group of every image; whether near copies may be apart; the scope in which the names are unique."""

    names: list[str]
    leaky: bool
    scope: str


def find_groups(source: GroupSource, found: Sequence[Found]) -> Groups:
    """The source group of every image.

    Raises:
        MedflError: nothing says which images belong together, or a CSV that does is missing, bad or incomplete.
    """
    scope = str(source.folder.resolve())
    if source.groups == "ignore":
        return Groups([image.name for image in found], True, scope)
    if source.groups == "filename":
        if source.augmented:
            raise MedflError(
                f"{source.where}: `data.source_groups: filename` does not hold for {source.kind}: {LEAK}; name its "
                f"CSV of source groups, or set `source_groups: ignore`, which marks every result as leaky"
            )
        return Groups([image.name for image in found], False, scope)
    table = groups_file(source)
    if table is not None:
        # Published groups name the same tiles wherever the images lie; a CSV inside the root speaks of that root.
        published = source.kind == "lc25000" and table != source.root / GROUPS_CSV
        return Groups(_looked_up(source, found, table), False, "lc25000" if published else scope)
    if source.kind == "csv" and all(image.group for image in found):
        return Groups([image.group for image in found], False, scope)
    if source.kind == "folder" and all("/" in image.key for image in found):
        return Groups([image.key.split("/")[0] for image in found], False, scope)
    raise MedflError(f"{source.where}: {_missing(source, found)}")


def groups_file(source: GroupSource) -> Path | None:
    """The CSV of source groups: the one that is named, or one in a usual place, or None."""
    if source.groups is not None:
        table = Path(source.groups).expanduser().absolute()
        if not table.is_file():
            raise MedflError(
                f"{source.where}: `data.source_groups` names {table}, which is no file; name a CSV with the columns "
                f"label,filename,source_group, or use one of the words filename and ignore"
            )
        return table
    usual = [] if source.kind == "csv" else [source.root / GROUPS_CSV]
    if source.kind == "lc25000":
        usual += [source.root / LC25000_CSV, source.root.parent / LC25000_CSV]
    return next((path for path in usual if path.is_file()), None)


def _looked_up(source: GroupSource, found: Sequence[Found], table: Path) -> list[str]:
    group_of: dict[tuple[str, ...], str] = {}
    for row in read_rows(table, source.where, [("label", "filename", "source_group"), ("path", "source_group")]):
        at = (row["label"], row["filename"]) if "label" in row.cells else (row["path"].replace("\\", "/"),)
        if group_of.setdefault(at, row["source_group"]) != row["source_group"]:
            raise MedflError(
                f"{source.where}: {table}, line {row.line}: {'/'.join(at)} has two source groups; keep one row of it"
            )
    names, missing = [], []
    for image in found:
        below = image.key if source.kind == "csv" else image.path.relative_to(source.root).as_posix()
        words = (image.word, source.labels.get(image.word, image.word))
        keys = [(below,), *((word, name) for word in words for name in (image.key, image.path.name))]
        names.append(next((group_of[key] for key in keys if key in group_of), ""))
        if not names[-1]:
            missing.append(image.name)
    if missing:
        raise MedflError(
            f"{source.where}: {len(missing)} of {len(found)} images have no row in {table} (`data.source_groups`), "
            f"the first is {missing[0]}; add the rows"
        )
    return names


def _missing(source: GroupSource, found: Sequence[Found]) -> str:
    columns = "a CSV with the columns label,filename,source_group under `data.source_groups`"
    if source.augmented:
        return (
            f"no source groups for {source.root}: {LEAK}; name {columns}, or set `source_groups: ignore`, which marks "
            f"every result as leaky"
        )
    if source.kind == "csv":
        lacking = sum(not image.group for image in found)
        start = f"{lacking} of {len(found)} rows of {source.root} have no source_group; fill the column"
    else:
        start = (
            f"nothing says which images of {source.root} come from one patient or slide; put them into sub-folders, "
            f"<class>/<patient>/..., or name {columns}"
        )
    return (
        f"{start}, or set `source_groups: filename` (every image has a source of its own) or `ignore` (marks every "
        f"result as leaky)"
    )
