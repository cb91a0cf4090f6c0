"""What sources of image files have in common: a root, references that are paths below a folder, source groups.

A source group is the original tile of augmented copies, the slide, or the patient. It comes from a CSV
(`label,filename,source_group` or `path,source_group`) that `data.source_groups` names or that lies in a usual place;
else from what the kind of source itself says; else the user must say what holds: `source_groups: filename` (every
file is a source of its own) or `ignore`.

Files without any of these are refused, not taken for one source per file: in a hospital's own data several patches of
one patient are the rule, and the optimistic figures they give look like good ones.
"""

from __future__ import annotations

import contextlib
import functools
import os
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from medfl.data.fingerprints import Fingerprints
from medfl.data.images import IMAGE_SUFFIXES
from medfl.data.patch_store import U8
from medfl.data.sources.group_table import GROUPS_CSV, SUBGROUPS_CSV, look_up_groups, subgroup_cells
from medfl.data.sources.source import PatchEntry, PatchGroups, Source, SourceSpec
from medfl.errors import MedflError, nearest


class FileSource(Source):
    """Image files below a folder; a reference is a path relative to it, with slashes."""

    patch_words = "file", "files"
    root_variable: ClassVar[str] = ""
    """Environment variable that names the root where no file does."""
    augmentation: ClassVar[str] = ""
    """Why patches are augmented copies and may not be taken for sources of their own; empty where they are not."""

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec)
        self.root = self.find_root()

    @property
    def place(self) -> str:
        """What `data.root` names."""
        return str(self.root)

    @functools.cached_property
    def folder(self) -> Path:
        """What references are relative to."""
        return self.root

    def find_root(self) -> Path:
        """What `data.root` names, absolute. Raises MedflError where nothing is there."""
        where, name, key = self.spec.where, self.spec.root, "`data.root`"
        if name is None and os.environ.get(self.root_variable):
            name, key = os.environ[self.root_variable], f"the environment variable {self.root_variable}"
        if name is None:
            other = f" or set the environment variable {self.root_variable}" if self.root_variable else ""
            raise MedflError(f"{where}: `data.root` is missing; state where the {self.kind} data lie{other}")
        root = Path(os.path.expanduser(name)).absolute()
        if not os.path.exists(root):
            beside: list[str] = []
            with contextlib.suppress(OSError, ValueError):
                beside = os.listdir(root.parent)
            raise MedflError(
                f"{where}: {key} names {root}, which does not exist; correct it.{nearest(root.name, beside)}"
            )
        self.check_root(root, f"{where}: {key} names")
        return root

    @abstractmethod
    def check_root(self, root: Path, start: str) -> None:
        """Raise MedflError, begun by `start`, if what is there cannot be the root of this kind of source."""

    @abstractmethod
    def list_files(self) -> list[PatchEntry]:
        """Every file, in an order that depends on names only."""

    @abstractmethod
    def own_groups(self, entries: Sequence[PatchEntry]) -> list[str] | None:
        """The groups that need no CSV, if the source itself says which files belong together."""

    @abstractmethod
    def no_groups(self, entries: Sequence[PatchEntry]) -> str:
        """What is missing where nothing says which files belong together, and the first remedies."""

    def group_tables(self) -> list[Path]:
        """Usual places of a CSV of source groups, the first that is there counts."""
        return [self.root / GROUPS_CSV]

    def subgroup_table(self) -> Mapping[str, Mapping[str, str]]:
        """What `subgroups.csv` in the folder says, where there is one. Raises MedflError for a bad one."""
        table = self.folder / SUBGROUPS_CSV
        return subgroup_cells(table, self.spec) if self.spec.subgroups and table.is_file() else {}

    def is_published(self, table: Path) -> bool:
        """Whether the names in a CSV mean the same sources wherever the data lie."""
        return False

    def entries(self) -> list[PatchEntry]:
        """Every file, in an order that depends on names only. Raises MedflError where there is none."""
        entries = self.list_files()
        if not entries:
            raise MedflError(
                f"{self.spec.where}: no image in {self.root} (`data.root`); images end in {', '.join(IMAGE_SUFFIXES)} "
                f"and lie in one folder per class"
            )
        return entries

    def path(self, reference: str) -> Path:
        """The file of a reference."""
        return self.folder / reference

    def read(self, reference: str) -> U8:
        """The decoded file u8[H, W, 3]. Raises Unreadable."""
        from medfl.data.image_file import read_image  # an image library, which a store on the disk does not need

        return read_image(self.path(reference))

    def byte_count(self, reference: str) -> int:
        """Bytes of the file."""
        return os.stat(self.describe(reference)).st_size

    def fingerprint(self, reference: str) -> str:
        """A digest of the whole file."""
        return self.fingerprints([reference])[0]

    def fingerprints(self, references: Sequence[str]) -> list[str]:
        """A digest of each file, read where the cache has none that still holds."""
        return self._fingerprints.of(references)

    @functools.cached_property
    def _fingerprints(self) -> Fingerprints:
        return Fingerprints(str(self.folder), self.spec.cache / "fingerprints")

    def identity(self, reference: str) -> Hashable:
        """What the file is on the disk, so that links and overlapping roots are seen."""
        status = os.stat(self.describe(reference))
        return status.st_dev, status.st_ino

    def describe(self, reference: str) -> str:
        """The file's path."""
        return self._start + reference  # asked of every patch at every start: a Path takes its time

    @functools.cached_property
    def _start(self) -> str:
        return os.path.join(self.folder, "")

    def outside(self, references: Sequence[str]) -> str | None:
        """The first reference that lies outside the folder once links and `..` are followed, or None."""
        top, real = os.path.realpath(self.folder), functools.cache(os.path.realpath)
        inside = os.path.join(top, "")
        for reference in references:
            path = str(self.path(reference))
            above, name = os.path.split(path)
            target = os.path.realpath(path) if os.path.islink(path) else os.path.join(real(above), name)
            if target != top and not target.startswith(inside):
                return reference
        return None

    def absent(self, references: Sequence[str]) -> list[str]:
        """References of files that do not exist."""
        return [reference for reference in references if not self.path(reference).is_file()]

    def groups(self, entries: Sequence[PatchEntry]) -> PatchGroups:
        """The source group of every file.

        Raises:
            MedflError: nothing says which files belong together, or a CSV that does is missing, bad or incomplete.
        """
        scope, where = str(self.folder.resolve()), self.spec.where
        if self.spec.source_groups == "ignore":
            return PatchGroups([entry.name for entry in entries], scope, unknown=True, by_patch=True)
        if self.spec.source_groups == "filename":
            if self.augmentation:
                raise MedflError(
                    f"{where}: `data.source_groups: filename` does not hold for {self.kind}: {self.augmentation}; name "
                    f"its CSV of source groups, or set `source_groups: ignore`, which marks every result as leaky"
                )
            return PatchGroups([entry.name for entry in entries], scope, by_patch=True)
        table = self._group_table()
        if table is not None:
            names, published = look_up_groups(table, entries, self.spec), self.is_published(table)
            return PatchGroups(names, self.kind if published else scope, published=published)
        own = self.own_groups(entries)
        if own is None:
            raise MedflError(f"{where}: {self._without_groups(entries)}")
        return PatchGroups(own, scope)

    def _group_table(self) -> Path | None:
        """The CSV of source groups: the one that is named, or one in a usual place, or None."""
        if self.spec.source_groups is None:
            return next((path for path in self.group_tables() if path.is_file()), None)
        table = Path(os.path.expanduser(self.spec.source_groups)).absolute()
        if not os.path.isfile(table):
            raise MedflError(
                f"{self.spec.where}: `data.source_groups` names {table}, which is no file; name a CSV with the columns "
                f"label,filename,source_group, or use one of the words filename and ignore"
            )
        return table

    def _without_groups(self, entries: Sequence[PatchEntry]) -> str:
        if self.augmentation:
            return (
                f"no source groups for {self.root}: {self.augmentation}; name a CSV with the columns "
                f"label,filename,source_group under `data.source_groups`, or set `source_groups: ignore`, which marks "
                f"every result as leaky"
            )
        return (
            f"{self.no_groups(entries)}, or set `source_groups: filename` (every image has a source of its own) or "
            f"`ignore` (marks every result as leaky)"
        )
