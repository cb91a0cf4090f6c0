"""Where patches lie, what they show, and which source they were cut from.

Four kinds of source: `lc25000` as distributed (with or without the parent folder `lung_colon_image_set`, or flat),
`folder` with one folder per class, `csv` (`path,label,source_group`; paths are relative to the CSV's folder and stay
inside it), and `tissue`, generated in LC25000's layout. Folder names and labels are those of `task.classes`, or are
mapped to them by a site's `labels`. How source groups are found is said in `source_groups.py`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medfl import config
from medfl.data.images import IMAGE_SUFFIXES, images_below
from medfl.data.patch_store import I64
from medfl.data.sources.csv_table import read_rows
from medfl.data.sources.source_groups import Found, GroupSource, find_groups
from medfl.errors import MedflError, nearest

ORGANS = ("lung_image_sets", "colon_image_sets")
LC25000_PARENT = "lung_colon_image_set"


@dataclass(frozen=True)
class Catalog:
    """Labelled image files, in an order that depends on names only.

    Attributes:
        paths: N absolute paths.
        names: N names, `<folder or label>/<path below it>`, the same wherever the data lie.
        labels: i64[N], index into `classes`.
        groups: i64[N], index into `group_names`.
        group_names: names of the source groups, sorted.
        classes: `task.classes`.
        leaky: near copies may lie in different groups.
        scope: within one scope, equal group names mean the same source, also across catalogs.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    labels: I64
    groups: I64
    group_names: tuple[str, ...]
    classes: tuple[str, ...]
    groups_unknown: bool
    scope: str = ""


def brings_own_data(pipeline: config.Pipeline, site: config.SiteConfig) -> bool:
    """Whether a site uses data of its own (`data.mode: own`, or a `data` section in the site) and is not dealt any."""
    return pipeline.data.mode == "own" or site.data is not None


def pipeline_catalog(pipeline: config.Pipeline) -> Catalog:
    """The catalog dealt to simulated institutions. Generated tissue is written first where there is none.

    Raises:
        MedflError: no data, an unknown class folder, missing source groups, an unreadable CSV.
    """
    data, where = pipeline.data, f"pipeline {pipeline.name}"
    root = pipeline_root(pipeline)
    return _read(GroupSource(where, data.source, root, data.source_groups, tuple(pipeline.task.classes), {}))


def pipeline_root(pipeline: config.Pipeline) -> Path:
    """Where the data dealt to simulated institutions lie. Raises MedflError where nothing does."""
    data = pipeline.data
    if data.source == "tissue" and data.root is None:
        return _generated(pipeline)
    return _root(f"pipeline {pipeline.name}", data.source, data.root)


def site_catalog(pipeline: config.Pipeline, site: config.SiteConfig) -> Catalog:
    """A site's own data: its `data` section, completed by the pipeline's where the kind of source is the same.

    Raises MedflError as `pipeline_catalog` does.
    """
    where, own = f"site {site.name}", site.data or config.OwnData()
    kind = own.source or pipeline.data.source
    if kind == "tissue":
        raise MedflError(
            f"{where}: `data.source` is not stated and the pipeline's is tissue, which is generated and dealt; state "
            f"`data: {{source: folder, root: ...}}` in the site file, or set `data.mode: dealt` in the pipeline"
        )
    inherited = pipeline.data if kind == pipeline.data.source else None
    root = _root(where, kind, own.root or (inherited.root if inherited else None))
    groups = own.source_groups or (inherited.source_groups if inherited else None)
    return _read(GroupSource(where, kind, root, groups, tuple(pipeline.task.classes), dict(site.labels)))


def class_folders(root: Path, kind: str) -> list[Path]:
    """The folders below `root` that stand for classes, sorted by name; hidden ones are ignored."""
    if kind not in ("lc25000", "tissue"):
        return _folders(root)
    if (root / LC25000_PARENT).is_dir():
        root = root / LC25000_PARENT
    nested = [_folders(folder) if folder.name in ORGANS else [folder] for folder in _folders(root)]
    return sorted((folder for folders in nested for folder in folders), key=lambda folder: folder.name)


def _folders(root: Path) -> list[Path]:
    return sorted(
        (p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))), key=lambda p: p.name
    )


def _generated(pipeline: config.Pipeline) -> Path:
    from medfl.data.synthetic.tissue import tissue_digest, write_tissue

    drawn = {"classes": pipeline.task.classes, **pipeline.data.tissue.model_dump()}
    return write_tissue(pipeline.cache_dir / f"tissue-{tissue_digest(drawn)}", **drawn)


def _root(where: str, kind: str, stated: str | None) -> Path:
    key = "`data.root`"
    if stated is None and kind == "lc25000" and os.environ.get("MEDFL_LC25000"):
        stated, key = os.environ["MEDFL_LC25000"], "the environment variable MEDFL_LC25000"
    if stated is None:
        other = " or set the environment variable MEDFL_LC25000" if kind == "lc25000" else ""
        raise MedflError(f"{where}: `data.root` is missing; state where the {kind} data lie{other}")
    root = Path(stated).expanduser().absolute()
    if not root.exists():
        beside = [p.name for p in root.parent.iterdir()] if root.parent.is_dir() else []
        raise MedflError(f"{where}: {key} names {root}, which does not exist; correct it.{nearest(root.name, beside)}")
    if kind == "csv" and root.is_dir():
        raise MedflError(f"{where}: {key} names the folder {root}; with `data.source: csv` it must name the CSV file")
    if kind != "csv" and not root.is_dir():
        raise MedflError(f"{where}: {key} names {root}, which is no folder; name the folder that holds class folders")
    return root


def _read(source: GroupSource) -> Catalog:
    try:
        found = _listed(source) if source.kind == "csv" else _in_folders(source)
        if not found:
            raise MedflError(
                f"{source.where}: no image in {source.root} (`data.root`); images end in {', '.join(IMAGE_SUFFIXES)} "
                f"and lie in one folder per class"
            )
        groups = find_groups(source, found)
    except OSError as error:
        raise MedflError(f"{source.where}: {source.root} (`data.root`) cannot be read: {error.strerror}") from None
    group_names = sorted(set(groups.names))
    number = {name: index for index, name in enumerate(group_names)}
    index_of = {word: _class_index(source, word) for word in sorted({image.word for image in found})}
    return Catalog(
        paths=tuple(image.path for image in found),
        names=tuple(image.name for image in found),
        labels=np.array([index_of[image.word] for image in found], dtype=np.int64),
        groups=np.array([number[name] for name in groups.names], dtype=np.int64),
        group_names=tuple(group_names),
        classes=source.classes,
        groups_unknown=groups.leaky,
        scope=groups.scope,
    )


def _in_folders(source: GroupSource) -> list[Found]:
    found = []
    for folder in class_folders(source.root, source.kind):
        _class_index(source, folder.name)  # also for a folder without images: it is misspelt all the same
        images = images_below(folder)
        if (strayed := strays(source.root, images)) is not None:
            raise MedflError(
                f"{source.where}: {strayed} is a link that leads out of {source.root} (`data.root`); copy what it "
                f"names below that folder, or point `data.root` at a folder that holds both"
            )
        for path in images:
            found.append(Found(folder.name, path.relative_to(folder).as_posix(), path))
    return sorted(found, key=lambda image: (image.word, image.key, image.path))


def strays(root: Path, paths: Iterable[Path]) -> Path | None:
    """The first of some paths that lies outside `root` once links and `..` are followed, or None."""
    top, real = root.resolve(), functools.cache(Path.resolve)  # a folder holds thousands of files
    for path in paths:
        place = path.resolve() if path.is_symlink() else real(path.parent) / path.name
        if not place.is_relative_to(top):
            return path
    return None


def _listed(source: GroupSource) -> list[Found]:
    folder = source.root.parent.resolve()
    found: dict[Path, Found] = {}
    absent: list[str] = []
    for row in read_rows(source.root, source.where, [("path", "label")], optional=("source_group",)):
        text = row["path"].replace("\\", "/")
        path = (folder / text).resolve()
        if not path.is_relative_to(folder):
            raise MedflError(
                f"{source.where}: {source.root}, line {row.line}: {text} leads out of the CSV's folder; put the "
                f"images below {folder}"
            )
        if not path.is_file():
            absent.append(text)
        elif path in found:
            raise MedflError(f"{source.where}: {source.root}, line {row.line}: {text} is listed twice; remove one row")
        else:
            key = path.relative_to(folder).as_posix()
            found[path] = Found(row["label"], key, path, row.get("source_group", ""))
    if absent:
        raise MedflError(
            f"{source.where}: {len(absent)} of {len(absent) + len(found)} files listed in {source.root} do not exist, "
            f"the first is {absent[0]}; correct the paths, which are relative to the CSV's folder"
        )
    return sorted(found.values(), key=lambda image: (image.word, image.key))


def _class_index(source: GroupSource, word: str) -> int:
    name = source.labels.get(word, word)
    if name in source.classes:
        return source.classes.index(name)
    what = "label" if source.kind == "csv" else "folder"
    mapped = f", mapped to {name} by `labels`," if word in source.labels else ""
    remedy = (
        "rename it" if source.where.startswith("pipeline") else f"map it in the site file, `labels: {{{word}: ...}}`"
    )
    raise MedflError(
        f'{source.where}: the {what} "{word}" of {source.root}{mapped} is no class of `task.classes` '
        f"({', '.join(source.classes)}); {remedy}, or point `data.root` at a part without it."
        f"{nearest(name, [*source.classes, *source.labels])}"
    )
