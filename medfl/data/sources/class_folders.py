"""`source: folder`: one folder per class, in it image files, or sub-folders, one per slide or patient.

Folder names are those of `task.classes`, or are mapped to them by a site's `labels`. One sub-folder name in two classes
is one patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medfl.data.images import image_names_below, is_ignored
from medfl.data.left_out import first_few, left_out
from medfl.data.sources.file_source import FileSource
from medfl.data.sources.source import PatchEntry
from medfl.data.sources.source_registry import register
from medfl.errors import MedflError


def visible_folders(root: Path) -> list[Path]:
    """The folders in `root`, sorted by name; hidden ones, those of systems and those that begin with __ are ignored."""
    names = (path for path in root.iterdir() if not is_ignored(path.name) and not path.name.startswith("__"))
    return sorted((path for path in names if path.is_dir()), key=lambda folder: folder.name)


@register
class ClassFolders(FileSource):
    """A folder per class below `data.root`."""

    kind = "folder"
    class_word = "folder"

    def check_root(self, root: Path, start: str) -> None:
        """Raise MedflError unless the root is a folder."""
        if not root.is_dir():
            raise MedflError(f"{start} {root}, which is no folder; name the folder that holds class folders")

    def class_folders(self) -> list[Path]:
        """The folders that stand for classes, sorted by name."""
        return visible_folders(self.root)

    def list_files(self) -> list[PatchEntry]:
        """Every image of every class folder, sorted by class folder and path below it."""
        entries = []
        for folder in self.class_folders():
            if not self.drops(folder.name):
                self.class_index(folder.name)  # also for a folder without images: it is misspelt all the same
            names = image_names_below(folder)
            below = folder.relative_to(self.root).as_posix()
            references = [f"{below}/{name}" for name in names]
            stray = self.outside(references)
            if stray is not None:
                raise MedflError(
                    f"{self.spec.where}: {self.path(stray)} is a link that leads out of {self.root} (`data.root`); "
                    f"copy what it names below that folder, or point `data.root` at a folder that holds both"
                )
            for name, reference in zip(names, references, strict=True):
                entries.append(PatchEntry(folder.name, name, reference))
        return sorted(entries, key=lambda entry: (entry.word, entry.key, entry.reference.split("/")))

    def left_out(self, references: Sequence[str]) -> list[str]:
        """Images below the root that are no patches."""
        return left_out(self.root, references)

    def own_groups(self, entries: Sequence[PatchEntry]) -> list[str] | None:
        """The sub-folders of the class folders, where every image lies in one."""
        if self.augmentation or not all("/" in entry.key for entry in entries):
            return None
        return [entry.key.split("/")[0] for entry in entries]

    def no_groups(self, entries: Sequence[PatchEntry]) -> str:
        """Sub-folders or a CSV are missing, or some images lie beside the sub-folders."""
        loose = [entry.reference for entry in entries if "/" not in entry.key]
        if len(loose) < len(entries):
            return (
                f"{len(loose)} of {len(entries)} images lie beside the patients' sub-folders, not in one: "
                f"{first_few(map(self.describe, loose))}; move them into one, or out of {self.root}"
            )
        return (
            f"nothing says which images of {self.root} come from one patient or slide; put them into sub-folders, "
            f"<class>/<patient>/..., or name a CSV with the columns label,filename,source_group under "
            f"`data.source_groups`"
        )
