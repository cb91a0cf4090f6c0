"""`source: csv`: a CSV `path,label,source_group`; paths are relative to the CSV's folder and stay inside it."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from medfl.data.sources.csv_table import read_rows
from medfl.data.sources.file_source import FileSource
from medfl.data.sources.source import PatchEntry
from medfl.data.sources.source_registry import register
from medfl.errors import MedflError


def _on_disk(folder: Path, text: str) -> Path:
    """The file of a listed path, links followed; another system may have written its name in another Unicode form."""
    forms = dict.fromkeys([text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)])
    paths = [Path(os.path.realpath(folder / form)) for form in forms]
    return next((path for path in paths if path.is_file()), paths[0])


@register
class CsvList(FileSource):
    """The images that a CSV lists."""

    kind = "csv"

    def check_root(self, root: Path, start: str) -> None:
        """Raise MedflError unless the root is a file."""
        if root.is_dir():
            raise MedflError(f"{start} the folder {root}; with `data.source: csv` it must name the CSV file")

    @functools.cached_property
    def folder(self) -> Path:
        """The CSV's folder."""
        return self.root.parent.resolve()

    def group_tables(self) -> list[Path]:
        """None: the CSV itself has a column for source groups."""
        return []

    def list_files(self) -> list[PatchEntry]:
        """The listed images, sorted by label and path."""
        folder, where = self.folder, self.spec.where
        entries: dict[Path, PatchEntry] = {}
        absent: list[str] = []
        columns = tuple(self.spec.subgroups)
        for row in read_rows(self.root, where, [("path", "label")], optional=("source_group", *columns)):
            text = row["path"].replace("\\", "/")
            path = _on_disk(folder, text)
            if not path.is_relative_to(folder):
                raise MedflError(
                    f"{where}: {self.root}, line {row.line}: {text} leads out of the CSV's folder; put the images "
                    f"below {folder}"
                )
            if not path.is_file():
                absent.append(text)
            elif path in entries:
                raise MedflError(f"{where}: {self.root}, line {row.line}: {text} is listed twice; remove one row")
            else:
                reference = path.relative_to(folder).as_posix()
                cells = row.part(columns)
                entries[path] = PatchEntry(row["label"], reference, reference, row.get("source_group", ""), cells)
        if absent:
            raise MedflError(
                f"{where}: {len(absent)} of {len(absent) + len(entries)} files listed in {self.root} do not exist, the "
                f"first is {absent[0]}; correct the paths, which are relative to the CSV's folder"
            )
        return sorted(entries.values(), key=lambda entry: (entry.word, entry.key))

    def own_groups(self, entries: Sequence[PatchEntry]) -> list[str] | None:
        """The column `source_group`, where it is filled throughout."""
        return [entry.group for entry in entries] if all(entry.group for entry in entries) else None

    def no_groups(self, entries: Sequence[PatchEntry]) -> str:
        """Cells of the column are missing."""
        lacking = sum(not entry.group for entry in entries)
        return f"{lacking} of {len(entries)} rows of {self.root} have no source_group; fill the column"
